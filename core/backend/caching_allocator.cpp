#include "binade/core/backend/caching_allocator.h"

#include <algorithm>
#include <bit>

#include "binade/core/base/error.h"

namespace binade {

std::size_t CachingAllocator::size_class(std::size_t bytes) {
  if (bytes <= 512) return (std::max<std::size_t>(bytes, 1) + 63) / 64 * 64;
  const std::size_t step = std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}

std::byte* CachingAllocator::allocate(std::size_t bytes, MemoryTag tag) {
  const std::size_t capacity = size_class(bytes);
  const std::lock_guard lock(mutex_);
  Block* block = take_cached(capacity);
  if (!block) block = new_block(capacity, bytes);
  block->tag = tag;
  account(tag, capacity);
  return block->data;
}

void CachingAllocator::deallocate(std::byte* data) {
  const std::lock_guard lock(mutex_);
  Block* block = block_of(data);
  stats_.current[static_cast<std::size_t>(block->tag)] -= block->capacity;
  stats_.current_total -= block->capacity;
  if (caches()) {
    if (!cached_.contains(block->pool)) block->pool = shared_pool;  // closed since
    cached_[block->pool][block->capacity].push_back(block);
  } else {
    discard(block);
  }
}

void CachingAllocator::release() {
  const std::lock_guard lock(mutex_);
  release_locked();
}

int CachingAllocator::open_pool() {
  const std::lock_guard lock(mutex_);
  check(current_pool_ == shared_pool, "memory: a pool is open already: one graph is captured at a time");
  current_pool_ = ++pools_;
  cached_[current_pool_];
  return current_pool_;
}

void CachingAllocator::leave_pool(int pool) {
  const std::lock_guard lock(mutex_);
  if (current_pool_ == pool) current_pool_ = shared_pool;
}

void CachingAllocator::close_pool(int pool) {
  const std::lock_guard lock(mutex_);
  const auto closed = cached_.extract(pool);
  if (closed.empty()) return;
  for (auto& [capacity, blocks] : closed.mapped()) {
    for (Block* block : blocks) {
      block->pool = shared_pool;
      cached_[shared_pool][capacity].push_back(block);
    }
  }
}

MemoryStats CachingAllocator::stats() {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void CachingAllocator::reset_peak() {
  const std::lock_guard lock(mutex_);
  stats_.peak = stats_.at_peak = stats_.current;
  stats_.peak_total = stats_.current_total;
}

CachingAllocator::Block* CachingAllocator::take_cached(std::size_t capacity) {
  Cache& cache = cached_[current_pool_];
  const auto found = cache.find(capacity);
  if (found == cache.end() || found->second.empty()) return nullptr;
  Block* block = found->second.back();
  found->second.pop_back();
  return block;
}

CachingAllocator::Block* CachingAllocator::new_block(std::size_t capacity, std::size_t requested) {
  Block* block = from_system(capacity);
  if (!block && current_pool_ == shared_pool) {  // return what is cached and try once more
    release_locked();
    block = from_system(capacity);
  }
  if (!block) fail({"memory: out of memory ", out_of_memory(requested, stats_)});
  stats_.reserved += capacity;
  ++stats_.system_allocations;
  block->capacity = capacity;
  block->pool = current_pool_;
  return block;
}

void CachingAllocator::discard(Block* block) {
  stats_.reserved -= block->capacity;
  to_system(block);
}

void CachingAllocator::release_locked() {
  for (auto& [capacity, blocks] : cached_[shared_pool]) {
    for (Block* block : blocks) discard(block);
    blocks.clear();
  }
}

void CachingAllocator::account(MemoryTag tag, std::size_t capacity) {
  const auto t = static_cast<std::size_t>(tag);
  ++stats_.allocations;
  stats_.current[t] += capacity;
  stats_.current_total += capacity;
  stats_.peak[t] = std::max(stats_.peak[t], stats_.current[t]);
  if (stats_.current_total > stats_.peak_total) {
    stats_.peak_total = stats_.current_total;
    stats_.at_peak = stats_.current;
  }
}

std::string largest_tags(const MemoryStats& stats) {
  std::array<int, memory_tags> order{};
  for (int t = 0; t < memory_tags; ++t) order[static_cast<std::size_t>(t)] = t;
  const auto used = [&](int t) { return stats.current[static_cast<std::size_t>(t)]; };
  std::sort(order.begin(), order.end(), [&](int a, int b) { return used(a) > used(b); });
  std::string text;
  for (const int t : order) {
    if (used(t) == 0) break;
    if (!text.empty()) text += ", ";
    text += std::string(name(static_cast<MemoryTag>(t))) + ' ' + bytes_text(used(t));
  }
  return text.empty() ? "nothing" : text;
}

}  // namespace binade
