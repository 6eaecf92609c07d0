// Kernel slots of binary_cross_entropy. All views have one shape and one floating dtype.
#pragma once
#include "binade/core/backend/kernel_slot.h"

namespace binade::kernel {

// loss = -(target max(log p, -100) + (1 - target) max(log(1 - p), -100)). A p outside [0, 1] throws Error on the CPU; a
// backend that cannot tell without waiting for its device gives NaN.
inline KernelSlot<void(TensorView p, TensorView target, TensorView loss)> binary_cross_entropy{"binary_cross_entropy"};
// dp = dloss (p - target) / max(p (1 - p), 1e-12); dtarget = dloss (max(log(1 - p), -100) - max(log p, -100)).
// dp and dtarget may be absent.
inline KernelSlot<void(TensorView p, TensorView target, TensorView dloss, TensorView dp, TensorView dtarget)>
    binary_cross_entropy_backward{"binary_cross_entropy_backward"};

}  // namespace binade::kernel
