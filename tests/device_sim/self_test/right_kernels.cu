// Kernels without a mistake: what they exercise is said in right_kernels.h.
#ifndef BINADE_CUDA_LAUNCH_H
#include "binade/cuda/kernels/launch.h"
#endif
// launch.h first
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "right_kernels.h"

namespace binade::test {

namespace {

using bf16 = __nv_bfloat16;
using cuda::launch;
using cuda::LaunchConfig;

constexpr unsigned all_lanes = 0xffffffffU;

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(all_lanes, value, offset);
  return value;
}

// scratch: 33 floats of shared memory; every thread gets the sum.
__device__ __forceinline__ float block_sum(float value, float* scratch) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x < 32) {
    const float total = warp_sum(threadIdx.x < blockDim.x / 32 ? scratch[threadIdx.x] : 0.0F);
    if (threadIdx.x == 0) scratch[32] = total;
  }
  __syncthreads();
  const float total = scratch[32];
  __syncthreads();
  return total;
}

__global__ void __launch_bounds__(256) row_norm_kernel(const bf16* __restrict__ x, bf16* __restrict__ y, int columns) {
  DYN_SHARED(float, row);
  SHARED(float, scratch, 33);
  const std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * columns;
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x) * 2; i < columns; i += static_cast<int>(blockDim.x) * 2) {
    const float2 two = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(x + base + i));
    row[i] = two.x;
    row[i + 1] = two.y;
    sum += two.x + two.y;
  }
  const float mean = block_sum(sum, scratch) / static_cast<float>(columns);
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < columns; i += static_cast<int>(blockDim.x)) {
    squares += (row[i] - mean) * (row[i] - mean);
  }
  const float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(columns) + 1e-5F);
  for (int i = static_cast<int>(threadIdx.x); i < columns; i += static_cast<int>(blockDim.x)) {
    y[base + i] = __float2bfloat16((row[i] - mean) * scale);
  }
}

__global__ void __launch_bounds__(128) warp_row_norm_kernel(const bf16* __restrict__ x, bf16* __restrict__ y, int rows) {
  const int lane = static_cast<int>(threadIdx.x % 32), row = static_cast<int>(blockIdx.x * 4 + threadIdx.x / 32);
  if (row >= rows) return;
  const float2 two = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(x + row * 64 + lane * 2));
  const float mean = warp_sum(two.x + two.y) / 64;
  const float a = two.x - mean, b = two.y - mean;
  const float scale = rsqrtf(warp_sum(a * a + b * b) / 64 + 1e-5F);
  *reinterpret_cast<__nv_bfloat162*>(y + row * 64 + lane * 2) = __floats2bfloat162_rn(a * scale, b * scale);
}

__global__ void axpy_kernel(float a, const float* __restrict__ x, float* __restrict__ y, std::int64_t n) {
  std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
  if (i + 4 <= n) {
    const float4 u = *reinterpret_cast<const float4*>(x + i), v = *reinterpret_cast<const float4*>(y + i);
    *reinterpret_cast<float4*>(y + i) = make_float4(a * u.x + v.x, a * u.y + v.y, a * u.z + v.z, a * u.w + v.w);
    return;
  }
  for (; i < n; ++i) y[i] = a * x[i] + y[i];
}

__global__ void __launch_bounds__(256)
    sum_kernel(const float* __restrict__ x, float* partial, unsigned* done, float* sum, std::int64_t n) {
  SHARED(float, tree, 256);
  SHARED1(bool, last);
  const unsigned t = threadIdx.x;
  float own = 0;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + t; i < n;
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    own += x[i];
  }
  tree[t] = own;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half; half /= 2) {
    if (t < half) tree[t] += tree[t + half];
    __syncthreads();
  }
  if (t == 0) {
    partial[blockIdx.x] = tree[0];
    __threadfence();
    last = atomicInc(done, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && t == 0) {
    float total = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) total += partial[b];
    *sum = total;
  }
}

