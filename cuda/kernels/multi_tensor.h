// Kernels over the elements of many tensors at once. As many tensors as fit a kernel's parameters share a launch (after
// multi_tensor_apply of NVIDIA's Apex); their elements are cut into chunks, one block each, so that one large tensor does
// not wait for many small ones. Which chunk is cut where depends on the sizes alone.
#pragma once
#include "binade/cuda/kernels/operands.h"
// launch.h first
#include <vector>

namespace binade::cuda {

inline constexpr std::int64_t chunk_elements = 4 * block_threads * vector_length;

template <class Item, int capacity>
struct ItemTable {
  Item items[capacity];            // with a member count: elements
  unsigned first_chunk[capacity];  // of each item
  int size = 0;
};

struct Chunk {
  int item;
  std::int64_t begin, size;
};
template <class Item, int capacity>
__device__ __forceinline__ Chunk chunk_of_block(const ItemTable<Item, capacity>& table) {
  int i = 0;
  while (i + 1 < table.size && table.first_chunk[i + 1] <= blockIdx.x) ++i;
  const std::int64_t begin = (blockIdx.x - table.first_chunk[i]) * chunk_elements;
  const std::int64_t left = table.items[i].count - begin;
  return {i, begin, left < chunk_elements ? left : chunk_elements};
}

// launch_table(table, config, first): `first` is the number of the table's first item.
template <int capacity, class Item, class Launch>
void for_tables(const std::vector<Item>& items, Device device, const Launch& launch_table) {
  for (std::size_t first = 0; first < items.size(); first += capacity) {
    ItemTable<Item, capacity> table{};
    std::int64_t chunks = 0;
    for (std::size_t i = first; i < std::min(items.size(), first + capacity); ++i) {
      table.items[table.size] = items[i];
      table.first_chunk[table.size++] = static_cast<unsigned>(chunks);
      chunks += (items[i].count + chunk_elements - 1) / chunk_elements;
    }
    if (chunks > 0) launch_table(table, one_thread_each(chunks * block_threads, device), first);
  }
}

// Flags and scalars a kernel reads where they lie: f32, or null.
inline const float* flag_of(const TensorView& x) { return x ? x.as<const float>() : nullptr; }
__device__ __forceinline__ bool is_set(const float* flag) { return flag && *flag != 0.0F; }

// a b + c, rounded once for floats: what the CPU's vectors do.
__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return a * b + c; }

}  // namespace binade::cuda
