#include "binade/ops/compare/training_run.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <optional>

#include "binade/core/amp/autocast.h"
#include "binade/core/amp/shadow_execution.h"
#include "binade/core/backend/matmul_precision.h"
#include "binade/core/base/random.h"
#include "binade/core/optim/optimizers.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/ops/nn/fp8.h"
#include "binade/ops/ops.h"

namespace binade::compare {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t patience = 20;  // steps without a finite loss after which a run is given up

// Every step draws its dropout masks from a stream of its own, so that a mode that draws more (stochastic rounding)
// sees the same masks.
PhiloxState stream_of_step(std::uint64_t seed, std::int64_t step) {
  return {seed ^ 0x62696E616465ULL, static_cast<std::uint64_t>(step + 1) << 32};
}

// weight *= 1 + 2^-11 u with u uniform in [-1, 1): one rounding to half's 11 bits.
void perturb(const nn::Module& model, std::uint64_t seed) {
  const NoGrad guard;
  set_random_state({seed ^ 0x7477696EULL, 0});
  for (Tensor x : model.parameters()) {
    const Tensor u = rand(x.shape(), {.dtype = x.dtype(), .device = x.device()}) * 2.0 - 1.0;
    x.copy_(x * (u * 0x1p-11 + 1.0));
  }
}

class Tf32Scope {  // the process-wide setting, for the time of one run
 public:
  explicit Tf32Scope(bool on) : before_(float32_matmul_precision()) {
    if (on) set_float32_matmul_precision(MatmulPrecision::high);
  }
  ~Tf32Scope() { set_float32_matmul_precision(before_); }
  Tf32Scope(const Tf32Scope&) = delete;
  Tf32Scope& operator=(const Tf32Scope&) = delete;

 private:
  MatmulPrecision before_;
};

std::unique_ptr<optim::Optimizer> default_optimizer(const Tensors& params, const Mode& mode, double lr) {
  return std::make_unique<optim::AdamW>(
      params, optim::AdamWOptions{.lr = lr,
                                  .weight_decay = 0.01,
                                  .master_weights = mode.parameters == DType::f32,
                                  .stochastic_rounding = mode.stochastic_rounding});
}

amp::GradScaler make_scaler(const Mode& mode) {
  amp::GradScalerOptions options{.enabled = mode.loss_scaling || mode.static_scale > 0};
  if (mode.static_scale > 0) {
    options.init_scale = mode.static_scale;
    options.policy = std::make_shared<amp::loss_scale::Static>();
  }
  return amp::GradScaler(std::move(options));
}

}  // namespace

TrainingRun::TrainingRun(const TaskFactory& factory, const Mode& mode, std::uint64_t seed, const Options& options,
                         Progress progress, bool twin, Watchers watchers)
    : mode_(mode),
      options_(options),
      progress_(std::move(progress)),
      watchers_(watchers),
      task_(factory(seed)),
      scaler_(make_scaler(mode)) {
  check(task_.training_loss && task_.validation_loss, "compare: the task needs training_loss and validation_loss");
  run_.seed = seed;
  if (twin) perturb(task_.model, seed);
  if (mode.parameters != DType::f32) task_.model.to(mode.parameters);
  if (mode.fp8) nn::use_fp8(task_.model, *mode.fp8);
  const Tensors parameters = task_.model.parameters();
  if (!parameters.empty()) device_ = parameters.front().device();
  optimizer_ = options.optimizer ? options.optimizer(parameters, mode) : default_optimizer(parameters, mode, options.lr);
}

SeedRun TrainingRun::train() {
  const Tf32Scope tf32(mode_.tf32);
  reset_peak_memory(device_);
  try {
    for (std::int64_t step = 0; step < options_.steps && run_.failure.empty(); ++step) {
      this->step(step);
      if (watchers_.post_mortem && watchers_.post_mortem->first()) break;
      if (options_.stop && options_.stop()) break;
    }
  } catch (const Error& error) {  // such as the scaler's collapse guard
    run_.failure = error.what();
  }
  run_.complete = run_.failure.empty() && std::ssize(run_.train_loss) == options_.steps;
  run_.skipped_steps = scaler_.skipped_steps();
  run_.memory = memory_stats(device_);
  return run_;
}

Tensor TrainingRun::forward() {
  const amp::Autocast autocast(mode_.autocast);
  return task_.training_loss();
}

void TrainingRun::step(std::int64_t step) {
  const auto start = Clock::now();
  const bool monitored = watchers_.monitor && watchers_.monitor->observing();
  std::optional<ObserverScope> monitoring, examining;
  if (monitored) monitoring.emplace(*watchers_.monitor);
  if (watchers_.post_mortem) examining.emplace(*watchers_.post_mortem);
  const double lr = options_.lr_at(step);
  for (optim::ParamGroup& group : optimizer_->param_groups()) group.lr = lr;
  set_random_state(stream_of_step(run_.seed, step));
  const Tensor loss = forward();
  scaler_.scale(loss).backward();
  examining.reset();
  monitoring.reset();
  if (watchers_.monitor) watchers_.monitor->step();
  if (watchers_.post_mortem) watchers_.post_mortem->step();
  scaler_.step(*optimizer_, {.max_norm = options_.clip_norm});
  scaler_.update();
  optimizer_->zero_grad();

  const double value = options_.mean_loss ? options_.mean_loss(loss.item<double>()) : loss.item<double>();
  if (!monitored) {
    seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
    ++timed_;
  }
  run_.train_loss.push_back(value);
  if (scaler_.enabled()) run_.loss_scale.push_back(scaler_.get_scale());
  run_.items_per_s = timed_ > 0 ? static_cast<double>(timed_ * task_.items_per_step) / seconds_ : 0;
  if (options_.on_step) report(step, value, lr);
  lost_ = std::isfinite(value) ? 0 : lost_ + 1;
  if (lost_ >= patience) run_.failure = fmt::format("the loss has not been finite since step {}", step - patience + 1);
  const bool last = step + 1 == options_.steps;
  if (run_.failure.empty() && (last || (step + 1) % options_.evaluate_every == 0)) evaluate(step + 1);
}

void TrainingRun::evaluate(std::int64_t steps_done) {
  const NoGrad no_grad;
  const amp::Autocast autocast(mode_.autocast);
  task_.model.eval();
  run_.validation_loss.emplace_back(steps_done, task_.validation_loss());
  task_.model.train();
}

void TrainingRun::report(std::int64_t step, double loss, double lr) {
  progress_.step = step;
  progress_.loss = loss;
  progress_.lr = lr;
  progress_.loss_scale = scaler_.enabled() ? run_.loss_scale.back() : 0;
  progress_.skipped = scaler_.skipped_steps();
  progress_.items_per_s = run_.items_per_s;
  options_.on_step(progress_);
}

std::pair<std::string, std::string> TrainingRun::shadow_step() {
  const Tf32Scope tf32(mode_.tf32);
  amp::ShadowExecution shadow({.reference = amp::ShadowReference::f64});
  {
    const ObserverScope watching(shadow);
    set_random_state(stream_of_step(run_.seed, options_.steps));
    scaler_.scale(forward()).backward();
  }
  shadow.step();
  optimizer_->zero_grad();
  return {shadow.table(), shadow.json()};
}

}  // namespace binade::compare