__global__ void histogram_kernel(const unsigned char* __restrict__ x, int* counts, int n) {
  SHARED(int, own, 16);
  if (threadIdx.x < 16) own[threadIdx.x] = 0;
  __syncthreads();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) atomicAdd(&own[x[i] % 16], 1);
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], own[threadIdx.x]);
}

__global__ void warp_operations_kernel(unsigned* out) {
  const unsigned lane = threadIdx.x;
  const unsigned half = lane < 16 ? 0x0000ffffU : 0xffff0000U;
  unsigned* r = out + lane;
  r[0 * 32] = __shfl_sync(all_lanes, lane * 10, 5);
  r[1 * 32] = __shfl_sync(all_lanes, lane * 10, static_cast<int>(lane + 1));  // wraps
  r[2 * 32] = __shfl_sync(all_lanes, lane, 3, 8);
  r[3 * 32] = __shfl_xor_sync(all_lanes, lane, 9);
  r[4 * 32] = __shfl_xor_sync(all_lanes, lane, 9, 8);  // leaves the segment: own value
  r[5 * 32] = __shfl_down_sync(all_lanes, lane, 3);
  r[6 * 32] = __shfl_down_sync(all_lanes, lane, 3, 8);
  r[7 * 32] = __shfl_up_sync(all_lanes, lane, 3);
  r[8 * 32] = __shfl_up_sync(all_lanes, lane, 3, 8);
  r[9 * 32] = __ballot_sync(all_lanes, lane % 3 == 0);
  r[10 * 32] = static_cast<unsigned>(__any_sync(all_lanes, lane == 31)) + 2 * static_cast<unsigned>(__all_sync(all_lanes, lane < 31));
  r[11 * 32] = lane < 16 ? __shfl_xor_sync(half, lane, 1) : __shfl_xor_sync(half, lane, 2);  // disjoint masks
  r[12 * 32] = __match_any_sync(all_lanes, lane % 5);
  r[13 * 32] = __reduce_add_sync(all_lanes, lane);
  r[14 * 32] = static_cast<unsigned>(__reduce_min_sync(all_lanes, 7 - static_cast<int>(lane)));
  r[15 * 32] = __reduce_or_sync(half, 1U << lane % 7);
  r[16 * 32] = static_cast<unsigned>(__shfl_xor_sync(all_lanes, static_cast<unsigned long long>(lane) << 33, 1) >> 33);
}

__global__ void coordinates_kernel(unsigned* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
      blockIdx.x | blockIdx.y << 4 | blockIdx.z << 8 | threadIdx.x << 12 | threadIdx.y << 18 | threadIdx.z << 24;
}

__global__ void arrival_order_kernel(int* next, int* out) {
  out[atomicAdd(next, 1)] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

__global__ void barrier_counts_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  out[t * 3] = __syncthreads_count(t % 3 == 0);
  out[t * 3 + 1] = __syncthreads_or(t == 95);
  out[t * 3 + 2] = __syncthreads_and(t < 95);
}

__global__ void warp_message_kernel(int* out) {
  SHARED(int, message, 4);
  const int t = static_cast<int>(threadIdx.x), w = t / 32;
  for (int round = 0; round < 3; ++round) {
    if (t % 32 == round) message[w] = 100 * w + round;
    __syncwarp();
    out[round * 128 + t] = message[w];
    __syncwarp();
  }
}

__global__ void narrow_formats_kernel(const float* __restrict__ x, float* __restrict__ y, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * 2;
  if (i >= n) return;
  const float2 two = *reinterpret_cast<const float2*>(x + i);
  y[i] = static_cast<float>(__nv_fp8_e4m3(two.x));
  y[i + 1] = static_cast<float>(__nv_fp8_e4m3(two.y));
  y[n + i] = static_cast<float>(__nv_fp8_e5m2(two.x));
  y[n + i + 1] = static_cast<float>(__nv_fp8_e5m2(two.y));
  *reinterpret_cast<float2*>(y + 2 * n + i) = __bfloat1622float2(__floats2bfloat162_rn(two.x, two.y));
  *reinterpret_cast<float2*>(y + 3 * n + i) = __half22float2(__floats2half2_rn(two.x, two.y));
}

