// GradScaler: dynamic loss scaling with torch.amp.GradScaler's semantics (Micikevicius et al., "Mixed Precision
// Training", ICLR 2018, section 3.2). scale(loss).backward(); step(optimizer); update();
#pragma once
#include <map>
#include <string>

#include "binade/core/optim/optimizer.h"
#include "binade/core/tensor/tensor.h"

namespace binade::amp {

struct GradScalerOptions {
  double init_scale = 65536;
  double growth_factor = 2;          // > 1
  double backoff_factor = 0.5;       // in (0, 1)
  std::int64_t growth_interval = 2000;  // consecutive good steps before the scale grows
  bool enabled = true;               // false: every call passes through
};

class GradScaler {
 public:
  explicit GradScaler(GradScalerOptions options = {});

  Tensor scale(const Tensor& loss);           // loss * scale, recorded
  void unscale_(optim::Optimizer& optimizer);  // once between updates; needed before clipping
  void step(optim::Optimizer& optimizer);      // unscales if unscale_ was not called; skips when an inf or NaN was found
  void update();                               // grows or backs off the scale
  double get_scale() const;                    // waits for the device
  bool last_step_skipped() const;              // by the step before the last update(); waits for the device
  std::int64_t skipped_steps() const;          // since construction or load
  bool enabled() const { return options_.enabled; }

  optim::StateDict state_dict() const;  // "scale", "growth_tracker", "skipped_steps"
  void load_state_dict(const optim::StateDict& state);

 private:
  enum class Stage { ready, unscaled, stepped };
  struct OptimizerState {
    Stage stage = Stage::ready;
    Tensor found_inf;
  };
  GradScalerOptions options_;
  Tensor scale_, growth_tracker_;
  std::map<optim::Optimizer*, OptimizerState> optimizers_;
  std::int64_t skipped_ = 0;
  bool last_skipped_ = false;
};

}  // namespace binade::amp
