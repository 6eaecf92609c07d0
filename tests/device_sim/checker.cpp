#include "checker.h"

#include <link.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <unordered_map>

#include "findings.h"
#include "grid.h"
#include "pinned.h"
#include "counters.h"
#include "settings.h"

namespace simt {

namespace {

const char* word(Access access) {
  return access == Access::read ? "read" : access == Access::write ? "write" : "atomic update";
}
const char* memory_word(Address a) { return is_shared_address(a) ? "shared" : "global"; }

// Reads by operations that the next reader is not ordered after; the cell holds only one.
std::unordered_multimap<Address, Stamp>& other_readers() {
  static auto* map = new std::unordered_multimap<Address, Stamp>;
  return *map;
}

// Whether what happened in `epoch`, an earlier operation, is ordered before the operation with this clock. Remembers a
// few answers, since neighbours in memory mostly have the same history.
class OrderCache {
 public:
  bool ordered(std::uint32_t epoch, const Clock& clock, std::uint32_t operation_epoch) {
    if (epoch == 0) return true;
    if (operation_ != operation_epoch) {
      known_.fill(0);
      operation_ = operation_epoch;
    }
    std::uint32_t& known = known_[epoch % known_.size()];
    if (known == epoch) return true;
    if (!clock.covers(epochs().owner(epoch))) return false;
    known = epoch;
    return true;
  }

