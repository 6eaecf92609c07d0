// The elements of many tensors, cut into chunks of all tensors together, so that one large tensor does not wait for many
// small ones.
#pragma once
#include <algorithm>
#include <span>
#include <vector>

#include "binade/ops/cpu/threads.h"

namespace binade::cpu {

inline constexpr std::int64_t chunk_size = 16384;  // elements; five such float arrays fit a core's L2 cache
struct Chunk {
  std::size_t item;
  std::int64_t begin, size;
};
template <class Item>
std::vector<Chunk> chunks_of(std::span<const Item> items) {
  std::vector<Chunk> chunks;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::int64_t n = items[i].where().numel();
    for (std::int64_t begin = 0; begin < n; begin += chunk_size) {
      chunks.push_back({i, begin, std::min(chunk_size, n - begin)});
    }
  }
  return chunks;
}
template <class Body>  // body(chunk, its number)
void for_chunks(const std::vector<Chunk>& chunks, const Body& body) {
  parallel_for(static_cast<std::int64_t>(chunks.size()), 1, [&](std::int64_t c, std::int64_t) {
    body(chunks[static_cast<std::size_t>(c)], static_cast<std::size_t>(c));
  });
}

}  // namespace binade::cpu
