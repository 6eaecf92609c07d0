// Collectives of CUDA tensors. The device carries them out (core/backend/communicator.h); one thread of the host watches:
// it notices what the library finds wrong, a rank that does not come and a device that does not finish, and then aborts
// the communicator, so that nothing waits for ever.
//
// NCCL itself knows nothing of ranks that have not arrived. Under an MPI launcher every collective is announced to the
// other ranks in a short message, beside the device's work: from these come the names of the missing ranks.
#include "binade/distributed/group_nccl.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "binade/core/backend/plugin.h"
#include "binade/core/backend/transfer.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/distributed/group_mpi.h"
#include "binade/distributed/work_state.h"

namespace binade::dist {

namespace {

using Clock = std::chrono::steady_clock;

// What ended the group, if anything did. Set before the communicator is aborted: a result that is there and no failure
// means that it is a result.
class Failure {
 public:
  bool set(const std::string& why) {  // the first one counts
    const std::lock_guard lock(mutex_);
    if (why_) return false;
    why_ = why;
    set_ = true;
    return true;
  }
  explicit operator bool() const { return set_; }
  void rethrow() {
    if (!set_) return;
    told_ = true;
    fail({why()});
  }
  bool told() const { return told_; }
  std::string why() const {
    const std::lock_guard lock(mutex_);
    return why_.value_or("");
  }

 private:
  mutable std::mutex mutex_;
  std::optional<std::string> why_;
  std::atomic<bool> set_ = false, told_ = false;
};

Tensor on_device(const Tensor& x, Device device, bool with_values) {
  Tensor copy = empty(x.spec(), device);
  if (with_values) transfer(x, copy);
  return copy;
}

// Polls with growing pauses until `step` is true.
template <class Step>
void poll(const Step& step) {
  for (int turn = 0; !step(); ++turn) {
    if (turn < 50) std::this_thread::yield();
    else std::this_thread::sleep_for(std::chrono::microseconds(std::min(20 + turn, 1000)));
  }
}

class DeviceCall final : public Work::State {
 public:
  DeviceCall(const Collective& c, Device device, std::shared_ptr<Failure> failure)
      : collective{.kind = c.kind, .op = c.op, .root = c.root, .sequence = c.sequence, .spec = c.spec},
        failure_(std::move(failure)),
        waits_on_host_(c.kind == CollectiveKind::barrier || c.in.device() != device),
        in_(c.in),
        out_(c.out) {
    if (!c.in || c.in.device() == device) return;
    // CPU tensors go by way of the device. Of all-gather's `out`, and reduce-scatter's, only results are wanted.
    const bool in_place = c.kind == CollectiveKind::broadcast || c.kind == CollectiveKind::all_reduce;
    in_ = on_device(c.in, device, true);
    out_ = in_place ? in_ : on_device(c.out, device, false);
    target_ = c.out;
  }
  const Collective collective;  // without its tensors
  const Tensor& in() const { return in_; }
  const Tensor& out() const { return out_; }

  void launched(std::unique_ptr<DeviceWork> work) {
    const std::lock_guard lock(mutex_);
    work_ = std::move(work);
  }
  // On the device, or not given to it yet: false. After a failure nothing is done any more.
  bool finished() {
    const std::lock_guard lock(mutex_);
    if (!finished_ && work_) finished_ = work_->done() && !*failure_;
    return finished_;
  }
  bool done() override { return finished() || *failure_; }

  void wait() override {
    poll([&] {
      if (finished()) return true;
      failure_->rethrow();
      return !waits_on_host_;
    });
    const std::lock_guard lock(mutex_);
    work_->order_compute_stream();
    if (target_) transfer(out_, target_);
    in_ = out_ = target_ = {};  // their memory is the compute stream's again: it may be used for what comes next
  }

 private:
  std::shared_ptr<Failure> failure_;
  bool waits_on_host_;
  Tensor in_, out_;  // on the device; held until it is done, or somebody has waited for it
  Tensor target_;    // on the CPU, if any: gets what `out_` holds
  std::mutex mutex_;
  std::unique_ptr<DeviceWork> work_;
  bool finished_ = false;
};

// Where ranks that MPI did not start meet. An elastic torchrun listens at its port itself: ranks take the next one.
std::string meeting_place(const Launch& launch) {
  const char* occupied = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
  const bool next = occupied && std::string_view(occupied) == "True";
  return launch.master_address + ":" + to_text(launch.master_port + (next ? 1 : 0));
}

class NcclGroup final : public ProcessGroup {
 public:
  NcclGroup(const Launch& launch, Device device, GroupOptions options)
      : ProcessGroup(launch.rank, launch.size, device), options_(std::move(options)) {
    CommunicatorOptions joining{.device = device.index, .rank = rank(), .size = size(), .timeout = options_.timeout};
    if (launch.master_address.empty()) {
      announcer_ = mpi_group(launch, {.timeout = options_.timeout});
      joining.share_id = [&](std::span<std::byte> id) {
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(id.data());
        const Tensor shared = from_vector(std::vector<std::uint8_t>(bytes, bytes + id.size()), {std::ssize(id)});
        announcer_->broadcast(shared).wait();
        std::ranges::copy(std::as_bytes(shared.data<std::uint8_t>()), id.begin());
      };
    } else {
      joining.address = meeting_place(launch);
    }
    communicator_ = required_cuda_backend().make_communicator(joining);
    watcher_ = std::thread([this] { watch(); });
  }

