// Reductions within a warp and a block, always in the same order: the same bits whatever else runs.
#pragma once
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <algorithm>
#include <cstdint>

namespace binade::cuda {

inline constexpr unsigned whole_warp = 0xffffffffU;
inline constexpr int max_warps = 32;

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {  // NaN propagates
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b > a || b != b ? b : a;
  }
};

template <class T, class Combine>
__device__ __forceinline__ T reduce_warp(T value, const Combine& combine) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(whole_warp, value, distance));
  }
  return value;
}

// Of all threads of the block, for all of them. `shared`: max_warps values, free again when it returns.
template <class T, class Combine>
__device__ __forceinline__ T reduce_block(T value, T* shared, const Combine& combine) {
  value = reduce_warp(value, combine);
  const unsigned warps = blockDim.x / 32;
  if (warps == 1) return value;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared[0];
  for (unsigned w = 1; w < warps; ++w) value = combine(value, shared[w]);
  __syncthreads();
  return value;
}

// Threads for a row of n elements, `each` per thread and turn.
inline unsigned row_threads(std::int64_t n, std::int64_t each) {
  const std::int64_t wanted = (n + 32 * each - 1) / (32 * each) * 32;
  return static_cast<unsigned>(std::clamp<std::int64_t>(wanted, 32, 512));
}

}  // namespace binade::cuda
