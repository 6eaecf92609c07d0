// Page-locked host memory. While a copy from or to it is queued, the pages it covers are write-protected (source) or
// inaccessible (target) for the host until the host has waited for the copy: using them too early is a finding.
// Pages shared with something else (a slot smaller than a page in a larger block) stay as they are.
#pragma once
#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "memory.h"

namespace simt {

class PinnedMemory {
 public:
  void* allocate(std::size_t bytes);
  // False when `p` is no block. A block with copies in flight is a finding.
  bool release(void* p);
  bool contains(Address a, std::size_t bytes = 1) const { return find(a, bytes) != nullptr; }
  std::size_t count() const { return blocks_.size(); }

  // The operation `stamp` will read (or write) these bytes.
  void add_pending(const void* p, std::size_t bytes, bool device_writes, Stamp stamp, const char* operation);
  void host_waited(const Clock& host);  // copies it covers are done
  void open();                          // for the simulator's own accesses; nests
  void close();
  std::string describe(Address a) const;  // of an address in a protected block; empty: in none
  void forget_all();

 private:
  struct Pending {
    Address first, last;
    bool device_writes;
    Stamp stamp;
    const char* operation;
  };
  struct Block {
    Address address;
    std::size_t bytes, mapped_bytes;
    std::vector<Pending> pending;
  };
  const Block* find(Address a, std::size_t bytes) const;
  void protect(const Block& block) const;
  std::map<Address, Block> blocks_;
  int open_ = 0;
};

PinnedMemory& pinned_memory();

}  // namespace simt
