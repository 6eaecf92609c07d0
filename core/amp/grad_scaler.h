// GradScaler: dynamic loss scaling with torch.amp.GradScaler's semantics (Micikevicius et al., "Mixed Precision
// Training", ICLR 2018, section 3.2). scale(loss).backward(); step(optimizer); update();
#pragma once
#include <map>
#include <string>
#include <vector>

#include "binade/core/optim/optimizer.h"
#include "binade/core/tensor/tensor.h"

namespace binade::amp {

struct GradScalerOptions {
  double init_scale = 65536;
  double growth_factor = 2;             // > 1
  double backoff_factor = 0.5;          // in (0, 1)
  std::int64_t growth_interval = 2000;  // consecutive good steps before the scale grows
  bool enabled = true;                  // false: every call passes through
};

class GradScaler {
 public:
  explicit GradScaler(GradScalerOptions options = {});

  Tensor scale(const Tensor& loss) const;      // loss * scale in f32 (f64 for f64), recorded
  void unscale_(optim::Optimizer& optimizer);  // once between updates; needed before clipping
  // Unscales if unscale_ was not called; does nothing when an inf or NaN was found, which waits for the device.
  void step(optim::Optimizer& optimizer);
  void update();                               // grows or backs off the scale
  double get_scale() const { return options_.enabled ? static_cast<double>(scale_) : 1.0; }
  bool last_step_skipped() const { return last_skipped_; }  // whether the last update() saw an inf or NaN
  std::int64_t skipped_steps() const { return skipped_; }   // updates that saw one, since construction or load
  bool enabled() const { return options_.enabled; }

  optim::StateDict state_dict() const;  // "scale", "growth_tracker", "skipped_steps"; empty when not enabled
  void load_state_dict(const optim::StateDict& state);

 private:
  enum class Stage { ready, unscaled, stepped };
  struct OptimizerState {
    Stage stage = Stage::ready;
    std::vector<Tensor> found_inf;  // f32, one element for each device that has gradients
  };
  static bool any_inf(const OptimizerState& state);
  GradScalerOptions options_;
  float scale_;
  std::int64_t growth_tracker_ = 0;  // good updates since the scale last changed
  std::map<const optim::Optimizer*, OptimizerState> optimizers_;
  std::int64_t skipped_ = 0;
  bool last_skipped_ = false;
};

}  // namespace binade::amp
