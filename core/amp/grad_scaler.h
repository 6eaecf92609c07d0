// GradScaler: loss scaling with torch.amp.GradScaler's semantics (Micikevicius et al., "Mixed Precision Training", ICLR
// 2018, section 3.2). scale(loss).backward(); step(optimizer); update();
//
// Scale, found_inf and counters live on the device of the losses: scale, unscale_, step and update never wait for it.
// get_scale, skipped_steps, last_step_skipped and state_dict read them and do wait, as does the collapse guard on a
// device other than the CPU, once every max_consecutive_skips updates.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "binade/core/amp/loss_scale.h"
#include "binade/core/optim/optimizer.h"
#include "binade/core/tensor/tensor.h"

namespace binade::amp {

// What a run looked like when the loss scale could not be saved.
struct CollapseReport {
  struct BadGradient {
    std::size_t optimizer = 0, parameter = 0;  // in the order of step() since the last update(), and of params()
    std::string name;                          // as its module has it, "h.0.attn.qkv.weight"; empty outside modules
    Shape shape;
    std::int64_t infs = 0, nans = 0;
  };
  std::int64_t consecutive_skips = 0;
  double scale = 0, last_good_scale = 0;  // now, and at the last good update (0: there was none)
  std::vector<BadGradient> gradients;     // those with an inf or NaN
  std::string explanation;                // of GradScalerOptions::explain
  std::string message() const;            // for people: what happened, where, what usually helps
};

struct GradScalerOptions {
  double init_scale = 65536;
  double growth_factor = 2;             // > 1
  double backoff_factor = 0.5;          // in (0, 1)
  std::int64_t growth_interval = 2000;  // consecutive good steps before the scale grows
  bool enabled = true;                  // false: every call passes through
  // Beyond PyTorch.
  double min_scale = 0;         // see loss_scale::DynamicOptions
  std::int64_t hysteresis = 1;  // see there
  std::shared_ptr<loss_scale::Policy> policy = {};  // instead of Dynamic with the options above
  // After so many skipped steps in a row update() throws an Error with the report's message, or calls on_collapse.
  // Without it a scale that does not help halves for ever. 0: off.
  std::int64_t max_consecutive_skips = 20;
  std::function<void(const CollapseReport&)> on_collapse = {};
  // Called by unscale_ or step with the flag it found, f32 [1], 1 for an inf or NaN: data parallelism makes ranks agree on it
  // (dist::agree_on_overflow), so that all skip a step or none.
  std::function<void(const Tensor& found_inf)> agree = {};
  std::function<std::string()> explain = {};  // more for the report, such as a post-mortem's text
};

struct StepOptions {
  double max_norm = 0;  // > 0: gradients are clipped as by optim::clip_grad_norm_
};

class GradScaler {
 public:
  explicit GradScaler(GradScalerOptions options = {});

  Tensor scale(const Tensor& loss);     // loss * scale in f32 (f64 for f64), recorded
  Tensors scale(const Tensors& losses);
  // Multiplies the gradients by 1 / scale in place, once between updates: for a look at them before the step.
  void unscale_(optim::Optimizer& optimizer);
  // A step with an inf or NaN among the optimizer's gradients does nothing. Unless unscale_ was called, gradients are
  // unscaled and clipped by the optimizer's kernels as they read them, and keep their values; an optimizer without
  // scales_gradients(), such as Muon, has them rewritten first. Returns the norm of the unscaled gradients before
  // clipping, f32 [1] on their device; undefined without a max_norm.
  Tensor step(optim::Optimizer& optimizer, StepOptions options = {});
  void update();  // moves the scale as the policy says; an inf or NaN of any optimizer counts
  void update(double new_scale);         // sets the scale; the policy's counters stay
  void update(const Tensor& new_scale);  // the same from one floating element

  double get_scale() const;
  bool last_step_skipped() const;      // whether the last update() saw an inf or NaN
  std::int64_t skipped_steps() const;  // updates that saw one, since construction or load
  bool enabled() const { return options_.enabled; }

  // "scale", "skipped_steps", "consecutive_skips", "last_good_scale" and the policy's; empty when not enabled.
  optim::StateDict state_dict() const;
  void load_state_dict(const optim::StateDict& state);

 private:
  enum class Stage { ready, unscaled, stepped };
  struct OptimizerState {
    optim::Optimizer* optimizer;
    Stage stage = Stage::ready;
    Tensor found_inf;  // f32 [1], on the gradients' device
  };
  OptimizerState& state_of(optim::Optimizer& optimizer);
  Tensor fused_step(optim::Optimizer& optimizer, OptimizerState& state, double max_norm);
  void move_to(Device device);
  void guard();
  CollapseReport report() const;

  GradScalerOptions options_;
  Tensor scale_;      // f32 [1]
  Tensor last_good_;  // f32 [1]
  Tensor counters_;   // i64 [2]: skipped in all, in a row
  std::vector<OptimizerState> optimizers_;  // since the last update
  std::int64_t updates_ = 0;                // since the guard last looked
};

}  // namespace binade::amp
