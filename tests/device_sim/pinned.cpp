#include "pinned.h"

#include <sys/mman.h>

#include <cstdio>

#include "findings.h"
#include "settings.h"

namespace simt {

namespace {
constexpr std::size_t page = 4096;
}

PinnedMemory& pinned_memory() {
  static auto* memory = new PinnedMemory;
  return *memory;
}

void* PinnedMemory::allocate(std::size_t bytes) {
  const std::size_t mapped = (bytes + page - 1) / page * page;
  void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  blocks_.emplace(address_of(p), Block{address_of(p), bytes, mapped, {}});
  return p;
}

bool PinnedMemory::release(void* p) {
  const auto found = blocks_.find(address_of(p));
  if (found == blocks_.end()) return false;
  const Block& block = found->second;
  if (!block.pending.empty()) {
    report("pinned-in-flight", "cudaFreeHost of " + std::to_string(block.bytes) + " bytes that a queued " +
                                   block.pending.front().operation + " still uses");
  }
  munmap(p, block.mapped_bytes);
  blocks_.erase(found);
  return true;
}

const PinnedMemory::Block* PinnedMemory::find(Address a, std::size_t bytes) const {
  auto after = blocks_.upper_bound(a);
  if (after == blocks_.begin()) return nullptr;
  const Block& block = (--after)->second;
  return a + bytes <= block.address + block.bytes ? &block : nullptr;
}

void PinnedMemory::protect(const Block& block) const {
  if (!settings().protect) return;
  mprotect(reinterpret_cast<void*>(block.address), block.mapped_bytes, PROT_READ | PROT_WRITE);
  if (open_) return;
  for (const bool device_writes : {false, true}) {  // the stricter protection last
    for (const Pending& p : block.pending) {
      if (p.device_writes != device_writes) continue;
      const Address first = (p.first + page - 1) / page * page;
      const bool to_the_end = p.last == block.address + block.bytes;
      const Address last = to_the_end ? block.address + block.mapped_bytes : p.last / page * page;
      if (first < last) mprotect(reinterpret_cast<void*>(first), last - first, device_writes ? PROT_NONE : PROT_READ);
    }
  }
}

void PinnedMemory::add_pending(const void* p, std::size_t bytes, bool device_writes, Stamp stamp, const char* operation) {
  const auto* found = find(address_of(p), bytes);
  if (!found || bytes == 0) return;
  Block& block = blocks_.at(found->address);
  block.pending.push_back({address_of(p), address_of(p) + bytes, device_writes, stamp, operation});
  protect(block);
}

void PinnedMemory::host_waited(const Clock& host) {
  for (auto& [address, block] : blocks_) {
    if (std::erase_if(block.pending, [&](const Pending& p) { return host.covers(p.stamp); })) protect(block);
  }
}

void PinnedMemory::open() {
  if (open_++ > 0) return;
  for (const auto& [address, block] : blocks_) {
    if (!block.pending.empty()) protect(block);
  }
}

void PinnedMemory::close() {
  if (--open_ > 0) return;
  for (const auto& [address, block] : blocks_) {
    if (!block.pending.empty()) protect(block);
  }
}

std::string PinnedMemory::describe(Address a) const {
  auto after = blocks_.upper_bound(a);
  if (after == blocks_.begin()) return "";
  const Block& block = (--after)->second;
  if (a >= block.address + block.mapped_bytes || block.pending.empty()) return "";
  for (const Pending& p : block.pending) {
    if (a < p.first || a >= p.last) continue;
    char text[200];
    std::snprintf(text, sizeof text, "byte %zu of %zu page-locked bytes, which a queued %s %s: nothing waited for it",
                  a - block.address, block.bytes, p.operation, p.device_writes ? "has yet to write" : "has yet to read");
    return text;
  }
  return "";
}

void PinnedMemory::forget_all() {
  for (auto& [address, block] : blocks_) {
    block.pending.clear();
    munmap(reinterpret_cast<void*>(block.address), block.mapped_bytes);
  }
  blocks_.clear();
}

}  // namespace simt
