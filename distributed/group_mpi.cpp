// Collectives over MPI's nonblocking messages. One thread owns all MPI calls, so that any MPI-3 will do, and carries the
// collectives out one after another while the caller computes.
//
// Of n bytes on N ranks every rank sends and receives: all_reduce 2n (N-1)/N, as a ring does: each rank reduces one part,
// in an order that does not depend on who comes first (reduction.h); reduce_scatter and all_gather half of it;
// broadcast 2n (N-1)/N at the root, about n elsewhere.
#include "binade/distributed/group_mpi.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <future>
#include <thread>

#include "binade/core/backend/plugin.h"
#include "binade/distributed/exchange.h"
#include "binade/distributed/reduction.h"
#include "binade/distributed/work_state.h"

namespace binade::dist {

namespace {

const MpiFunctions& load_mpi(const Launch& launch) {
  const char* chosen = std::getenv("BINADE_MPI_PLUGIN");
  const std::string path = chosen && *chosen ? chosen : library_folder() + "/libbinade_mpi.so";
  const std::string started = "dist::init: " + launch.launcher + " started " + to_text(launch.size) + " processes, but ";
  check(access(path.c_str(), F_OK) == 0, started, "this build has no MPI (no ", path, ")");
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);  // global: Open MPI loads parts that look for its symbols
  if (!library) fail({started, "MPI cannot be loaded: ", dlerror()});
  const auto entry = reinterpret_cast<MpiEntry>(dlsym(library, mpi_entry));
  const MpiFunctions* functions = entry ? entry() : nullptr;
  check(functions && functions->version == mpi_functions_version, started, path, " was built for another version of binade");
  return *functions;
}

// A rank that does not come may be on a host that cannot be reached. The launcher then would wait for it for ever: when this
// process ends it asks for the end of the job, once it has said what it has to say.
void abort_when_this_process_ends(const MpiFunctions& mpi) {
  static std::atomic<const MpiFunctions*> functions = nullptr;
  if (functions.exchange(&mpi)) return;
  std::atexit([] {
    std::fflush(nullptr);
    std::thread([] {
      std::this_thread::sleep_for(std::chrono::milliseconds(500));  // other ranks may have waited as long: they speak too
      functions.load()->abort();
    }).detach();
    std::this_thread::sleep_for(std::chrono::seconds(3));
    std::_Exit(1);  // nobody can be asked
  });
}

class MpiGroup final : public MpiProcessGroup {
 public:
  MpiGroup(const Launch& launch, GroupOptions options)
      : MpiProcessGroup(launch.rank, launch.size, Device{}),
        mpi_(load_mpi(launch)),
        options_(std::move(options)),
        exchange_(mpi_, launch.rank, launch.size, options_.timeout) {
    std::promise<void> initialised;
    thread_ = std::thread([&] { communicate(launch, initialised); });
    try {
      initialised.get_future().get();
    } catch (...) {
      thread_.join();
      throw;
    }
  }

  ~MpiGroup() override {
    {
      const std::lock_guard lock(mutex_);
      leaving_ = true;
      thrown_ = std::uncaught_exceptions() > exceptions_;
    }
    changed_.notify_all();
    thread_.join();
    if (problem_.empty()) return;
    std::fprintf(stderr, "binade: rank %d: %s\n", rank(), problem_.c_str());
    std::fflush(nullptr);
    std::_Exit(1);  // not from an exception: nothing else tells the launcher
  }

  std::string_view backend() const override { return "mpi"; }
  Work announce(Collective collective) override { return push(std::move(collective), true); }

 private:
  Work start(Collective collective) override {
    check(!collective.in || collective.in.device() == Device{}, name(collective.kind),
          ": MPI ranks exchange tensors on the CPU, got one on ", collective.in ? to_text(collective.in.device()) : "");
    return push(std::move(collective), false);
  }

  Work push(Collective collective, bool announced_only) {
    auto state = std::make_shared<HostWork>(std::move(collective));
    {
      const std::lock_guard lock(mutex_);
      if (failure_) state->finish(failure_);
      else queue_.push_back({state, announced_only});
    }
    changed_.notify_all();
    return Work(state);
  }

  // ---- the thread

