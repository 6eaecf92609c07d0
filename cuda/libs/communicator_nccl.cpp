// DeviceCommunicator through NCCL: one communicator and one stream for a device. Events order it after the compute stream
// when a collective starts, and the compute stream after it when somebody waits for the result.
//
// Reductions in the fixed tree: every rank gets the others' contributions to its part (grouped sends), adds them in a
// kernel, and gathers the parts. Of n bytes on N ranks each sends and receives 2n (N-1)/N, as a ring all-reduce does.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "binade/core/base/error.h"
#include "binade/cuda/kernels/reduce_parts.h"
#include "binade/cuda/libs/nccl_functions.h"
#include "binade/cuda/runtime/check.h"
#include "binade/cuda/runtime/communicator.h"
#include "binade/cuda/runtime/context.h"

namespace binade::cuda {

namespace {

using dist::ReduceOp;
using Clock = std::chrono::steady_clock;

// ---- events that tell when work is done

class Events {
 public:
  explicit Events(Device device) : device_(device) {}
  ~Events() {
    for (cudaEvent_t event : free_) cudaEventDestroy(event);
  }
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;
  cudaEvent_t take() {  // the device is current
    const std::lock_guard lock(mutex_);
    cudaEvent_t event = nullptr;
    if (free_.empty()) {
      cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event of a collective");
    } else {
      event = free_.back();
      free_.pop_back();
    }
    return event;
  }
  void give_back(cudaEvent_t event) {
    const std::lock_guard lock(mutex_);
    free_.push_back(event);
  }
  Device device() const { return device_; }

 private:
  Device device_;
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

class NcclWork final : public DeviceWork {
 public:
  NcclWork(std::shared_ptr<Events> events, cudaStream_t stream) : events_(std::move(events)), event_(events_->take()) {
    cuda_check(cudaEventRecord(event_, stream), "event record");
  }
  ~NcclWork() override { events_->give_back(event_); }
  NcclWork(const NcclWork&) = delete;
  NcclWork& operator=(const NcclWork&) = delete;

  bool done() const override {
    cuda_check(cudaSetDevice(events_->device().index), "select the device");
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    cuda_check(status, "a collective's event");
    return true;
  }
  void order_compute_stream() const override {
    cuda_check(cudaStreamWaitEvent(stream_of(events_->device()), event_, 0), "wait for a collective");
  }

