// Learning-rate schedules: pure functions of the step, so that resuming needs the step alone.
//   const auto schedule = optim::cosine({.lr = 6e-4, .min_lr = 6e-5, .warmup = 100, .steps = 2000});
//   schedule.set_lr(optimizer, step); optimizer.step();
#pragma once
#include <cstdint>
#include <functional>

#include "binade/core/optim/optimizer.h"

namespace binade::optim {

class Schedule {
 public:
  explicit Schedule(std::function<double(std::int64_t step)> lr_at) : lr_at_(std::move(lr_at)) {}
  double lr_at(std::int64_t step) const;                       // steps count from 0; throws for a negative one
  void set_lr(Optimizer& optimizer, std::int64_t step) const;  // of every group

 private:
  std::function<double(std::int64_t)> lr_at_;
};

// All but one_cycle rise linearly during the first `warmup` steps: step i < warmup has (i + 1) / (warmup + 1) of lr.
struct ConstantOptions {
  double lr = 1e-3;
  std::int64_t warmup = 0;
};
Schedule constant(ConstantOptions options);

// From lr down to min_lr, which is reached at step `steps` (warm-up included) and kept.
struct DecayOptions {
  double lr = 1e-3, min_lr = 0;
  std::int64_t warmup = 0, steps = 1;
};
Schedule linear(DecayOptions options);
Schedule cosine(DecayOptions options);  // along half a cosine (Loshchilov and Hutter, "SGDR", ICLR 2017)

struct StepDecayOptions {
  double lr = 1e-3, factor = 0.1;  // lr * factor^((step - warmup) / every), rounded down
  std::int64_t every = 1, warmup = 0;
};
Schedule step_decay(StepDecayOptions options);

// Smith and Topin, "Super-convergence", 2018; torch's OneCycleLR with cosine annealing: from max_lr / start_factor up
// to max_lr in the first `rise` of the steps, then down to the start divided by end_factor.
struct OneCycleOptions {
  double max_lr = 1e-3;
  std::int64_t steps = 1;
  double rise = 0.3, start_factor = 25, end_factor = 1e4;
};
Schedule one_cycle(OneCycleOptions options);

}  // namespace binade::optim
