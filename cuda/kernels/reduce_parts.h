// The local half of a reduction over ranks, on the device: what distributed/reduction.h does on the CPU, to the bit.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "binade/core/backend/communicator.h"

namespace binade::cuda {

inline constexpr int most_ranks = 1024;

struct RankParts {  // `count` elements of every rank: rank r's at others + r * stride, but this rank's at `own`
  const std::byte* own = nullptr;
  const std::byte* others = nullptr;
  std::int64_t stride = 0;  // bytes
  int rank = 0, ranks = 1;
};

// out[i] = part 0 [i] op part 1 [i] op ..., in FP32 (f64: FP64; integers: 64 bits) in the tree ((0 1) (2 3)) ..., rounded
// once. `out` may be `own`. At most most_ranks ranks.
void reduce_parts(const RankParts& parts, dist::ReduceOp op, DType dtype, std::byte* out, std::int64_t count,
                  cudaStream_t stream);

}  // namespace binade::cuda