 private:
  std::shared_ptr<Events> events_;
  cudaEvent_t event_;
};

// ---- dtypes and operations NCCL has

std::optional<ncclDataType_t> nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f64: return ncclFloat64;
    case DType::f32: return ncclFloat32;
    case DType::f16: return ncclFloat16;
    case DType::bf16: return ncclBfloat16;
    case DType::i64: return ncclInt64;
    case DType::i32: return ncclInt32;
    case DType::u8: return ncclUint8;
    default: return {};  // FP8 sums need newer GPUs, bool has none
  }
}
// Only sums: NCCL does not say what its max and min do with a NaN.
bool library_has(ReduceOp op, DType dtype) {
  return (op == ReduceOp::sum || op == ReduceOp::avg) && nccl_type(dtype).has_value();
}

std::string seconds(std::chrono::milliseconds t) { return to_text(static_cast<double>(t.count()) / 1000) + " s"; }

std::size_t bytes_of(const TensorView& x) { return static_cast<std::size_t>(x.numel() * size_of(x.dtype)); }

// ---- the communicator

class NcclCommunicator final : public DeviceCommunicator {
 public:
  explicit NcclCommunicator(const CommunicatorOptions& o)
      : device_{DeviceType::cuda, o.device}, rank_(o.rank), size_(o.size), timeout_(o.timeout) {
    check(o.device >= 0 && o.device < device_count(), "dist::init: rank ", o.rank, " is to use ", to_text(device_),
          ", but this machine has ", device_count(), " CUDA devices: start at most one process for each");
    check(size_ <= most_ranks, "NCCL: at most ", most_ranks, " ranks, got ", size_);
    if (!o.share_id && !std::getenv("NCCL_COMM_ID")) setenv("NCCL_COMM_ID", o.address.c_str(), 1);  // before NCCL's first call
    const std::lock_guard lock(mutex_);
    stream_of(device_);  // makes the device current
    ncclUniqueId id{};
    if (rank_ == 0 || !o.share_id) settle(f_.unique_id(&id), "ncclGetUniqueId");
    if (o.share_id) o.share_id(std::as_writable_bytes(std::span(&id, 1)));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // calls never wait for other ranks, so that there is always somebody to see a timeout
    try {
      settle(f_.init(&comm_, size_, id, rank_, &config), "ncclCommInitRankConfig");
      int least = 0, greatest = 0;
      cuda_check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "stream priorities");
      cuda_check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest), "create the communication stream");
      cuda_check(cudaEventCreateWithFlags(&reached_, cudaEventDisableTiming), "create an event");
    } catch (...) {
      if (comm_) f_.abort(comm_);
      throw;
    }
  }

  ~NcclCommunicator() override {
    const std::lock_guard lock(mutex_);
    try {
      stream_of(device_);
      if (comm_) {
        settle(f_.finalize(comm_), "ncclCommFinalize");
        f_.destroy(comm_);
        comm_ = nullptr;
      }
    } catch (const std::exception&) {  // the others are gone
      if (comm_) f_.abort(comm_);
    }
    if (scratch_) cudaFreeAsync(scratch_, stream_);
    cudaEventDestroy(reached_);
    cudaStreamDestroy(stream_);
  }

  std::unique_ptr<DeviceWork> broadcast(const TensorView& x, int root) override {
    return start([&] {
      if (const std::size_t n = bytes_of(x)) settle(f_.broadcast(x.data, x.data, n, ncclUint8, root, comm_, stream_), "ncclBroadcast");
    });
  }

  std::unique_ptr<DeviceWork> all_gather(const TensorView& out, const TensorView& in) override {
    return start([&] {
      if (const std::size_t n = bytes_of(in)) settle(f_.all_gather(in.data, out.data, n, ncclUint8, comm_, stream_), "ncclAllGather");
    });
  }

  std::unique_ptr<DeviceWork> all_to_all(const TensorView& out, const TensorView& in) override {
    return start([&] {
      const std::size_t each = bytes_of(in) / static_cast<std::size_t>(size_);
      const std::size_t own = each * static_cast<std::size_t>(rank_);
      if (each == 0) return;
      exchange([&](int r) { return Range{in.data + each * static_cast<std::size_t>(r), each}; },
               [&](int r) { return Range{out.data + each * static_cast<std::size_t>(r), each}; });
      cuda_check(cudaMemcpyAsync(out.data + own, in.data + own, each, cudaMemcpyDeviceToDevice, stream_), "copy of the own part");
    });
  }

  std::unique_ptr<DeviceWork> all_reduce(const TensorView& x, ReduceOp op, Sums sums) override {
    return start([&] {
      if (x.numel() == 0) return;
      if (sums == Sums::library && library_has(op, x.dtype)) {
        settle(f_.all_reduce(x.data, x.data, static_cast<std::size_t>(x.numel()), *nccl_type(x.dtype), sum_or_avg(op), comm_, stream_),
             "ncclAllReduce");
        return;
      }
      const Range own = part(x, rank_);
      reduce_own_part(x, op, own.data);
      if (x.numel() % size_ == 0) {
        settle(f_.all_gather(own.data, x.data, own.bytes, ncclUint8, comm_, stream_), "ncclAllGather");
      } else {
        exchange([&](int) { return own; }, [&](int r) { return part(x, r); });
      }
    });
  }

  std::unique_ptr<DeviceWork> reduce_scatter(const TensorView& out, const TensorView& in, ReduceOp op, Sums sums) override {
    return start([&] {
      if (out.numel() == 0) return;
      if (sums == Sums::library && library_has(op, in.dtype)) {
        settle(f_.reduce_scatter(in.data, out.data, static_cast<std::size_t>(out.numel()), *nccl_type(in.dtype), sum_or_avg(op),
                               comm_, stream_), "ncclReduceScatter");
        return;
      }
      reduce_own_part(in, op, out.data);
    });
  }

  std::unique_ptr<DeviceWork> barrier() override {
    return start([&] {
      std::byte* marks = scratch(static_cast<std::size_t>(size_));
      cuda_check(cudaMemsetAsync(marks, 0, static_cast<std::size_t>(size_), stream_), "clear a barrier's marks");
      settle(f_.all_gather(marks + rank_, marks, 1, ncclUint8, comm_, stream_), "ncclAllGather");
    });
  }

  std::string problem() override {
    const std::unique_lock lock(mutex_, std::try_to_lock);  // while it is held the call in progress looks itself
    if (!lock || !comm_) return {};
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = f_.async_error(comm_, &state);
    if (asked != ncclSuccess) state = asked;
    return state == ncclSuccess || state == ncclInProgress ? "" : text_of(state);
  }

  void abort(const std::string& why) noexcept override {
    aborting_ = true;  // a call that waits inside the lock gives up
    try {
      if (!why.empty()) fail_device(device_, why);
    } catch (const std::exception&) {  // the device has failed, and says so itself
    }
    const std::lock_guard lock(mutex_);
    cudaSetDevice(device_.index);
    if (comm_) f_.abort(std::exchange(comm_, nullptr));
  }

 private:
  struct Range {
    std::byte* data;
    std::size_t bytes;
  };

  static ncclRedOp_t sum_or_avg(ReduceOp op) { return op == ReduceOp::avg ? ncclAvg : ncclSum; }

  // Part r of x: equal parts, the last ones shorter or empty.
  Range part(const TensorView& x, int r) const {
    const std::int64_t each = (x.numel() + size_ - 1) / size_, width = size_of(x.dtype);
    const std::int64_t begin = std::min(x.numel(), each * r), end = std::min(x.numel(), begin + each);
    return {x.data + begin * width, static_cast<std::size_t>((end - begin) * width)};
  }

  template <class Body>
  std::unique_ptr<DeviceWork> start(const Body& body) {
    const std::lock_guard lock(mutex_);
    check(comm_ && !aborting_, "NCCL: the communicator was aborted");
    check(!draw_advance_of(device_), "GraphedStep: the step communicates with other ranks while it is recorded, which is not "
          "supported");
    cuda_check(cudaEventRecord(reached_, stream_of(device_)), "event record");
    cuda_check(cudaStreamWaitEvent(stream_, reached_, 0), "wait for the compute stream");
    body();
    return std::make_unique<NcclWork>(events_, stream_);
  }

  // Sends out(r) to every other rank r and receives in(r) from it. Empty ranges are skipped.
  template <class Out, class In>
  void exchange(const Out& out, const In& in) {
    check_result(f_.group_start(), "ncclGroupStart");
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      const Range to = out(r), from = in(r);
      if (to.bytes) check_result(f_.send(to.data, to.bytes, ncclUint8, r, comm_, stream_), "ncclSend");
      if (from.bytes) check_result(f_.receive(from.data, from.bytes, ncclUint8, r, comm_, stream_), "ncclRecv");
    }
    settle(f_.group_end(), "ncclGroupEnd");
  }

  // All ranks' contributions to this rank's part of `in`, combined into `to`, which may be that part.
  void reduce_own_part(const TensorView& in, ReduceOp op, std::byte* to) {
    const Range own = part(in, rank_);
    const std::size_t stride = (own.bytes + 255) / 256 * 256;
    std::byte* others = scratch(stride * static_cast<std::size_t>(size_));
    exchange([&](int r) { return part(in, r); },
             [&](int r) { return Range{others + stride * static_cast<std::size_t>(r), own.bytes}; });
    reduce_parts({own.data, others, static_cast<std::int64_t>(stride), rank_, size_}, op, in.dtype, to,
                 static_cast<std::int64_t>(own.bytes) / size_of(in.dtype), stream_);
  }

  // Used by one collective after the other, in stream order.
  std::byte* scratch(std::size_t bytes) {
    if (bytes <= scratch_bytes_) return scratch_;
    if (scratch_) cuda_check(cudaFreeAsync(std::exchange(scratch_, nullptr), stream_), "free memory for collectives");
    scratch_bytes_ = 0;
    void* block = nullptr;
    cuda_check(cudaMallocAsync(&block, bytes, stream_), "memory for collectives");
    scratch_ = static_cast<std::byte*>(block);
    scratch_bytes_ = bytes;
    return scratch_;
  }

  std::string text_of(ncclResult_t result) const {
    const char* details = comm_ ? f_.last_error(comm_) : nullptr;
    return std::string("NCCL: ") + f_.error_string(result) + (details && *details ? std::string(": ") + details : "");
  }
  void check_result(ncclResult_t result, const char* what) const {
    if (result != ncclSuccess && result != ncclInProgress) fail({what, ": ", text_of(result)});
  }

  // A call that does not block may still be connecting to other ranks: only when that is over is its work on the stream.
  void settle(ncclResult_t result, const char* what) {
    const Clock::time_point deadline = Clock::now() + timeout_;
    for (int turn = 0; result == ncclInProgress; ++turn) {
      check(!aborting_, what, ": the communicator was aborted");
      check(Clock::now() < deadline, what, ": rank ", rank_, " waited ", seconds(timeout_), " for the other ranks to connect");
      if (turn > 20) std::this_thread::sleep_for(std::chrono::microseconds(200));
      ncclResult_t state = ncclSuccess;
      const ncclResult_t asked = f_.async_error(comm_, &state);
      result = asked == ncclSuccess ? state : asked;
    }
    check_result(result, what);
  }

  const NcclFunctions& f_ = nccl();
  Device device_;
  int rank_, size_;
  std::chrono::milliseconds timeout_;
  std::mutex mutex_;  // NCCL takes one call of a communicator at a time
  std::atomic<bool> aborting_ = false;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t reached_ = nullptr;
  std::shared_ptr<Events> events_ = std::make_shared<Events>(device_);
  std::byte* scratch_ = nullptr;
  std::size_t scratch_bytes_ = 0;
};

}  // namespace

std::unique_ptr<DeviceCommunicator> make_communicator(const CommunicatorOptions& options) {
  return std::make_unique<NcclCommunicator>(options);
}

}  // namespace binade::cuda
