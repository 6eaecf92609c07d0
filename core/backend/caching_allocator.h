// The caching allocator of one device: freed blocks are kept by size class and reused, so that a training step in its
// steady state asks the system for nothing. What is cached and counted is the same everywhere; where blocks come from
// and where their records lie differs. Reuse is ordered by the device's one compute stream, as all kernels are.
#pragma once
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "binade/core/backend/memory.h"

namespace binade {

class CachingAllocator {
 public:
  virtual ~CachingAllocator() = default;
  std::byte* allocate(std::size_t bytes, MemoryTag tag);
  void deallocate(std::byte* data);
  void release();  // returns unused blocks to the system
  MemoryStats stats();
  void reset_peak();

  // A pool's blocks are reused within it alone: the work a graph replays writes to them at any time. One is open at a
  // time; from open to leave, what is allocated comes from it. Closed, its blocks are everyone's.
  int open_pool();
  void leave_pool(int pool);
  void close_pool(int pool);

  // Eight classes per power of two: at most 12.5 % is wasted.
  static std::size_t size_class(std::size_t bytes);

 protected:
  static constexpr int shared_pool = 0;
  struct Block {
    std::byte* data;
    std::size_t capacity;
    MemoryTag tag;
    int pool = shared_pool;
  };
  virtual Block* from_system(std::size_t capacity) = 0;  // null when there is no memory left; sets data
  virtual void to_system(Block* block) = 0;
  virtual Block* block_of(std::byte* data) = 0;
  virtual std::string out_of_memory(std::size_t requested, const MemoryStats& stats) = 0;
  virtual bool caches() const { return true; }

 private:
  Block* take_cached(std::size_t capacity);
  Block* new_block(std::size_t capacity, std::size_t requested);
  void discard(Block* block);
  void release_locked();
  void account(MemoryTag tag, std::size_t capacity);

  std::mutex mutex_;
  using Cache = std::unordered_map<std::size_t, std::vector<Block*>>;  // by capacity
  std::unordered_map<int, Cache> cached_{{shared_pool, {}}};           // by pool
  int current_pool_ = shared_pool, pools_ = 0;
  MemoryStats stats_;
};

CachingAllocator& cpu_allocator();
CachingAllocator& cuda_allocator(int device);  // throws where there is no such device

// "activations 1.5 GiB, parameters 300 MiB": the largest tags first, for messages.
std::string largest_tags(const MemoryStats& stats);

}  // namespace binade
