// Rows of a table by index, and the table's gradient: the sum of the rows of dy with the same index, in order of
// position. Positions are sorted by (index, position) with a bitonic network (Batcher 1968): keys are distinct, so the
// order, and with it every bit of the sums, is the same each time.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <bit>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/cuda/kernels/fault.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

using Key = std::uint64_t;  // index in the upper half, position in the lower
constexpr Key last_key = ~Key{0};
constexpr int sort_block = 1024;  // keys one block sorts in shared memory

// y[i, j] = weight[index[i], j]; a row that does not exist is noted and gives zeros.
__global__ void __launch_bounds__(block_threads, resident_blocks)
    embedding_kernel(Span weight, std::int64_t row_stride, std::int64_t column_stride, std::int64_t rows,
                     const std::int64_t* indices, std::int64_t index_stride, std::int64_t count, std::int64_t n, Span y,
                     std::int64_t element_bytes, IndexFault* fault) {
  const std::int64_t at = global_thread(), i = at / n, j = at % n;
  if (i >= count) return;
  const std::int64_t row = indices[i * index_stride];
  const bool known = row >= 0 && row < rows;
  if (!known && j == 0) note_fault(fault, IndexUser::embedding, i, row, rows);
  const std::byte* from = weight.data + (known ? row * row_stride + j * column_stride : 0) * element_bytes;
  std::byte* to = y.data + at * element_bytes;
  switch (element_bytes) {  // bits are moved, nothing is converted
    case 8:
      *reinterpret_cast<std::uint64_t*>(to) = known ? *reinterpret_cast<const std::uint64_t*>(from) : 0;
      break;
    case 4:
      *reinterpret_cast<std::uint32_t*>(to) = known ? *reinterpret_cast<const std::uint32_t*>(from) : 0;
      break;
    case 2:
      *reinterpret_cast<std::uint16_t*>(to) = known ? *reinterpret_cast<const std::uint16_t*>(from) : std::uint16_t{0};
      break;
    default:
      *reinterpret_cast<std::uint8_t*>(to) = known ? *reinterpret_cast<const std::uint8_t*>(from) : std::uint8_t{0};
      break;
  }
}

// Indices that do not exist, and the padding, sort to the end.
__global__ void __launch_bounds__(block_threads, resident_blocks)
    make_keys_kernel(const std::int64_t* indices, std::int64_t index_stride, std::int64_t count, std::int64_t rows,
                     Key* keys, std::int64_t padded, IndexFault* fault) {
  const std::int64_t i = global_thread();
  if (i >= padded) return;
  const std::int64_t row = i < count ? indices[i * index_stride] : -1;
  const bool known = row >= 0 && row < rows;
  if (!known && i < count) note_fault(fault, IndexUser::embedding, i, row, rows);
  keys[i] = known ? static_cast<Key>(row) << 32 | static_cast<Key>(i) : last_key;
}

__device__ __forceinline__ void order_pair(Key& a, Key& b, bool ascending) {
  if ((a > b) != ascending) return;
  const Key t = a;
  a = b;
  b = t;
}

// Steps `distance`, distance / 2, ... 1 of stage `stage` within blocks of sort_block keys; with `all_stages`, every
// stage up to it from the start. One thread per pair.
__global__ void __launch_bounds__(sort_block / 2) sort_block_kernel(Key* keys, std::int64_t stage, bool all_stages) {
  SHARED(Key, shared, sort_block);
  const std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * sort_block;
  shared[threadIdx.x] = keys[base + threadIdx.x];
  shared[threadIdx.x + sort_block / 2] = keys[base + threadIdx.x + sort_block / 2];
  for (std::int64_t size = all_stages ? 2 : stage; size <= stage; size *= 2) {
    const int widest = static_cast<int>(size / 2 < sort_block / 2 ? size / 2 : sort_block / 2);
    for (int distance = widest; distance > 0; distance /= 2) {
      __syncthreads();
      const int t = static_cast<int>(threadIdx.x), low = 2 * (t - t % distance) + t % distance;
      order_pair(shared[low], shared[low + distance], ((base + low) & size) == 0);
    }
  }
  __syncthreads();
  keys[base + threadIdx.x] = shared[threadIdx.x];
  keys[base + threadIdx.x + sort_block / 2] = shared[threadIdx.x + sort_block / 2];
}