__global__ void read_constant_kernel(float* out, int n) {
  constexpr static float table[4] = {1, 2, 4, 8};
  const int i = static_cast<int>(threadIdx.x);
  if (i < n) out[i] = table[i % 4];
}

__global__ void copy_words_kernel(const float* __restrict__ from, float* __restrict__ to, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) to[i] = from[i];
}

__global__ void use_shared_kernel(float* out, int words) {
  DYN_SHARED(float, memory);
  for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) memory[i] = static_cast<float>(i);
  __syncthreads();
  if (threadIdx.x == 0) out[0] = memory[words - 1];
}

unsigned blocks(std::int64_t n, int per_block) { return static_cast<unsigned>((n + per_block - 1) / per_block); }

}  // namespace

void row_norm(const bf16* x, bf16* y, int rows, int columns, cudaStream_t stream) {
  launch(LaunchConfig{dim3(static_cast<unsigned>(rows)), dim3(128), static_cast<std::size_t>(columns) * 4, stream}, row_norm_kernel, x, y, columns);
}
void warp_row_norm(const bf16* x, bf16* y, int rows, cudaStream_t stream) {
  launch(LaunchConfig{dim3(blocks(rows, 4)), dim3(128), 0, stream}, warp_row_norm_kernel, x, y, rows);
}
void axpy(float a, const float* x, float* y, std::int64_t n, cudaStream_t stream) {
  launch(LaunchConfig{dim3(blocks(n, 256)), dim3(64), 0, stream}, axpy_kernel, a, x, y, n);
}
void sum_last_block(const float* x, float* partial, unsigned* done, float* sum, std::int64_t n, cudaStream_t stream) {
  launch(LaunchConfig{dim3(8), dim3(256), 0, stream}, sum_kernel, x, partial, done, sum, n);
}
void histogram(const unsigned char* x, int* counts, int n, cudaStream_t stream) {
  launch(LaunchConfig{dim3(blocks(n, 128)), dim3(128), 0, stream}, histogram_kernel, x, counts, n);
}
void warp_operations(unsigned* out, cudaStream_t stream) {
  launch(LaunchConfig{dim3(1), dim3(32), 0, stream}, warp_operations_kernel, out);
}
void coordinates(unsigned* out, dim3 grid, dim3 block, cudaStream_t stream) {
  launch(LaunchConfig{grid, block, 0, stream}, coordinates_kernel, out);
}
void arrival_order(int* next, int* out, cudaStream_t stream) {
  launch(LaunchConfig{dim3(4), dim3(64), 0, stream}, arrival_order_kernel, next, out);
}
void barrier_counts(int* out, cudaStream_t stream) {
  launch(LaunchConfig{dim3(1), dim3(96), 0, stream}, barrier_counts_kernel, out);
}
void warp_message(int* out, cudaStream_t stream) {
  launch(LaunchConfig{dim3(1), dim3(128), 0, stream}, warp_message_kernel, out);
}
void narrow_formats(const float* x, float* y, int n, cudaStream_t stream) {
  launch(LaunchConfig{dim3(blocks(n, 64)), dim3(32), 0, stream}, narrow_formats_kernel, x, y, n);
}
void read_constant(float* out, int n, cudaStream_t stream) {
  launch(LaunchConfig{dim3(1), dim3(32), 0, stream}, read_constant_kernel, out, n);
}
void copy_words(const float* from, float* to, int n, cudaStream_t stream) {
  launch(LaunchConfig{dim3(blocks(n, 64)), dim3(64), 0, stream}, copy_words_kernel, from, to, n);
}
void use_shared(float* out, int bytes, cudaStream_t stream) {
  launch(LaunchConfig{dim3(1), dim3(64), static_cast<std::size_t>(bytes), stream}, use_shared_kernel, out, bytes / 4);
}
std::uint64_t host_sum(const std::uint64_t* words, int n) {
  std::uint64_t sum = 0;
  for (int i = 0; i < n; ++i) sum += words[i];
  return sum;
}

}  // namespace binade::test
