// NCCL's place on the simulated device: ranks are processes of one machine that share memory. Between every two of them
// lies a ring of bytes each way; a collective is a set of transfers through these rings, each led by a header that says
// what the sender is doing, so that calls that do not match are found.
#pragma once
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime.h"

namespace simt::nccl {

inline constexpr int most_ranks = 16;

struct Ring {  // one writer, one reader
  static constexpr std::size_t capacity = std::size_t{1} << 17;
  std::atomic<std::uint64_t> written, taken;
  std::byte data[capacity];
  std::size_t filled() const { return written.load(std::memory_order_acquire) - taken.load(std::memory_order_acquire); }
  std::size_t write(const void* from, std::size_t bytes);  // how many there was room for
  std::size_t read(void* to, std::size_t bytes);
};

struct Segment {  // what the ranks share; all zero at first
  std::atomic<std::uint32_t> ready;
  int creator, size;
  std::atomic<int> attached, finalized;
  std::atomic<int> devices[most_ranks];
  Ring rings[1];  // size * size: [from * size + to]
};
// Maps it; rank 0 makes it. Null while it is not there yet.
std::shared_ptr<Segment> attach(const ncclUniqueId& id, int rank, int size);
void hide(const ncclUniqueId& id);  // nobody else will come

struct Header {  // what a transfer is part of
  int kind = 0, type = 0, op = 0, root = 0;
  std::uint64_t count = 0, sequence = 0;
  friend bool operator==(const Header&, const Header&) = default;
  std::string text() const;
};
enum Kind : int { broadcast, all_reduce, reduce_scatter, all_gather, point_to_point };

struct Comm {
  ncclUniqueId id{};
  int rank = 0, size = 1, device = 0;
  std::shared_ptr<Segment> segment;  // null until joined
  std::atomic<bool> aborted = false, abort_noted = false;
  std::atomic<int> async_error = ncclSuccess;
  Ring& to(int peer) const { return segment->rings[rank * size + peer]; }
  Ring& from(int peer) const { return segment->rings[peer * size + rank]; }

  bool joined = false, finalizing = false;
  int settling = 0;                 // polls until the deferred operation is on its stream
  std::function<void(Lock&)> deferred;  // gives it to the stream
  std::uint64_t calls = 0, collectives = 0;
  std::string last_error;
};

struct Transfer {
  int peer = 0;
  bool send = false;
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  bool device = true;  // its memory, else the host's
  Header header{};
  Header heard{};
  std::size_t header_done = 0, done = 0;
  bool complete() const { return header_done == sizeof(Header) && done == bytes; }
};

// One operation of a stream: all its transfers at once, those with one peer in order, then `finish`.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(std::shared_ptr<Comm> comm, std::string name) : comm_(std::move(comm)), name_(std::move(name)) {}
  std::vector<Transfer> transfers;
  std::vector<std::pair<void*, std::size_t>> reads, writes;  // device memory beside the transfers
  std::function<void()> finish;
  std::vector<std::vector<std::byte>> host;  // memory that lives as long
  const std::shared_ptr<Comm>& comm() const { return comm_; }
  Operation operation();

 private:
  bool attempt(OperationContext& context);
  cudaError_t run(OperationContext& context);
  bool check_memory(OperationContext& context) const;
  bool progress();
  bool can_progress() const;
  bool advance(Transfer& t);
  bool comes_later(std::size_t i) const;
  std::string missing() const;

  std::shared_ptr<Comm> comm_;
  std::string name_;
  bool started_ = false, finished_ = false, broken_ = false, silent_ = false;
};

}  // namespace simt::nccl
