#include "memory.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "settings.h"

namespace simt {

namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t quarantined = 8;  // freed blocks of one size that wait before their addresses are used again

std::size_t round_up(std::size_t n, std::size_t unit) { return (n + unit - 1) / unit * unit; }

void map_fixed(Address at, std::size_t bytes, int protection) {
  void* wanted = reinterpret_cast<void*>(at);
  void* got = mmap(wanted, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (got != wanted) {
    std::perror("simulated device: cannot reserve its address space");
    std::abort();
  }
}

}  // namespace

DeviceMemory& device_memory() {
  static DeviceMemory* memory = [] {
    map_fixed(device_base, shared_base - device_base, PROT_NONE);
    map_fixed(shared_base, device_end - shared_base, PROT_READ | PROT_WRITE);
    map_fixed(state_base, device_end - device_base, PROT_READ | PROT_WRITE);
    map_fixed(cell_base, (device_end - device_base) / 2 * sizeof(Cell), PROT_READ | PROT_WRITE);
    return new DeviceMemory;
  }();
  return *memory;
}

void set_state(Address a, std::size_t bytes, std::uint8_t state) { std::memset(state_of(a), state, bytes); }
void copy_state(Address to, Address from, std::size_t bytes) { std::memcpy(state_of(to), state_of(from), bytes); }

void DeviceMemory::protect(const Allocation& a, bool readable) const {
  mprotect(reinterpret_cast<void*>(a.mapped), a.mapped_bytes, readable ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void DeviceMemory::open() {
  if (open_++ > 0 || !settings().protect) return;
  for (const auto& [address, allocation] : live_) protect(allocation, true);
}

void DeviceMemory::close() {
  if (--open_ > 0 || !settings().protect) return;
  for (const auto& [address, allocation] : live_) protect(allocation, false);
}

const Allocation* DeviceMemory::allocate(int device, std::size_t bytes, const char* api, void* pool, Stamp birth) {
  const std::size_t aligned = round_up(bytes, 256), mapped = round_up(aligned, page);
  if (bytes > settings().memory || used_[device] + mapped > settings().memory) return nullptr;
  Address start = 0;
  const auto [oldest, end] = quarantine_.equal_range({device, mapped});
  const Address base = device_base + device_span * static_cast<Address>(device);
  if (!next_[device]) next_[device] = base + (1 << 20);
  const bool fits = next_[device] + mapped + page <= base + device_span;
  if (oldest != end && (!fits || static_cast<std::size_t>(std::distance(oldest, end)) >= quarantined)) {
    start = oldest->second;
    quarantine_.erase(oldest);
  } else if (fits) {
    start = next_[device];
    next_[device] += mapped + page;
  } else {
    return nullptr;
  }
  const Allocation a{.address = start + mapped - aligned, .bytes = bytes, .mapped = start, .mapped_bytes = mapped,
                     .device = device, .serial = ++serial_, .api = api, .pool = pool, .birth = birth};
  madvise(&cell_of(start), mapped / 2 * sizeof(Cell), MADV_DONTNEED);  // no history
  set_state(a.address, bytes, state_allocated);
  protect(a, true);
  std::memset(reinterpret_cast<void*>(a.address), 0xff, aligned);  // NaN: nobody may count on zeros
  if (settings().protect && !is_open()) protect(a, false);
  used_[device] += mapped;
  freed_.erase(freed_.lower_bound(start), freed_.lower_bound(start + mapped));  // former owners of these pages
  return &live_.emplace(a.address, a).first->second;
}

void DeviceMemory::release(Address address) {
  const auto found = live_.find(address);
  const Allocation a = found->second;
  live_.erase(found);
  set_state(a.address, a.bytes, 0);
  madvise(reinterpret_cast<void*>(a.mapped), a.mapped_bytes, MADV_DONTNEED);
  protect(a, false);
  used_[a.device] -= a.mapped_bytes;
  quarantine_.insert({{a.device, a.mapped_bytes}, a.mapped});
  freed_[a.address] = a;
}

Allocation* DeviceMemory::find(Address a) {
  auto after = live_.upper_bound(a);
  if (after == live_.begin()) return nullptr;
  Allocation& candidate = (--after)->second;
  return a < candidate.address + candidate.bytes ? &candidate : nullptr;
}

bool DeviceMemory::recently_freed(Address a) const {
  auto after = freed_.upper_bound(a);
  if (after == freed_.begin()) return false;
  const Allocation& candidate = (--after)->second;
  return a < candidate.address + candidate.bytes;
}

std::string DeviceMemory::describe(Address a) const {
  char text[200];
  if (is_shared_address(a)) {
    std::snprintf(text, sizeof text, "byte %zu of shared memory", a - shared_base);
    return text;
  }
  const Allocation* nearest = nullptr;
  const char* state = "";
  for (const auto* map : {&freed_, &live_}) {  // the live one wins
    auto after = map->upper_bound(a);
    if (after == map->begin()) continue;
    const Allocation& candidate = (--after)->second;
    if (a < candidate.mapped + candidate.mapped_bytes + page && (!nearest || candidate.address >= nearest->address)) {
      nearest = &candidate;
      state = map == &freed_ ? "freed " : "";
    }
  }
  if (!nearest) {
    std::snprintf(text, sizeof text, "address 0x%zx, near no allocation of device %d", a, device_of(a));
  } else {
    std::snprintf(text, sizeof text, "byte %zd of a %s%zu-byte allocation (%s #%llu, device %d)",
                  static_cast<std::ptrdiff_t>(a - nearest->address), state, nearest->bytes, nearest->api,
                  static_cast<unsigned long long>(nearest->serial), nearest->device);
  }
  return text;
}

void DeviceMemory::forget_all() {
  while (!live_.empty()) release(live_.begin()->first);
}

}  // namespace simt
