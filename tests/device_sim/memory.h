// The memory of the simulated devices: a fixed address plan (a pointer tells its device), allocations, one state byte
// per byte, and a race cell per two bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "order.h"

namespace simt {

using Address = std::uintptr_t;
inline Address address_of(const volatile void* p) { return reinterpret_cast<Address>(p); }

// ---- address plan

inline constexpr int max_devices = 8;
inline constexpr Address device_span = Address{4} << 30;
inline constexpr Address device_base = 0x200000000000;
inline constexpr Address shared_base = device_base + device_span * max_devices;  // one block runs at a time
inline constexpr std::size_t shared_bytes_max = 227 * 1024;
inline constexpr Address device_end = shared_base + (1 << 20);
inline constexpr Address state_base = 0x280000000000;
inline constexpr Address cell_base = 0x300000000000;

inline bool is_device_address(Address a) { return a - device_base < shared_base - device_base; }
inline bool is_shared_address(Address a) { return a - shared_base < device_end - shared_base; }
inline int device_of(Address a) { return is_device_address(a) ? static_cast<int>((a - device_base) / device_span) : -1; }
inline int device_of(const void* p) { return device_of(address_of(p)); }

// ---- shadow

inline constexpr std::uint8_t state_allocated = 1, state_written = 2;
inline std::uint8_t* state_of(Address a) { return reinterpret_cast<std::uint8_t*>(state_base + (a - device_base)); }

struct Cell {  // the last write and the last read of two bytes; the masks say of which
  std::uint32_t write_epoch, read_epoch;
  std::uint16_t writer : 10, write_mask : 2, write_atomic : 1, read_elsewhere : 1;
  std::uint16_t reader : 10, read_mask : 2, readers : 2;  // readers: 0 one thread, 1 several of a warp, 2 several warps
  std::uint16_t write_warp, read_warp;                    // the warp's epoch (__syncwarp count), truncated
};
static_assert(sizeof(Cell) == 16);
inline Cell& cell_of(Address a) { return reinterpret_cast<Cell*>(cell_base)[(a - device_base) / 2]; }

void set_state(Address a, std::size_t bytes, std::uint8_t state);
void copy_state(Address to, Address from, std::size_t bytes);  // written-ness of device memory, with the data

// ---- allocations

struct Allocation {
  Address address = 0;
  std::size_t bytes = 0;
  Address mapped = 0;  // whole pages; the allocation ends at their end, a guard page follows
  std::size_t mapped_bytes = 0;
  int device = 0;
  std::uint64_t serial = 0;
  const char* api = "";
  void* pool = nullptr;
  bool freeing = false;  // a stream-ordered free is queued
  Stamp birth;           // operations must be ordered after this one to use it
};

class DeviceMemory {
 public:
  // nullptr when the device is full. `api` is a string literal.
  const Allocation* allocate(int device, std::size_t bytes, const char* api, void* pool, Stamp birth);
  void release(Address address);
  Allocation* find(Address a);  // the live allocation containing `a`, or null
  std::string describe(Address a) const;  // "byte 12 of a 64-byte allocation (cudaMalloc #3, device 0)"
  bool recently_freed(Address a) const;
  const std::map<Address, Allocation>& live() const { return live_; }
  std::size_t used(int device) const { return used_[device]; }
  // Makes device memory readable and writable, or unreadable, for the host; nests.
  void open();
  void close();
  bool is_open() const { return open_ > 0; }
  void forget_all();  // every allocation, for tests

 private:
  void protect(const Allocation& a, bool readable) const;
  std::map<Address, Allocation> live_;
  std::map<Address, Allocation> freed_;                            // by address, the last owner
  std::multimap<std::pair<int, std::size_t>, Address> quarantine_;  // mapped blocks by (device, size), oldest first
  Address next_[max_devices]{};
  std::size_t used_[max_devices]{};
  std::uint64_t serial_ = 0;
  int open_ = 0;
};

DeviceMemory& device_memory();

}  // namespace simt