  void communicate(const Launch& launch, std::promise<void>& initialised) {
    try {
      initialize(launch);
    } catch (...) {
      initialised.set_exception(std::current_exception());
      return;
    }
    initialised.set_value();
    for (Item item = next(); item.work; item = next()) {
      try {
        if (item.announced_only) {
          exchange_.begin(item.work->collective);
          exchange_.end();
        } else {
          carry_out(item.work->collective);
        }
        item.work->finish();
      } catch (const std::exception& error) {
        give_up(Error(error.what()), *item.work);
      }
    }
    if (failure_) return;  // MPI_Finalize would wait for those who cannot come
    if (thrown_) {
      exchange_.leave_failed("it was ended by an exception");
      return;
    }
    problem_ = exchange_.leave();
    if (problem_.empty()) mpi_.finalize();
  }

  void initialize(const Launch& launch) {
    int mpi_rank = 0, mpi_size = 1;
    const char* problem = mpi_.initialize(&mpi_rank, &mpi_size);
    check(problem == nullptr, "dist::init: ", problem ? problem : "");
    char library[128] = "";
    mpi_.library(library, sizeof library);
    check(mpi_rank == launch.rank && mpi_size == launch.size, "dist::init: ", launch.launcher, " started rank ", launch.rank,
          " of ", launch.size, ", but MPI says rank ", mpi_rank, " of ", mpi_size, ": binade was built with ", library,
          ": use that MPI's mpirun, or srun with its --mpi plugin");
  }