  ~NcclGroup() override {
    const bool thrown = std::uncaught_exceptions() > exceptions_;
    {
      std::unique_lock lock(mutex_);
      if (!thrown) changed_.wait(lock, [&] { return under_way_.empty() || *failure_; });
      leaving_ = true;
    }
    changed_.notify_all();
    watcher_.join();
    if (*failure_ && !thrown && !failure_->told()) {
      std::fprintf(stderr, "binade: rank %d: %s\n", rank(), failure_->why().c_str());
      std::fflush(nullptr);
      std::_Exit(1);  // not from an exception: nothing else tells the launcher
    }
    announcer_.reset();  // all leave, or hear why one does not; ends the process when one has gone
    if (thrown || *failure_) communicator_->abort("");
  }

  std::string_view backend() const override { return "nccl"; }
  bool sums_in_fixed_tree() const override { return !options_.library_sums; }

 private:
  struct UnderWay {
    std::shared_ptr<DeviceCall> call;
    Work announced;
    Clock::time_point since;  // it was called, and the one before it was done
  };

  Work start(Collective collective) override {
    const NoGrad guard;
    check(!collective.in || collective.in.device() == device() || collective.in.device() == Device{}, name(collective.kind),
          ": rank ", rank(), " exchanges tensors of ", device(), " and of the CPU, got one on ",
          collective.in ? to_text(collective.in.device()) : "");
    if (*failure_) return Work(std::make_shared<DeviceCall>(std::move(collective), device(), failure_));
    const auto call = std::make_shared<DeviceCall>(std::move(collective), device(), failure_);
    const Collective& c = call->collective;
    if (options_.trace) options_.trace({TraceEvent::When::started, c});
    UnderWay item{call, announcer_ ? announcer_->announce(c) : Work(), Clock::now()};
    {
      const std::lock_guard lock(mutex_);
      under_way_.push_back(std::move(item));
    }
    changed_.notify_all();
    try {
      call->launched(launch(c, call->in(), call->out()));
    } catch (const std::exception& error) {
      give_up(c.text() + ": " + error.what());
    }
    return Work(call);
  }

  std::unique_ptr<DeviceWork> launch(const Collective& c, const TensorView& in, const TensorView& out) {
    const auto sums = options_.library_sums ? DeviceCommunicator::Sums::library : DeviceCommunicator::Sums::tree;
    switch (c.kind) {
      case CollectiveKind::broadcast: return communicator_->broadcast(out, c.root);
      case CollectiveKind::all_reduce: return communicator_->all_reduce(out, c.op, sums);
      case CollectiveKind::reduce_scatter: return communicator_->reduce_scatter(out, in, c.op, sums);
      case CollectiveKind::all_gather: return communicator_->all_gather(out, in);
      case CollectiveKind::all_to_all: return communicator_->all_to_all(out, in);
      case CollectiveKind::barrier: break;
    }
    return communicator_->barrier();
  }

  void give_up(const std::string& text) {
    if (!failure_->set(text)) return;
    communicator_->abort(text);
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
  }

  // ---- the watching thread

  void watch() {
    for (UnderWay item; next(item);) {
      poll([&] { return *failure_ || leaves_now() || passed(item); });
      if (*failure_ || leaves_now()) return;
      if (options_.trace) options_.trace({TraceEvent::When::finished, item.call->collective});
      const std::lock_guard lock(mutex_);
      under_way_.pop_front();
      if (!under_way_.empty()) under_way_.front().since = std::max(under_way_.front().since, Clock::now());
      item = {};
      changed_.notify_all();
    }
  }

  bool next(UnderWay& item) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return leaving_ || !under_way_.empty(); });
    if (leaving_) return false;
    item = under_way_.front();
    return true;
  }
  bool leaves_now() {
    const std::lock_guard lock(mutex_);
    return leaving_;
  }

  // Whether it is done; a failure ends the group.
  bool passed(const UnderWay& item) {
    const Collective& c = item.call->collective;
    try {
      const bool everybody = check_announced();
      if (item.call->finished() && item.announced.done()) return true;
      if (const std::string problem = communicator_->problem(); !problem.empty()) fail({problem});
      // Who is late is the announcer's to say, in the same time.
      if (everybody && Clock::now() - item.since > options_.timeout) {
        fail({"rank ", to_text(rank()), " waited for ", to_text(static_cast<double>(options_.timeout.count()) / 1000), " s: ",
              announcer_ ? "all ranks have called it, but the devices do not finish"
                         : "which ranks have not arrived is known only where MPI started them"});
      }
    } catch (const std::exception& error) {
      give_up(c.text() + ": " + error.what());
    }
    return false;
  }

  // Whether all ranks have called everything that is under way. The first that one has not, or cannot, ends the group.
  bool check_announced() {
    std::vector<Work> announced;
    {
      const std::lock_guard lock(mutex_);
      for (const UnderWay& item : under_way_) announced.push_back(item.announced);
    }
    for (const Work& work : announced) {
      if (!work.done()) return false;
      try {
        work.wait();
      } catch (const std::exception& error) {
        give_up(error.what());  // names its collective
        return false;
      }
    }
    return true;
  }

  GroupOptions options_;
  int exceptions_ = std::uncaught_exceptions();  // in flight when the group was made
  std::shared_ptr<Failure> failure_ = std::make_shared<Failure>();
  std::shared_ptr<MpiProcessGroup> announcer_;  // null where MPI did not start the ranks
  std::unique_ptr<DeviceCommunicator> communicator_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<UnderWay> under_way_;  // in their order
  bool leaving_ = false;
  std::thread watcher_;
};

}  // namespace

std::shared_ptr<ProcessGroup> nccl_group(const Launch& launch, GroupOptions options) {
  const int devices = required_cuda_backend().device_count();
  // A launcher that binds its processes shows each of them one device.
  const int index = devices == 1 ? 0 : launch.local_rank;
  return std::make_shared<NcclGroup>(launch, Device{DeviceType::cuda, index}, std::move(options));
}

}  // namespace binade::dist
