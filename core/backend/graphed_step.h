// GraphedStep: a training step recorded once as a CUDA graph and then replayed, so that its many kernels cost one
// launch. What torch.cuda.graphs does for PyTorch.
#pragma once
#include <functional>
#include <memory>

#include "binade/core/tensor/tensor.h"

namespace binade::cuda {

// What keeps a note of tensors' values must know: a replay changes tensors without counting their versions up.
bool recording_step();           // whether a step is being recorded, on any thread
std::uint64_t replayed_steps();  // so far, in this process

// On the thread that records a step: the recording's number; else 0. There it can be said what replays need of the host.
std::uint64_t recording_here();
struct HostWork {                       // each may be empty
  std::function<void()> recorded = {};  // once, when the step is recorded
  std::function<void()> before = {};    // each replay, which finds what kernels started here have written
  std::function<void()> after = {};
};
void at_each_replay(HostWork work);
void keep_for_replays(const Tensor& x);  // memory that replays read

struct GraphedStepOptions {
  Device device = default_device();
  int warm_up = 2;  // calls that run eagerly first, at least 1: what the step allocates for good exists afterwards
};

// step({inputs}) -> results, such as the loss: forward, backward, scaler and optimizer. Each call of the object is one
// such step, on a CUDA device the first `warm_up` eagerly, the next one recorded and from then on replayed, with the
// same bits as eager calls. On the CPU every call runs the function.
//
//   cuda::GraphedStep step([&](const Tensors& batch) -> Tensors {
//     const Tensor loss = cross_entropy(model(batch[0]), batch[1]);
//     loss.backward();
//     optimizer.step();
//     optimizer.zero_grad();
//     return {loss};
//   });
//   for (const auto& [images, labels] : loader) step({images, labels});
//
// - Inputs are copied into tensors of its own, which the function gets. Their number, shapes and dtypes are those of the
//   first call; others throw Error.
// - Results are the same tensors each time: a call overwrites what they held. They are outside the autograd graph.
// - While it is recorded the function runs on the host and nothing runs on the device. It must not read values on the
//   host (item(), to_vector()) nor copy from the host: both throw Error, and the next call records anew; gradients must
//   then be taken as undefined.
// - Host code is not replayed, and numbers stay as they were when recorded until reset(), with two exceptions. SGD, Adam
//   and AdamW follow lr and weight_decay of their groups: set them between calls, outside the function, as
//   schedule.set_lr(optimizer, t) does. Random draws advance: a replay takes those an eager call would take, whatever
//   seed is set by then.
// - What it allocates while recorded is kept for it alone until it ends.
class GraphedStep {
 public:
  using Step = std::function<Tensors(const Tensors& inputs)>;
  explicit GraphedStep(Step step, GraphedStepOptions options = {});
  ~GraphedStep();
  GraphedStep(const GraphedStep&) = delete;
  GraphedStep& operator=(const GraphedStep&) = delete;

  Tensors operator()(const Tensors& inputs);
  bool captured() const;  // whether the next call is a replay
  void reset();           // forgets the recording: the next calls warm up and record again

 private:
  struct Recording;
  Tensors run_eagerly();
  void record();
  void take_inputs(const Tensors& inputs);

  Step step_;
  GraphedStepOptions options_;
  int calls_ = 0;   // eager ones since the last reset
  Tensors inputs_;  // its own
  std::unique_ptr<Recording> recording_;
};

}  // namespace binade::cuda
