#include "nccl_transport.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <thread>

#include "findings.h"

namespace simt::nccl {

// ---- shared memory

namespace {

constexpr std::uint32_t ready_mark = 0xb14ade05;

std::string segment_name(const ncclUniqueId& id) {
  std::uint64_t hash = 1469598103934665603U;
  for (const char c : id.internal) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  char name[64];
  std::snprintf(name, sizeof name, "/binade-simulated-nccl-%016llx", static_cast<unsigned long long>(hash));
  return name;
}
std::size_t segment_bytes(int size) {
  return sizeof(Segment) + sizeof(Ring) * static_cast<std::size_t>(size * size - 1);
}
std::shared_ptr<Segment> map(int file, std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return nullptr;
  return {static_cast<Segment*>(memory), [bytes](Segment* segment) { munmap(segment, bytes); }};
}

}  // namespace

std::shared_ptr<Segment> attach(const ncclUniqueId& id, int rank, int size) {
  const std::string name = segment_name(id);
  const std::size_t bytes = segment_bytes(size);
  if (rank == 0) shm_unlink(name.c_str());  // of a job that was killed
  const int file = shm_open(name.c_str(), rank == 0 ? O_CREAT | O_EXCL | O_RDWR : O_RDWR, 0600);
  if (file < 0) return nullptr;
  std::shared_ptr<Segment> segment;
  struct stat info {};
  if (rank == 0) {
    if (ftruncate(file, static_cast<off_t>(bytes)) == 0) segment = map(file, bytes);
    if (segment) {
      segment->creator = getpid();
      segment->size = size;
      segment->ready = ready_mark;
    }
  } else if (fstat(file, &info) == 0 && info.st_size >= static_cast<off_t>(bytes)) {
    segment = map(file, bytes);
    if (segment && (segment->ready != ready_mark || kill(segment->creator, 0) != 0)) segment = nullptr;
  }
  close(file);
  return segment;
}

void hide(const ncclUniqueId& id) { shm_unlink(segment_name(id).c_str()); }

std::size_t Ring::write(const void* from, std::size_t bytes) {
  const std::uint64_t end = written.load(std::memory_order_relaxed);
  const std::size_t count = std::min(bytes, capacity - filled()), first = std::min(count, capacity - end % capacity);
  std::memcpy(data + end % capacity, from, first);
  std::memcpy(data, static_cast<const std::byte*>(from) + first, count - first);
  written.store(end + count, std::memory_order_release);
  return count;
}

std::size_t Ring::read(void* to, std::size_t bytes) {
  const std::uint64_t begin = taken.load(std::memory_order_relaxed);
  const std::size_t count = std::min(bytes, filled()), first = std::min(count, capacity - begin % capacity);
  std::memcpy(to, data + begin % capacity, first);
  std::memcpy(static_cast<std::byte*>(to) + first, data, count - first);
  taken.store(begin + count, std::memory_order_release);
  return count;
}

std::string Header::text() const {
  constexpr const char* kinds[] = {"ncclBroadcast", "ncclAllReduce", "ncclReduceScatter", "ncclAllGather", "ncclSend or ncclRecv"};
  return std::string(kinds[kind]) + " of " + std::to_string(count) + " elements of type " + std::to_string(type) +
         (kind == broadcast ? " from rank " + std::to_string(root) : "") + " (call " + std::to_string(sequence) + ")";
}

// ---- one operation

Operation Exchange::operation() {
  return {.name = "an NCCL call",
          .run = [self = shared_from_this()](OperationContext& context) { return self->run(context); },
          .attempt = [self = shared_from_this()](OperationContext& context) { return self->attempt(context); }};
}

bool Exchange::check_memory(OperationContext& context) const {
  bool ok = true;
  const auto check = [&](const void* p, std::size_t bytes, Access access) {
    if (bytes) ok = ok && check_range(context.user(name_.c_str()), p, bytes, access);
  };
  for (const Transfer& t : transfers)
    if (t.device) check(t.data, t.bytes, t.send ? Access::read : Access::write);
  for (const auto& [p, bytes] : reads) check(p, bytes, Access::read);
  for (const auto& [p, bytes] : writes) check(p, bytes, Access::write);
  return ok;
}

bool Exchange::comes_later(std::size_t i) const {  // after another transfer with the same peer
  return std::any_of(transfers.begin(), transfers.begin() + static_cast<std::ptrdiff_t>(i), [&](const Transfer& other) {
    return other.peer == transfers[i].peer && other.send == transfers[i].send && !other.complete();
  });
}

// Some bytes of one transfer. A call that does not match leaves everything waiting, as in the library.
bool Exchange::advance(Transfer& t) {
  Ring& ring = t.send ? comm_->to(t.peer) : comm_->from(t.peer);
  std::size_t moved = 0;
  if (t.header_done < sizeof(Header)) {
    std::byte* header = reinterpret_cast<std::byte*>(t.send ? &t.header : &t.heard) + t.header_done;
    moved = t.send ? ring.write(header, sizeof(Header) - t.header_done) : ring.read(header, sizeof(Header) - t.header_done);
    t.header_done += moved;
    if (!t.send && t.header_done == sizeof(Header) && t.heard != t.header) {
      report("nccl-mismatch", "rank " + std::to_string(comm_->rank) + " is in " + t.header.text() + ", rank " +
                                  std::to_string(t.peer) + " in " + t.heard.text());
      silent_ = true;
      return false;
    }
  }
  if (t.header_done == sizeof(Header) && t.done < t.bytes) {
    const std::size_t now = t.send ? ring.write(t.data + t.done, t.bytes - t.done) : ring.read(t.data + t.done, t.bytes - t.done);
    t.done += now;
    moved += now;
  }
  return moved > 0;
}

bool Exchange::progress() {
  bool moved = false;
  for (std::size_t i = 0; i < transfers.size() && !silent_; ++i)
    if (!transfers[i].complete() && !comes_later(i)) moved = advance(transfers[i]) || moved;
  return moved;
}

bool Exchange::can_progress() const {
  if (silent_) return false;
  for (std::size_t i = 0; i < transfers.size(); ++i) {
    const Transfer& t = transfers[i];
    if (t.complete() || comes_later(i)) continue;
    if (t.send ? comm_->to(t.peer).filled() < Ring::capacity : comm_->from(t.peer).filled() > 0) return true;
  }
  return false;
}

std::string Exchange::missing() const {
  std::string ranks;
  for (const Transfer& t : transfers)
    if (!t.send && !t.complete()) ranks += (ranks.empty() ? "" : ", ") + std::to_string(t.peer);
  return ranks.empty() ? "the others do not take what it sends" : "nothing, or not all, came from rank " + ranks;
}

bool Exchange::attempt(OperationContext& context) {
  if (finished_ || broken_) return true;
  if (!started_) {
    started_ = true;
    broken_ = !check_memory(context);
    if (const std::optional<cudaError_t> error = injected_result("ncclAsyncError")) {
      comm_->async_error = static_cast<int>(*error);
      silent_ = true;
    }
    if (broken_) return true;
  }
  while (!comm_->aborted && progress()) {
  }
  if (comm_->aborted) {
    if (!comm_->abort_noted.exchange(true))
      std::fprintf(stderr, "simulated NCCL: rank %d was aborted in %s: %s\n", comm_->rank, name_.c_str(), missing().c_str());
    return finished_ = true;
  }
  if (!std::all_of(transfers.begin(), transfers.end(), [](const Transfer& t) { return t.complete(); }) || silent_) return false;
  if (finish) finish();
  return finished_ = true;
}

cudaError_t Exchange::run(OperationContext& context) {
  while (!attempt(context)) {
    const ClosedMemory closed;
    context.lock.unlock();
    for (int turn = 0; !can_progress() && !comm_->aborted; ++turn) {
      if (turn < 20) std::this_thread::yield();
      else std::this_thread::sleep_for(std::chrono::microseconds(std::min(20 + turn, 500)));
    }
    context.lock.lock();
  }
  return broken_ ? cudaErrorLaunchFailure : cudaSuccess;
}

}  // namespace simt::nccl
