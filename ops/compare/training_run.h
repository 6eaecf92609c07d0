// One seed trained in one mode: a comparison's unit of work.
#pragma once
#include <memory>

#include "binade/core/amp/grad_scaler.h"
#include "binade/core/amp/numerics_monitor.h"
#include "binade/core/amp/post_mortem.h"
#include "binade/ops/compare/comparison.h"

namespace binade::compare {

struct Watchers {                            // who looks on; steps that are watched are not timed
  amp::NumericsMonitor* monitor = nullptr;   // at the steps it observes
  amp::PostMortem* post_mortem = nullptr;    // at every step; the run ends with its first casualty
};

class TrainingRun {
 public:
  // `twin`: from weights moved by one rounding to 11 bits.
  TrainingRun(const TaskFactory& factory, const Mode& mode, std::uint64_t seed, const Options& options,
              Progress progress, bool twin = false, Watchers watchers = {});
  SeedRun train();
  double loss_scale() const { return scaler_.enabled() ? scaler_.get_scale() : 1; }  // the current one
  // One step more, forward and backward without an update, with each operation compared to itself in f64: a text, JSON.
  std::pair<std::string, std::string> shadow_step();

 private:
  void step(std::int64_t step);
  Tensor forward();
  void evaluate(std::int64_t steps_done);
  void report(std::int64_t step, double loss, double lr);

  const Mode& mode_;
  const Options& options_;
  Progress progress_;
  Watchers watchers_;
  Task task_;
  amp::GradScaler scaler_;
  Device device_;  // of the model
  std::unique_ptr<optim::Optimizer> optimizer_;
  SeedRun run_;
  double seconds_ = 0;         // of the steps that count
  std::int64_t timed_ = 0, lost_ = 0;
};

}  // namespace binade::compare
