// Memory of the CPU and of CUDA devices behind one door, and what it is for.
#include "binade/core/backend/memory.h"

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "binade/core/backend/caching_allocator.h"
#include "binade/core/backend/kernel_slot.h"
#include "binade/core/backend/plugin.h"
#include "binade/core/base/error.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool caching = false;  // the sanitizer must see every free
#else
constexpr bool caching = true;
#endif

thread_local MemoryTag current_tag = MemoryTag::activations;

class CpuAllocator final : public CachingAllocator {
  struct alignas(64) Header {  // lies before the block
    Block block;
  };
  Block* from_system(std::size_t capacity) override {
    auto* header = static_cast<Header*>(std::aligned_alloc(64, capacity + sizeof(Header)));
    if (!header) return nullptr;
    header->block.data = reinterpret_cast<std::byte*>(header + 1);
    return &header->block;
  }
  void to_system(Block* block) override { std::free(reinterpret_cast<Header*>(block)); }
  Block* block_of(std::byte* data) override { return &(reinterpret_cast<Header*>(data) - 1)->block; }
  std::string out_of_memory(std::size_t requested, const MemoryStats& stats) override {
    return "on cpu: requested " + std::to_string(requested) + " bytes, " + std::to_string(stats.current_total) +
           " in use; a smaller batch or checkpoint() needs less";
  }
  bool caches() const override { return caching; }
};

class CudaAllocator final : public CachingAllocator {
 public:
  explicit CudaAllocator(int device) : device_(device), backend_(required_cuda_backend()) {}

 private:
  Block* from_system(std::size_t capacity) override {
    std::byte* data = backend_.allocate(capacity, device_);
    if (!data) return nullptr;
    auto record = std::make_unique<Block>();
    record->data = data;
    return (blocks_[data] = std::move(record)).get();
  }
  void to_system(Block* block) override {
    backend_.deallocate(block->data, device_);
    blocks_.erase(block->data);
  }
  Block* block_of(std::byte* data) override { return blocks_.at(data).get(); }
  std::string out_of_memory(std::size_t requested, const MemoryStats& stats) override {
    const DeviceMemory memory = backend_.memory(device_);
    return "on " + to_text(Device{DeviceType::cuda, device_}) + ": requested " + bytes_text(requested) + "; " +
           bytes_text(memory.free) + " free of " + bytes_text(memory.total) + ", " + bytes_text(stats.reserved) +
           " reserved by binade; in use: " + largest_tags(stats) +
           "; a smaller batch, checkpoint() or autocast needs less";
  }

  int device_;
  const DeviceBackend& backend_;
  std::unordered_map<std::byte*, std::unique_ptr<Block>> blocks_;  // the host cannot read headers in device memory
};

CachingAllocator& allocator_of(Device device) {
  return device.type == DeviceType::cpu ? cpu_allocator() : cuda_allocator(device.index);
}

}  // namespace

// Allocators are never destroyed: tensors may outlive main.
CachingAllocator& cpu_allocator() {
  static auto* allocator = new CpuAllocator;
  return *allocator;
}
CachingAllocator& cuda_allocator(int device) {
  static auto* allocators = [] {
    auto* all = new std::vector<std::unique_ptr<CudaAllocator>>;
    for (int d = 0; d < required_cuda_backend().device_count(); ++d) all->push_back(std::make_unique<CudaAllocator>(d));
    return all;
  }();
  check(device >= 0 && device < static_cast<int>(allocators->size()), "memory: there is no device ",
        to_text(Device{DeviceType::cuda, device}));
  return *(*allocators)[static_cast<std::size_t>(device)];
}

std::string_view name(MemoryTag tag) {
  constexpr std::array<std::string_view, memory_tags> names{"activations", "parameters", "gradients",
                                                            "optimizer",   "data",       "scratch"};
  return names.at(static_cast<std::size_t>(tag));
}

std::string bytes_text(std::size_t bytes) {
  constexpr const char* units[] = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return std::to_string(bytes) + " bytes";
  double value = static_cast<double>(bytes) / 1024;
  int unit = 0;
  while (value >= 1024 && unit < 3) {
    value /= 1024;
    ++unit;
  }
  char text[40];
  std::snprintf(text, sizeof text, "%.4g %s", value, units[unit]);
  return text;
}

MemoryTagScope::MemoryTagScope(MemoryTag tag) : previous_(current_tag) { current_tag = tag; }
MemoryTagScope::~MemoryTagScope() { current_tag = previous_; }

std::byte* allocate(std::size_t bytes, Device device) { return allocator_of(device).allocate(bytes, current_tag); }
void deallocate(std::byte* block, Device device) noexcept { allocator_of(device).deallocate(block); }

MemoryStats memory_stats(Device device) { return allocator_of(device).stats(); }
void reset_peak_memory(Device device) { allocator_of(device).reset_peak(); }
void release_cached_memory(Device device) { allocator_of(device).release(); }

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
