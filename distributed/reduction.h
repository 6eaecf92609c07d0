// The local half of every reduction: the ranks' contributions, already here, combined in one fixed binary tree.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "binade/core/base/dtype.h"
#include "binade/distributed/process_group.h"

namespace binade::dist {

// out[i] = parts[0][i] op parts[1][i] op ..., `count` elements of `dtype`, in FP32 (f64: FP64; integers: 64 bits), rounded
// once. Neighbours are combined first: ((0 1) (2 3)) ((4 5) (6 7)), so that for powers of two a tree over fewer ranks is
// a subtree. `out` may be one of the parts.
void reduce_parts(ReduceOp op, DType dtype, std::span<const std::byte* const> parts, std::byte* out, std::int64_t count);

}  // namespace binade::dist
