// Dropout of contiguous elements, for kernels that do more with them.
#pragma once
#include <cstddef>
#include <cstdint>

#include "binade/core/base/dtype.h"
#include "binade/core/base/random.h"

namespace binade::cpu {

// y[i] = what dropout stores of element first + i of a tensor, which is x[i]; both of one arithmetic dtype.
void dropout_run(const std::byte* x, std::byte* y, DType dtype, std::int64_t first, std::int64_t count,
                 PhiloxState state, double p);

}  // namespace binade::cpu
