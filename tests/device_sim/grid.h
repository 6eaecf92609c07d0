// The executor of kernels: runs the blocks of a grid one after another, the threads of a block as a loop. A thread that
// must wait (barrier, warp operation) keeps its stack, and the loop goes on in a new fiber; a kernel without barriers
// never switches.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checker.h"
#include "memory.h"
#include "simt.h"

namespace simt {

inline constexpr unsigned max_block_threads = 1024;

struct Rendezvous {  // lanes of one mask that wait for each other
  unsigned arrived = 0, mask = 0;
  Site site;
};

struct Warp {
  std::array<Rendezvous, 33> groups;  // by the mask's lowest lane; disjoint masks differ in it. 32: the full mask
  std::array<std::uint64_t, 32> value, result;
  std::array<std::uint8_t, 32> source;
  std::array<std::uint16_t, 32> fiber;  // that waits, by lane
  unsigned alive = 0;
  std::uint16_t epoch = 0;  // how many __syncwarp
};

struct Fiber {
  void* stack_pointer = nullptr;
  Address stack = 0;  // lowest usable address
  uint3 thread{};
  unsigned linear = 0;
};

struct Release {  // what a block published before an atomic: everything before `epoch`, and `thread`'s own part of it
  std::uint32_t epoch;
  std::uint16_t thread;
};

struct GridRun {  // one launch
  dim3 grid, block;
  std::size_t dynamic_bytes = 0;
  const Kernel* kernel = nullptr;
  int device = 0;
  const Clock* clock = nullptr;
};

class Grid {
 public:
  cudaError_t run(const GridRun& launch);
  bool in_kernel() const { return on_this_thread_; }
  bool on_stack(Address a) const { return a - fibers_[fiber_].stack < stack_bytes; }
  bool in_parameters(Address a) const { return a - address_of(&parameters_) < sizeof parameters_; }
  bool checked() const { return launch_.kernel->checked; }
  int device() const { return launch_.device; }
  const Clock& clock() const { return *launch_.clock; }
  std::uint32_t first_epoch() const { return first_epoch_; }
  std::uint32_t block_epoch() const { return block_epochs_.back(); }
  std::uint32_t run_of_block(std::uint32_t epoch) const;  // which block of this launch an epoch belongs to
  Warp& warp() { return warps_[current.linear / 32]; }

  int barrier(int predicate, Site site);
  void* static_shared(const void* key, std::size_t bytes, std::size_t align);
  void* dynamic_shared() { return reinterpret_cast<void*>(shared_base); }

  // Meets the other lanes of `mask`. True in the last lane to come, which must compute the results and call `leave`;
  // the others return once it did.
  bool meet(unsigned mask, Site site);
  void leave(unsigned mask);

  void count_bytes(Address a, std::size_t bytes, Access access) {
    if (is_device_address(a)) (access == Access::read ? bytes_read_ : bytes_written_) += bytes;
  }
  std::uint64_t bytes_read() const { return bytes_read_; }
  std::uint64_t bytes_written() const { return bytes_written_; }

  // Ordering between blocks through memory: __threadfence, then an atomic; whoever touches the same word later sees it.
  void fence() { fenced_ = epochs().now(), fence_thread_ = current.linear; }
  void atomic_access(Address a);
  bool published(std::uint32_t epoch, unsigned thread) const;

  // Ends the launch from inside a kernel with an error that stays.
  [[noreturn]] void fail(cudaError_t error, const char* kind, std::string text, const void* code = nullptr);

  static constexpr std::size_t stack_bytes = std::size_t{64} << 10;

 private:
  static void fiber_entry();
  void run_threads();
  void begin_block(std::uint64_t index);
  unsigned new_fiber();
  void start(unsigned thread_number);
  void switch_from(unsigned from, unsigned to);
  void wait();
  void ready(unsigned fiber) { ready_[(ready_head_ + ready_count_++) % max_block_threads] = static_cast<std::uint16_t>(fiber); }
  unsigned next_ready();
  [[noreturn]] void stuck();
  std::uint64_t random();

  // Of the host's threads; others run host code of kernel files meanwhile. In a library's static block: read at every
  // access of a checked kernel.
  [[gnu::tls_model("initial-exec")]] static constinit thread_local bool on_this_thread_;

  GridRun launch_;
  unsigned threads_ = 0;
  std::vector<unsigned> order_;  // thread numbers in starting order; empty: forward
  std::uint64_t random_state_ = 1;

  std::array<Fiber, max_block_threads> fibers_;
  std::array<std::uint16_t, max_block_threads> free_fibers_, ready_, barrier_fibers_;
  unsigned fiber_count_ = 0, free_count_ = 0, ready_head_ = 0, ready_count_ = 0;
  unsigned fiber_ = 0;  // that runs
  void* main_stack_pointer_ = nullptr;

  unsigned next_thread_ = 0, finished_ = 0;
  unsigned barrier_waiting_ = 0;
  int barrier_predicates_ = 0, barrier_result_ = 0;
  Site barrier_site_;
  std::array<Warp, max_block_threads / 32> warps_;

  struct Static {
    const void* key;
    Address address;
  };
  std::vector<Static> statics_;
  std::size_t shared_used_ = 0;

  std::uint32_t first_epoch_ = 0;
  std::vector<std::uint32_t> block_epochs_;  // the first of each block so far
  std::uint32_t fenced_ = 0;
  unsigned fence_thread_ = 0;
  std::map<Address, std::map<std::uint32_t, Release>> releases_;  // by word: block -> what it published there
  std::map<std::uint32_t, Release> acquired_;                      // by the running block

  std::uint64_t bytes_read_ = 0, bytes_written_ = 0;  // of global memory, since the process began

  cudaError_t error_ = cudaSuccess;
  const char* failure_kind_ = "";
  std::string failure_;
  const void* failure_code_ = nullptr;

  alignas(16) std::byte parameters_[max_parameter_bytes];
};

Grid& the_grid();

std::string position();  // "block (0,0,0) thread (5,0,0)"
std::string text_of(Site site);

}  // namespace simt
