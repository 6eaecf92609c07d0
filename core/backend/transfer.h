// Values between devices: the kernels of one device never see another's memory.
#pragma once
#include "binade/core/tensor/tensor_impl.h"

namespace binade {

// target = source, converted to target's dtype on the source's device; shapes agree, either may be strided. `target` may
// be plain host memory seen as a CPU view. Returns when the host's side may be read or changed.
void transfer(const TensorView& source, const TensorView& target);

}  // namespace binade
