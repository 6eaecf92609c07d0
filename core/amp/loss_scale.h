// How a loss scale moves: policies for GradScaler. They work where the scale lies, without waiting for the device.
#pragma once
#include <map>
#include <string>

#include "binade/core/optim/optimizer.h"
#include "binade/core/tensor/tensor.h"

namespace binade::amp::loss_scale {

class Policy {
 public:
  virtual ~Policy() = default;
  // Changes `scale` in place, f32 [1], after a step whose gradients were all finite (found_inf, f32 [1], is 0) or not.
  virtual void update(const Tensor& scale, const Tensor& found_inf) = 0;
  virtual optim::StateDict state_dict() const { return {}; }
  // Throws Error for a missing or wrong entry; other entries of `state` are not the policy's.
  virtual void load_state_dict(const optim::StateDict& /*state*/) {}
};

struct DynamicOptions {
  double growth_factor = 2;             // > 1
  double backoff_factor = 0.5;          // in (0, 1)
  std::int64_t growth_interval = 2000;  // good updates in a row before the scale grows
  double min_scale = 0;                 // the scale never backs off below it (nor below 2^-126, the smallest normal)
  // Overflowing updates tolerated, all but the last, before the scale backs off; from then on each one backs it off,
  // until it grows again (Megatron-LM's hysteresis). Their steps are skipped all the same.
  std::int64_t hysteresis = 1;
};
// Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2, with torch.amp.GradScaler's rules. A growth
// that would leave f32's range is not taken.
class Dynamic : public Policy {
 public:
  explicit Dynamic(DynamicOptions options = {});
  void update(const Tensor& scale, const Tensor& found_inf) override;
  optim::StateDict state_dict() const override;  // "growth_tracker", "hysteresis"
  void load_state_dict(const optim::StateDict& state) override;

 private:
  DynamicOptions options_;
  Tensor tracker_;  // i64 [2]: good updates in a row; overflows still tolerated
};

class Static : public Policy {  // the scale stays; steps that overflow are skipped
 public:
  void update(const Tensor&, const Tensor&) override {}
};

}  // namespace binade::amp::loss_scale