  struct Item {
    std::shared_ptr<HostWork> work;
    bool announced_only = false;
  };
  Item next() {  // without work: leave
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return leaving_ || !queue_.empty(); });
    if (queue_.empty() || (leaving_ && thrown_)) return {};
    Item item = std::move(queue_.front());
    queue_.pop_front();
    return item;
  }

  void give_up(const Error& error, HostWork& current) {
    if (exchange_.timed_out()) abort_when_this_process_ends(mpi_);
    exchange_.leave_failed(error.what());
    std::deque<Item> rest;
    {
      const std::lock_guard lock(mutex_);
      failure_ = std::make_exception_ptr(error);
      rest.swap(queue_);
    }
    current.finish(failure_);
    for (const Item& item : rest) item.work->finish(failure_);
  }

  // ---- collectives

  struct Part {
    std::size_t begin, size;  // in bytes
  };
  // Part r of `numel` elements: equal parts, the last ones shorter or empty.
  Part part(std::int64_t numel, DType dtype, int r) const {
    const std::int64_t each = (numel + size() - 1) / size();
    const std::int64_t begin = std::min(numel, each * r), end = std::min(numel, begin + each);
    return {static_cast<std::size_t>(begin * size_of(dtype)), static_cast<std::size_t>((end - begin) * size_of(dtype))};
  }

  void carry_out(const Collective& c) {
    if (options_.trace) options_.trace({TraceEvent::When::started, c});
    exchange_.begin(c);
    switch (c.kind) {
      case CollectiveKind::broadcast: broadcast_bytes(c); break;
      case CollectiveKind::all_reduce: all_reduce_parts(c); break;
      case CollectiveKind::reduce_scatter: reduce_own_part(c, TensorView(c.out).data); break;
      case CollectiveKind::all_gather: gather(c); break;
      case CollectiveKind::all_to_all: all_to_all_bytes(c); break;
      case CollectiveKind::barrier: break;
    }
    exchange_.end();
    if (options_.trace) options_.trace({TraceEvent::When::finished, c});
  }

  using Bytes = Exchange::Bytes;
  using Room = Exchange::Room;
  std::vector<Bytes> nothing_out() const { return std::vector<Bytes>(static_cast<std::size_t>(size())); }
  std::vector<Room> nothing_in() const { return std::vector<Room>(static_cast<std::size_t>(size())); }
  bool own(std::size_t r) const { return r == static_cast<std::size_t>(rank()); }

  // The ranks' contributions to this rank's part of c.in, reduced into `to`.
  void reduce_own_part(const Collective& c, std::byte* to) {
    const TensorView in = c.in;
    const Part mine = part(in.numel(), in.dtype, rank());
    std::vector<Bytes> out = nothing_out();
    std::vector<Room> rooms = nothing_in();
    std::vector<const std::byte*> parts(out.size());
    scratch_.resize(mine.size * out.size());
    for (std::size_t r = 0; r < out.size(); ++r) {
      const Part theirs = part(in.numel(), in.dtype, static_cast<int>(r));
      out[r] = {in.data + theirs.begin, theirs.size};
      rooms[r] = {scratch_.data() + r * mine.size, mine.size};
      parts[r] = own(r) ? in.data + mine.begin : rooms[r].data();
    }
    exchange_.swap(out, rooms);
    reduce_parts(c.op, in.dtype, parts, to, static_cast<std::int64_t>(mine.size) / size_of(in.dtype));
  }

  // Every rank's part of x to all ranks. `skipped`: a rank that has all already.
  void gather_parts(const TensorView& x, int skipped = -1) {
    const Part mine = part(x.numel(), x.dtype, rank());
    std::vector<Bytes> out = nothing_out();
    std::vector<Room> rooms = nothing_in();
    for (std::size_t r = 0; r < out.size(); ++r) {
      const Part theirs = part(x.numel(), x.dtype, static_cast<int>(r));
      if (static_cast<int>(r) != skipped) out[r] = {x.data + mine.begin, mine.size};
      if (rank() != skipped) rooms[r] = {x.data + theirs.begin, theirs.size};
    }
    exchange_.swap(out, rooms);
  }

  void all_reduce_parts(const Collective& c) {
    const TensorView x = c.out;
    reduce_own_part(c, x.data + part(x.numel(), x.dtype, rank()).begin);
    gather_parts(x);
  }

  void broadcast_bytes(const Collective& c) {
    const TensorView x = c.out;
    std::vector<Bytes> out = nothing_out();
    std::vector<Room> rooms = nothing_in();
    if (rank() == c.root) {
      for (std::size_t r = 0; r < out.size(); ++r) {
        const Part theirs = part(x.numel(), x.dtype, static_cast<int>(r));
        out[r] = {x.data + theirs.begin, theirs.size};
      }
    } else {
      const Part mine = part(x.numel(), x.dtype, rank());
      rooms[static_cast<std::size_t>(c.root)] = {x.data + mine.begin, mine.size};
    }
    exchange_.swap(out, rooms);
    gather_parts(x, c.root);
  }

  void gather(const Collective& c) {
    const TensorView in = c.in, out = c.out;
    const auto bytes = static_cast<std::size_t>(in.numel() * size_of(in.dtype));
    std::byte* own_part = out.data + bytes * static_cast<std::size_t>(rank());
    if (in.data != own_part && bytes > 0) std::memmove(own_part, in.data, bytes);
    gather_parts(out);
  }

  void all_to_all_bytes(const Collective& c) {
    const TensorView in = c.in, out = c.out;
    const std::size_t bytes = static_cast<std::size_t>(in.numel() * size_of(in.dtype)) / static_cast<std::size_t>(size());
    std::vector<Bytes> parts = nothing_out();
    std::vector<Room> rooms = nothing_in();
    for (std::size_t r = 0; r < parts.size(); ++r) {
      parts[r] = {in.data + r * bytes, bytes};
      rooms[r] = {out.data + r * bytes, bytes};
      if (own(r) && bytes > 0) std::memcpy(rooms[r].data(), parts[r].data(), bytes);
    }
    exchange_.swap(parts, rooms);
  }

  const MpiFunctions& mpi_;
  GroupOptions options_;
  Exchange exchange_;                   // the thread's alone
  std::vector<std::byte> scratch_;      // the thread's alone
  std::string problem_;                 // the thread's, read after it has ended
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> queue_;
  std::exception_ptr failure_;  // of the first collective that failed: everything after it fails too
  bool leaving_ = false, thrown_ = false;
  int exceptions_ = std::uncaught_exceptions();  // in flight when the group was made
  std::thread thread_;
};

}  // namespace

std::shared_ptr<MpiProcessGroup> mpi_group(const Launch& launch, GroupOptions options) {
  return std::make_shared<MpiGroup>(launch, std::move(options));
}

}  // namespace binade::dist
