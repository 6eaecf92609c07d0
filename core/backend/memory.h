// Memory of every device: caching allocators behind one door, and statistics by what the memory is for.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "binade/core/base/device.h"

namespace binade {

enum class MemoryTag { activations, parameters, gradients, optimizer, data, scratch };
inline constexpr int memory_tags = 6;
std::string_view name(MemoryTag tag);

struct MemoryStats {  // bytes
  std::array<std::size_t, memory_tags> current{}, peak{};  // by tag; `peak` is each tag's own maximum
  std::array<std::size_t, memory_tags> at_peak{};          // by tag, at the moment of peak_total
  std::size_t current_total = 0, peak_total = 0;
  std::size_t reserved = 0;           // held from the system, in use or cached
  std::uint64_t allocations = 0;      // requests served
  std::uint64_t system_allocations = 0;  // requests that had to go to the system
};
MemoryStats memory_stats(Device device = {});
void reset_peak_memory(Device device = {});
void release_cached_memory(Device device = {});  // returns unused blocks to the system
std::string bytes_text(std::size_t bytes);       // "512 bytes", "1.5 GiB"

// Allocations of this thread carry `tag` until the end of the scope.
class MemoryTagScope {
 public:
  explicit MemoryTagScope(MemoryTag tag);
  ~MemoryTagScope();
  MemoryTagScope(const MemoryTagScope&) = delete;
  MemoryTagScope& operator=(const MemoryTagScope&) = delete;

 private:
  MemoryTag previous_;
};

// For storage and kernels. Blocks are aligned to 64 bytes; throws Error when memory runs out.
std::byte* allocate(std::size_t bytes, Device device);
void deallocate(std::byte* block, Device device) noexcept;

class Scratch {  // memory for the time of one kernel
 public:
  Scratch(std::size_t bytes, Device device);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(block_);
  }

 private:
  std::byte* block_;
  Device device_;
};

}  // namespace binade