 private:
  std::array<std::uint32_t, 256> known_{};
  std::uint32_t operation_ = 0;
};
OrderCache order_cache;

bool unchecked_kernel_ran = false;

bool is_constant(Address a) {  // in read-only data of the program or a library
  return dl_iterate_phdr(
             [](dl_phdr_info* info, std::size_t, void* address) {
               for (int i = 0; i < info->dlpi_phnum; ++i) {
                 const auto& h = info->dlpi_phdr[i];
                 if (h.p_type == PT_LOAD && !(h.p_flags & PF_W) &&
                     *static_cast<Address*>(address) - (info->dlpi_addr + h.p_vaddr) < h.p_memsz) {
                   return 1;
                 }
               }
               return 0;
             },
             &a) != 0;
}

std::string access_text(Address a, std::size_t bytes, Access access) {
  return std::string(word(access)) + " of " + std::to_string(bytes) + " bytes at " + device_memory().describe(a);
}

// ---- kernels

[[noreturn]] void race(Address a, std::size_t bytes, Access access, const char* earlier, unsigned thread,
                       bool other_block, const void* code) {
  the_grid().fail(cudaErrorLaunchFailure, other_block ? "block-race" : "shared-race",
                  access_text(a, bytes, access) + " after " + earlier + " by thread " + std::to_string(thread) +
                      (other_block ? " of another block, nothing orders them"
                                   : " of the block, no barrier between them (" + std::string(memory_word(a)) + " memory)"),
                  code);
}

[[noreturn]] void unordered(Address a, std::size_t bytes, Access access, const char* earlier, const char* operation,
                            const void* code) {
  the_grid().fail(cudaErrorLaunchFailure, "stream-order",
                  access_text(a, bytes, access) + " is not ordered after " + earlier + " by " + operation, code);
}

enum class Relation { ordered, same_block, other_block, other_operation };

Relation relation(Address a, std::uint32_t epoch, std::uint16_t warp_epoch, unsigned thread, unsigned multiplicity) {
  const Grid& grid = the_grid();
  if (epoch == 0) return Relation::ordered;
  if (epoch < grid.first_epoch()) {
    if (is_shared_address(a)) return Relation::ordered;
    return order_cache.ordered(epoch, grid.clock(), grid.first_epoch()) ? Relation::ordered : Relation::other_operation;
  }
  if (epoch < grid.block_epoch()) {
    return is_shared_address(a) || grid.published(epoch, thread) ? Relation::ordered : Relation::other_block;
  }
  const unsigned self = current.linear;
  if (epoch != epochs().now() || (thread == self && multiplicity == 0)) return Relation::ordered;
  if (multiplicity < 2 && thread / 32 == self / 32 && warp_epoch != the_grid().warp().epoch) return Relation::ordered;
  return Relation::same_block;
}

void judge(Address a, std::size_t bytes, Access access, Relation r, const char* earlier, unsigned thread,
           std::uint32_t epoch, const void* code) {
  if (r == Relation::ordered) return;
  if (r == Relation::other_operation) unordered(a, bytes, access, earlier, epochs().name(epoch), code);
  race(a, bytes, access, earlier, thread, r == Relation::other_block, code);
}

// One granule of two bytes; `mask` says which of them.
void check_races(Address granule, unsigned mask, Address a, std::size_t bytes, Access access, const void* code) {
  Cell& cell = cell_of(granule);
  const std::uint32_t now = epochs().now();
  const std::uint16_t warp_epoch = the_grid().warp().epoch;
  const unsigned self = current.linear;
  const bool both_atomic = access == Access::atomic && cell.write_atomic;
  if (cell.write_mask & mask) {
    const Relation r = relation(granule, cell.write_epoch, cell.write_warp, cell.writer, 0);
    if (!both_atomic || r == Relation::other_operation) {
      judge(a, bytes, access, r, cell.write_atomic ? "an atomic update" : "a write", cell.writer, cell.write_epoch, code);
    }
  }
  if (access != Access::read && (cell.read_mask & mask)) {
    const Relation r = relation(granule, cell.read_epoch, cell.read_warp, cell.reader, cell.readers);
    judge(a, bytes, access, r, "a read", cell.reader, cell.read_epoch, code);
    if (cell.read_elsewhere) {
      const auto [first, last] = other_readers().equal_range(granule);
      for (auto it = first; it != last; ++it) {
        if (!the_grid().clock().covers(it->second)) unordered(a, bytes, access, "a read", "another stream", code);
      }
      other_readers().erase(first, last);
      cell.read_elsewhere = 0;
    }
  }
  if (access != Access::read) {
    cell.write_epoch = now;
    cell.write_warp = warp_epoch;
    cell.writer = static_cast<std::uint16_t>(self & 1023);
    cell.write_mask = mask & 3;
    cell.write_atomic = access == Access::atomic;
    return;
  }
  if (cell.read_epoch != now) {
    if (cell.read_epoch && cell.read_epoch < the_grid().first_epoch() && is_device_address(granule) &&
        !order_cache.ordered(cell.read_epoch, the_grid().clock(), the_grid().first_epoch())) {
      other_readers().emplace(granule, epochs().owner(cell.read_epoch));
      cell.read_elsewhere = 1;
    }
    cell.readers = 0;
  } else if (cell.reader / 32 != self / 32) {
    cell.readers = 2;
  } else if (cell.readers != 2) {
    cell.readers = cell.read_warp == warp_epoch && (cell.readers || cell.reader != self);
  }
  cell.read_epoch = now;
  cell.read_warp = warp_epoch;
  cell.reader = static_cast<std::uint16_t>(self & 1023);
  cell.read_mask = mask & 3;
}

void check_device_access(Address a, std::size_t bytes, Access access, const void* code) {
  Grid& grid = the_grid();
  if (is_device_address(a) && device_of(a) != grid.device()) {
    grid.fail(cudaErrorIllegalAddress, "wrong-device",
              access_text(a, bytes, access) + ", but the kernel runs on device " + std::to_string(grid.device()), code);
  }
  std::uint8_t* state = state_of(a);
  bool fresh = true;
  for (std::size_t i = 0; i < bytes; ++i) {
    if (!(state[i] & state_allocated)) {
      const bool freed = device_memory().recently_freed(a + i);
      grid.fail(cudaErrorIllegalAddress, freed ? "use-after-free" : "out-of-bounds", access_text(a, bytes, access), code);
    }
    if (access != Access::write && !(state[i] & state_written)) {
      grid.fail(cudaErrorIllegalAddress, "uninitialised-read",
                access_text(a, bytes, access) + ", which nothing has written", code);
    }
    fresh = fresh && !(state[i] & state_written);
    if (access != Access::read) state[i] |= state_written;
  }
  if (fresh && is_device_address(a) && cell_of(a).write_epoch == 0) {  // the first use of this memory
    const Allocation* owner = device_memory().find(a);
    if (owner && !grid.clock().covers(owner->birth)) unordered(a, bytes, access, "its allocation", owner->api, code);
  }
  for (std::size_t i = 0; i < bytes;) {
    const Address granule = (a + i) & ~Address{1};
    const unsigned first = static_cast<unsigned>((a + i) & 1), count = std::min<unsigned>(2 - first, static_cast<unsigned>(bytes - i));
    check_races(granule, ((1U << count) - 1) << first, a, bytes, access, code);
    i += count;
  }
}

void check_host_access(Address a, std::size_t bytes, Access access, const void* code) {
  Grid& grid = the_grid();
  if (grid.on_stack(a) || grid.in_parameters(a) || a - address_of(&current) < sizeof current) return;
  if (pinned_memory().contains(a, bytes) || (access == Access::read && is_constant(a))) return;
  char text[100];
  std::snprintf(text, sizeof text, "%s of %zu bytes at 0x%zx, which is host memory", word(access), bytes, a);
  grid.fail(cudaErrorIllegalAddress, "host-pointer", text, code);
}

}  // namespace

void check_access(const volatile void* p, std::size_t bytes, Access access, bool must_be_aligned, const void* code) {
  const Address a = address_of(p);
  if (!the_grid().in_kernel()) return;  // host code of a kernel file; the protection watches it
  if (a - device_base >= device_end - device_base) return check_host_access(a, bytes, access, code);
  if (must_be_aligned && (bytes & (bytes - 1)) == 0 && (a & (bytes - 1))) {
    the_grid().fail(cudaErrorMisalignedAddress, "misaligned", access_text(a, bytes, access), code);
  }
  the_grid().count_bytes(a, bytes, access);
  if (settings().check) check_device_access(a, bytes, access, code);
}

// ---- whole ranges

bool check_range(const RangeUser& user, const void* p, std::size_t bytes, Access access, bool uninitialised_ok) {
  const Address a = address_of(p);
  const auto complain = [&](const char* kind, Address at, const std::string& text) {
    report(kind, std::string(user.operation) + ": " + word(access) + " of " + std::to_string(bytes) + " bytes at " +
                     device_memory().describe(a) + ": " + text +
                     (at == a ? "" : " (from byte " + std::to_string(at - a) + " of it on)"));
    return false;
  };
  if (bytes == 0) return true;
  if (!is_device_address(a)) return complain("bad-pointer", a, "not device memory");
  if (user.device >= 0 && device_of(a) != user.device) {
    return complain("wrong-device", a, "the operation runs on device " + std::to_string(user.device));
  }
  const bool judge_content = settings().check && !unchecked_kernel_ran;
  std::uint8_t* state = state_of(a);
  for (std::size_t i = 0; i < bytes; ++i) {
    if (!(state[i] & state_allocated)) {
      return device_memory().recently_freed(a + i) ? complain("use-after-free", a + i, "freed")
                                                   : complain("out-of-bounds", a + i, "outside the allocation");
    }
    if (judge_content && access != Access::write && !uninitialised_ok && !(state[i] & state_written)) {
      return complain("uninitialised-read", a + i, "never written");
    }
  }
  if (judge_content) {
    const Allocation* owner = device_memory().find(a);
    if (owner && !user.clock->covers(owner->birth)) {
      return complain("stream-order", a, "not ordered after its allocation by " + std::string(owner->api));
    }
    for (Address granule = a & ~Address{1}; granule < a + bytes; granule += 2) {
      Cell& cell = cell_of(granule);
      if (cell.write_epoch && !order_cache.ordered(cell.write_epoch, *user.clock, user.epoch)) {
        return complain("stream-order", granule, "not ordered after a write by " + std::string(epochs().name(cell.write_epoch)));
      }
      const bool after_read = !cell.read_epoch || order_cache.ordered(cell.read_epoch, *user.clock, user.epoch);
      if (access != Access::read) {
        if (!after_read) {
          return complain("stream-order", granule, "not ordered after a read by " + std::string(epochs().name(cell.read_epoch)));
        }
        if (cell.read_elsewhere) {
          const auto [first, last] = other_readers().equal_range(granule);
          for (auto it = first; it != last; ++it) {
            if (!user.clock->covers(it->second)) return complain("stream-order", granule, "not ordered after a read by another stream");
          }
          other_readers().erase(first, last);
          cell.read_elsewhere = 0;
        }
        cell.write_epoch = user.epoch;
        cell.write_mask = 3;
        cell.write_atomic = 0;
      } else {
        if (!after_read) {
          other_readers().emplace(granule, epochs().owner(cell.read_epoch));
          cell.read_elsewhere = 1;
        }
        cell.read_epoch = user.epoch;
        cell.read_mask = 3;
      }
    }
  }
  if (access != Access::read && !uninitialised_ok) set_state(a, bytes, state_allocated | state_written);
  return true;
}

void note_unchecked_kernel() { unchecked_kernel_ran = true; }
bool knows_writes() { return !unchecked_kernel_ran; }
void forget_unchecked_kernels() {
  unchecked_kernel_ran = false;
  other_readers().clear();
}

}  // namespace simt