// One step over pairs further apart than a block.
__global__ void __launch_bounds__(block_threads, resident_blocks)
    sort_step_kernel(Key* keys, std::int64_t pairs, std::int64_t stage, std::int64_t distance) {
  const std::int64_t t = global_thread();
  if (t >= pairs) return;
  const std::int64_t low = 2 * (t - t % distance) + t % distance;
  order_pair(keys[low], keys[low + distance], (low & stage) == 0);
}

// dweight[index] (+)= the sum of its rows of dy. Block (x: position in the sorted keys, y: columns); only the first
// position of each index works.
template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    sum_runs_kernel(const Key* keys, std::int64_t count, Span dy, Span dweight, std::int64_t n, bool accumulate) {
  const std::int64_t first = blockIdx.x, j = static_cast<std::int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  const Key key = keys[first];
  const Key row = key >> 32;
  if (key == last_key || (first > 0 && keys[first - 1] >> 32 == row) || j >= n) return;
  C sum = 0;
  for (std::int64_t i = first; i < count && keys[i] >> 32 == row; ++i) {
    sum += dy.get<C>(static_cast<std::int64_t>(keys[i] & 0xffffffffU) * n + j);
  }
  const std::int64_t at = static_cast<std::int64_t>(row) * n + j;
  dweight.set(at, accumulate ? dweight.get<C>(at) + sum : sum);
}

void embedding(TensorView weight, TensorView indices, TensorView y) {
  if (y.numel() == 0) return;
  launch(one_thread_each(y.numel(), y.device), embedding_kernel, span_of(weight), weight.stride(0), weight.stride(1),
         weight.size(0), indices.as<const std::int64_t>(), indices.stride(0), indices.size(0), weight.size(1),
         span_of(y), size_of(y.dtype), index_fault_of(y.device));
}

void sort(Key* keys, std::int64_t padded, Device device) {
  const LaunchConfig blocks{dim3(static_cast<unsigned>(padded / sort_block)), dim3(sort_block / 2), 0,
                            stream_of(device)};
  launch(blocks, sort_block_kernel, keys, std::int64_t{sort_block}, true);
  for (std::int64_t stage = 2 * sort_block; stage <= padded; stage *= 2) {
    for (std::int64_t distance = stage / 2; distance >= sort_block; distance /= 2) {
      launch(one_thread_each(padded / 2, device), sort_step_kernel, keys, padded / 2, stage, distance);
    }
    launch(blocks, sort_block_kernel, keys, stage, false);
  }
}

void embedding_backward(TensorView dy, TensorView indices, TensorView dweight, bool accumulate) {
  if (dweight.numel() == 0) return;
  const std::int64_t count = indices.size(0), rows = dweight.size(0), n = dweight.size(1);
  if (!accumulate) kernel::fill(dweight, 0);
  if (count == 0) return;
  check(count < std::int64_t{1} << 31 && rows < std::int64_t{1} << 31,
        "embedding: gradients on CUDA need fewer than 2^31 rows and indices, got ", rows, " and ", count);
  const auto padded =
      static_cast<std::int64_t>(std::max<std::uint64_t>(sort_block, std::bit_ceil(static_cast<std::uint64_t>(count))));
  const Scratch memory(static_cast<std::size_t>(padded) * sizeof(Key), dy.device);
  Key* keys = memory.as<Key>();
  launch(one_thread_each(padded, dy.device), make_keys_kernel, indices.as<const std::int64_t>(), indices.stride(0),
         count, rows, keys, padded, index_fault_of(dy.device));
  sort(keys, padded, dy.device);
  const unsigned threads = n >= block_threads ? block_threads : static_cast<unsigned>((n + 31) / 32 * 32);
  const LaunchConfig config{dim3(static_cast<unsigned>(count), static_cast<unsigned>((n + threads - 1) / threads)),
                            dim3(threads), 0, stream_of(dy.device)};
  const auto run = [&]<class C>(C) {
    launch(config, sum_runs_kernel<C>, static_cast<const Key*>(keys), count, span_of(dy), span_of(dweight), n,
           accumulate);
  };
  if (dy.dtype == DType::f64 || dweight.dtype == DType::f64) return run(double{});
  run(float{});
}

}  // namespace

void provide_embedding();
void provide_embedding() {
  kernel::embedding.provide(DeviceType::cuda, embedding);
  kernel::embedding_backward.provide(DeviceType::cuda, embedding_backward);
}

}  // namespace binade::cuda
