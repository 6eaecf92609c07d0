#include "binade/core/backend/graphed_step.h"

#include <atomic>

#include "binade/core/backend/caching_allocator.h"
#include "binade/core/backend/plugin.h"
#include "binade/core/base/random.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::cuda {

namespace {

std::atomic<int> recordings{0};
std::atomic<std::uint64_t> replays{0}, last_recording{0};

struct Needs {  // of a recorded step
  std::uint64_t number = ++last_recording;
  std::vector<HostWork> work;
  Tensors memory;
  void call(std::function<void()> HostWork::* when) const {
    for (const HostWork& each : work)
      if (each.*when) (each.*when)();
  }
};
thread_local Needs* recording_now = nullptr;

struct RecordingScope {
  explicit RecordingScope(Needs& needs) : outer(recording_now) {
    ++recordings;
    recording_now = &needs;
  }
  ~RecordingScope() {
    recording_now = outer;
    --recordings;
  }
  RecordingScope(const RecordingScope&) = delete;
  RecordingScope& operator=(const RecordingScope&) = delete;
  Needs* outer;
};

Tensors detached(const Tensors& results) {
  Tensors all;
  for (const Tensor& x : results) all.push_back(x ? x.detach() : x);
  return all;
}

}  // namespace

bool recording_step() { return recordings.load(std::memory_order_relaxed) > 0; }
std::uint64_t replayed_steps() { return replays.load(std::memory_order_relaxed); }

std::uint64_t recording_here() { return recording_now ? recording_now->number : 0; }
void at_each_replay(HostWork work) {
  check(recording_now != nullptr, "GraphedStep: no step is being recorded on this thread");
  recording_now->work.push_back(std::move(work));
}
void keep_for_replays(const Tensor& x) {
  check(recording_now != nullptr, "GraphedStep: no step is being recorded on this thread");
  recording_now->memory.push_back(x);
}

// A graph, and the memory that is its own.
struct GraphedStep::Recording {
  explicit Recording(int device_index)
      : backend(required_cuda_backend()), allocator(cuda_allocator(device_index)), device(device_index) {
    allocator.release();  // the recorded step gets memory of its own
    pool = allocator.open_pool();
  }
  ~Recording() {
    if (graph) backend.destroy_graph(graph, device);
    results.clear();
    needs = {};
    allocator.leave_pool(pool);
    allocator.close_pool(pool);
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  const DeviceBackend& backend;
  CachingAllocator& allocator;
  int device = 0, pool = 0;
  void* graph = nullptr;
  Tensors results;
  Needs needs;
  std::uint64_t first_draw = 0, draws = 0;  // of the random stream, when it was recorded
};

GraphedStep::GraphedStep(Step step, GraphedStepOptions options) : step_(std::move(step)), options_(options) {
  check(static_cast<bool>(step_), "GraphedStep: the function is empty");
  check(options_.warm_up >= 1, "GraphedStep: warm_up must be at least 1, got ", options_.warm_up);
}
GraphedStep::~GraphedStep() = default;

bool GraphedStep::captured() const { return recording_ && recording_->graph; }

void GraphedStep::reset() {
  recording_.reset();
  calls_ = 0;
}

void GraphedStep::take_inputs(const Tensors& inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) check(inputs[i].defined(), "GraphedStep: input ", i, " is undefined");
  if (inputs_.empty() && calls_ == 0) {
    for (const Tensor& x : inputs) inputs_.push_back(empty(x.spec(), options_.device));
  }
  check(inputs.size() == inputs_.size(), "GraphedStep: the first call had ", inputs_.size(), " inputs, this one has ",
        inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& own = inputs_[i];
    check(inputs[i].shape() == own.shape() && inputs[i].dtype() == own.dtype(), "GraphedStep: input ", i, " was ",
          own.dtype(), " ", own.shape(), " in the first call, got ", inputs[i].dtype(), " ", inputs[i].shape(),
          "; a smaller last batch is left out with drop_last");
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) inputs_[i].copy_(inputs[i].detach());
}

Tensors GraphedStep::run_eagerly() {
  ++calls_;
  return detached(step_(inputs_));
}

// Runs the function while its kernels are recorded instead of run. The random stream is left where it was.
void GraphedStep::record() {
  const PhiloxState start = random_state();
  recording_ = std::make_unique<Recording>(options_.device.index);
  Recording& r = *recording_;
  const RecordingScope scope(r.needs);
  try {
    r.backend.begin_capture(r.device);
    try {
      r.results = detached(step_(inputs_));
    } catch (...) {
      r.backend.abandon_capture(r.device);
      throw;
    }
    r.graph = r.backend.end_capture(r.device);
  } catch (...) {
    recording_.reset();
    set_random_state(start);
    throw;
  }
  r.allocator.leave_pool(r.pool);
  r.first_draw = start.offset;
  r.draws = random_state().offset - start.offset;
  set_random_state(start);
  r.needs.call(&HostWork::recorded);
}

Tensors GraphedStep::operator()(const Tensors& inputs) {
  take_inputs(inputs);
  if (options_.device.type == DeviceType::cpu || calls_ < options_.warm_up) return run_eagerly();
  if (!captured()) record();
  Recording& r = *recording_;
  r.needs.call(&HostWork::before);
  PhiloxState now = random_state();
  ++replays;
  r.backend.replay(r.graph, r.device, {now.seed, now.offset - r.first_draw});
  r.needs.call(&HostWork::after);
  now.offset += r.draws;
  if (r.draws > 0) set_random_state(now);
  for (const Tensor& x : r.results)
    if (x) bump_version(x);
  return r.results;
}

}  // namespace binade::cuda
