// The CPU's caching allocator: freed blocks are kept by size class and reused, so that a training step in its steady
// state asks the system for nothing. A header before each block holds its class and tag.
#include "binade/core/backend/memory.h"

#include <bit>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "binade/core/backend/kernel_slot.h"
#include "binade/core/base/error.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool caching = false;  // the sanitizer must see every free
#else
constexpr bool caching = true;
#endif

struct alignas(64) Header {
  std::size_t capacity;  // bytes after the header
  MemoryTag tag;
};

thread_local MemoryTag current_tag = MemoryTag::activations;

// Eight classes per power of two: at most 12.5 % is wasted.
std::size_t size_class(std::size_t bytes) {
  if (bytes <= 512) return (std::max<std::size_t>(bytes, 1) + 63) / 64 * 64;
  const std::size_t step = std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}

class CpuAllocator {
 public:
  std::byte* allocate(std::size_t bytes) {
    const std::size_t capacity = size_class(bytes);
    const std::lock_guard lock(mutex_);
    Header* header = take_cached(capacity);
    if (!header) header = from_system(capacity, bytes);
    header->tag = current_tag;
    account(current_tag, capacity);
    return reinterpret_cast<std::byte*>(header + 1);
  }

  void deallocate(std::byte* block) {
    Header* header = reinterpret_cast<Header*>(block) - 1;
    const std::lock_guard lock(mutex_);
    stats_.current[static_cast<std::size_t>(header->tag)] -= header->capacity;
    stats_.current_total -= header->capacity;
    if (caching) {
      cached_[header->capacity].push_back(header);
    } else {
      to_system(header);
    }
  }

  void release() {
    const std::lock_guard lock(mutex_);
    release_locked();
  }

  MemoryStats stats() {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

  void reset_peak() {
    const std::lock_guard lock(mutex_);
    stats_.peak = stats_.at_peak = stats_.current;
    stats_.peak_total = stats_.current_total;
  }

 private:
  Header* take_cached(std::size_t capacity) {
    const auto found = cached_.find(capacity);
    if (found == cached_.end() || found->second.empty()) return nullptr;
    Header* header = found->second.back();
    found->second.pop_back();
    return header;
  }

  Header* from_system(std::size_t capacity, std::size_t requested) {
    void* memory = std::aligned_alloc(64, capacity + sizeof(Header));
    if (!memory) {  // return what is cached and try once more
      release_locked();
      memory = std::aligned_alloc(64, capacity + sizeof(Header));
    }
    check(memory != nullptr, "memory: out of memory on cpu: requested ", requested, " bytes, ", stats_.current_total,
          " in use; a smaller batch or checkpoint() needs less");
    stats_.reserved += capacity;
    ++stats_.system_allocations;
    auto* header = static_cast<Header*>(memory);
    header->capacity = capacity;
    return header;
  }

  void to_system(Header* header) {
    stats_.reserved -= header->capacity;
    std::free(header);
  }

  void release_locked() {
    for (auto& [capacity, headers] : cached_) {
      for (Header* header : headers) to_system(header);
      headers.clear();
    }
  }

  void account(MemoryTag tag, std::size_t capacity) {
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

  std::mutex mutex_;
  std::unordered_map<std::size_t, std::vector<Header*>> cached_;
  MemoryStats stats_;
};

CpuAllocator& cpu_allocator() {
  static auto* allocator = new CpuAllocator;  // never destroyed: tensors may outlive main
  return *allocator;
}

void check_cpu(Device device) {
  check(device.type == DeviceType::cpu, "memory: this build has no CUDA backend, asked for ", to_text(device));
}

}  // namespace

std::string_view name(MemoryTag tag) {
  constexpr std::array<std::string_view, memory_tags> names{"activations", "parameters", "gradients",
                                                            "optimizer",   "data",       "scratch"};
  return names.at(static_cast<std::size_t>(tag));
}

MemoryTagScope::MemoryTagScope(MemoryTag tag) : previous_(current_tag) { current_tag = tag; }
MemoryTagScope::~MemoryTagScope() { current_tag = previous_; }

std::byte* allocate(std::size_t bytes, Device device) {
  check_cpu(device);
  return cpu_allocator().allocate(bytes);
}
void deallocate(std::byte* block, Device) noexcept { cpu_allocator().deallocate(block); }

MemoryStats memory_stats(Device device) {
  check_cpu(device);
  return cpu_allocator().stats();
}
void reset_peak_memory(Device device) {
  check_cpu(device);
  cpu_allocator().reset_peak();
}
void release_cached_memory(Device device) {
  check_cpu(device);
  cpu_allocator().release();
}

Scratch::Scratch(std::size_t bytes, Device device) : device_(device) {
  const MemoryTagScope tag(MemoryTag::scratch);
  block_ = allocate(bytes, device);
}
Scratch::~Scratch() { deallocate(block_, device_); }

Storage::Storage(std::size_t size, Device where) : bytes(size), device(where) {
  load_backend(where.type);  // before any kernel can be called on this memory
  data = allocate(size, where);
}
Storage::~Storage() { deallocate(data, device); }

}  // namespace binade
