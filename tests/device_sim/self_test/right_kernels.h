// Kernels without a mistake, one for each thing the emulator must be able to do.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace binade::test {

// y[row, :] = normalised x[row, :], one block per row that keeps it in dynamic shared memory. columns even.
void row_norm(const __nv_bfloat16* x, __nv_bfloat16* y, int rows, int columns, cudaStream_t stream);
// The same with one warp per row, 64 columns, rows any: the last block's warps end early.
void warp_row_norm(const __nv_bfloat16* x, __nv_bfloat16* y, int rows, cudaStream_t stream);
// y = a x + y, 16 bytes at a time with a scalar tail.
void axpy(float a, const float* x, float* y, std::int64_t n, cudaStream_t stream);
// sum[0] = sum of x by a tree in shared memory, then by the last block to finish: one launch, fixed order.
void sum_last_block(const float* x, float* partial, unsigned* done, float* sum, std::int64_t n, cudaStream_t stream);
// counts[v] += how often v comes up in x: atomics in shared and in global memory.
void histogram(const unsigned char* x, int* counts, int n, cudaStream_t stream);
// out[32 * i + lane]: result i of the warp operations listed in the kernel.
inline constexpr int warp_results = 17;
void warp_operations(unsigned* out, cudaStream_t stream);
// out[thread] of a 3-D block in a 3-D grid: its coordinates, packed; and barriers that count.
void coordinates(unsigned* out, dim3 grid, dim3 block, cudaStream_t stream);
// out[i]: the number of the thread, among 4 blocks of 64, that came by as number i.
void arrival_order(int* next, int* out, cudaStream_t stream);
void barrier_counts(int* out, cudaStream_t stream);
// Lane 0 tells its warp a number through shared memory, warps race ahead of each other: right with __syncwarp.
void warp_message(int* out, cudaStream_t stream);
// y = x rounded to FP8 E4M3, E5M2, BF16 pairs and FP16 pairs, widened again: four rows of n.
void narrow_formats(const float* x, float* y, int n, cudaStream_t stream);
// out[i] = table[i % 4], a constant of the program.
void read_constant(float* out, int n, cudaStream_t stream);
// Copies through a pointer that may lie in page-locked host memory.
void copy_words(const float* from, float* to, int n, cudaStream_t stream);
// Touches `bytes` of dynamic shared memory with one block.
void use_shared(float* out, int bytes, cudaStream_t stream);
// Host code of a kernel file, on host memory.
std::uint64_t host_sum(const std::uint64_t* words, int n);

}  // namespace binade::test
