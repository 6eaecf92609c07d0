// Trains one task in every mode and seed, and judges the outcome.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "binade/core/amp/autocast.h"
#include "binade/core/amp/grad_scaler.h"
#include "binade/core/base/random.h"
#include "binade/core/optim/clip.h"
#include "binade/core/optim/optimizers.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/ops/compare/verdict.h"
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
    options.policy = amp::LossScalePolicy::fixed;
  }
  return amp::GradScaler(std::move(options));
}

class Run {  // one seed in one mode
 public:
  Run(const TaskFactory& factory, const Mode& mode, std::uint64_t seed, const Options& options, Progress progress,
      bool twin)
      : mode_(mode), options_(options), progress_(std::move(progress)), task_(factory(seed)), scaler_(make_scaler(mode)) {
    check(task_.training_loss && task_.validation_loss, "compare: the task needs training_loss and validation_loss");
    run_.seed = seed;
    if (twin) perturb(task_.model, seed);
    if (mode.parameters != DType::f32) task_.model.to(mode.parameters);
    if (mode.fp8) nn::use_fp8(task_.model, *mode.fp8);
    parameters_ = task_.model.parameters();
    optimizer_ = options.optimizer ? options.optimizer(parameters_, mode)
                                   : default_optimizer(parameters_, mode, options.lr);
  }

  SeedRun train() {
    const Tf32Scope tf32(mode_.tf32);
    reset_peak_memory();
    try {
      for (std::int64_t step = 0; step < options_.steps && run_.failure.empty(); ++step) {
        this->step(step);
        if (options_.stop && options_.stop()) break;
      }
    } catch (const Error& error) {  // such as the scaler's collapse guard
      run_.failure = error.what();
    }
    run_.complete = run_.failure.empty() && std::ssize(run_.train_loss) == options_.steps;
    run_.skipped_steps = scaler_.skipped_steps();
    run_.memory = memory_stats();
    return std::move(run_);
  }

 private:
  void step(std::int64_t step) {
    const auto start = Clock::now();
    const double lr = options_.lr_at(step);
    for (optim::ParamGroup& group : optimizer_->param_groups()) group.lr = lr;
    set_random_state(stream_of_step(run_.seed, step));
    Tensor loss;
    {
      const amp::Autocast autocast(mode_.autocast);
      loss = task_.training_loss();
    }
    scaler_.scale(loss).backward();
    if (options_.clip_norm > 0) {
      scaler_.unscale_(*optimizer_);
      optim::clip_grad_norm_(parameters_, options_.clip_norm);
    }
    scaler_.step(*optimizer_);
    scaler_.update();
    optimizer_->zero_grad();

    const double value = loss.item<double>();
    seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
    run_.train_loss.push_back(value);
    if (scaler_.enabled()) run_.loss_scale.push_back(scaler_.get_scale());
    run_.items_per_s = static_cast<double>((step + 1) * task_.items_per_step) / seconds_;
    if (options_.on_step) report(step, value, lr);
    lost_ = std::isfinite(value) ? 0 : lost_ + 1;
    if (lost_ >= patience)
      run_.failure = fmt::format("the loss has not been finite since step {}", step - patience + 1);
    const bool last = step + 1 == options_.steps;
    if (run_.failure.empty() && (last || (step + 1) % options_.evaluate_every == 0)) evaluate(step + 1);
  }

  void evaluate(std::int64_t steps_done) {
    const NoGrad no_grad;
    const amp::Autocast autocast(mode_.autocast);
    task_.model.eval();
    run_.validation_loss.emplace_back(steps_done, task_.validation_loss());
    task_.model.train();
  }

  void report(std::int64_t step, double loss, double lr) {
    progress_.step = step;
    progress_.loss = loss;
    progress_.lr = lr;
    progress_.loss_scale = scaler_.enabled() ? run_.loss_scale.back() : 0;
    progress_.skipped = scaler_.skipped_steps();
    progress_.items_per_s = run_.items_per_s;
    options_.on_step(progress_);
  }

  const Mode& mode_;
  const Options& options_;
  Progress progress_;
  Task task_;
  amp::GradScaler scaler_;
  Tensors parameters_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  SeedRun run_;
  double seconds_ = 0;
  std::int64_t lost_ = 0;
};

Options completed(Options o) {
  check(!o.modes.empty(), "compare: no modes given");
  check(o.seeds > 0, "compare: seeds must be positive, got ", o.seeds);
  check(o.steps > 0, "compare: steps must be positive, got ", o.steps);
  check(o.lr > 0 && std::isfinite(o.lr), "compare: lr must be positive, got ", o.lr);
  check(o.clip_norm >= 0, "compare: clip_norm must not be negative, got ", o.clip_norm);
  if (o.evaluate_every <= 0) o.evaluate_every = std::max<std::int64_t>(1, o.steps / 5);
  if (!o.lr_at) {
    const auto schedule =
        optim::cosine({.lr = o.lr, .min_lr = o.lr / 10, .warmup = o.steps / 20, .steps = o.steps});
    o.lr_at = [schedule](std::int64_t step) { return schedule.lr_at(step); };
  }
  return o;
}

double spread(const ModeResult& reference) {  // standard deviation over seeds
  std::vector<double> f;
  for (const SeedRun& run : reference.seeds)
    if (run.complete) f.push_back(run.final_train_loss());
  if (f.size() < 2) return NAN;
  const double mean = std::accumulate(f.begin(), f.end(), 0.0) / static_cast<double>(f.size());
  double squares = 0;
  for (const double x : f) squares += (x - mean) * (x - mean);
  return std::sqrt(squares / static_cast<double>(f.size() - 1));
}

}  // namespace

Comparison run(const TaskFactory& factory, const Options& given) {
  const Options o = completed(given);
  Comparison out{.model = o.model, .size = o.size, .unit = o.unit, .device = o.device, .steps = o.steps,
                 .batch = o.batch, .seeds = o.seeds, .lr = o.lr};
  for (const Mode& mode : o.modes) out.modes.push_back({mode, {}, {}});
  const bool has_reference = out.reference() != nullptr;
  const bool twins = o.twins && has_reference && o.modes.size() > 1;
  const Mode fp32 = mode("fp32");

  Progress progress{.runs = o.seeds * (std::ssize(o.modes) + (twins ? 1 : 0)), .steps = o.steps};
  const auto train = [&](const Mode& mode, std::uint64_t seed, bool twin, std::vector<SeedRun>& runs) {
    progress.mode = twin ? "fp32 twin" : mode.name;
    progress.seed = seed;
    runs.push_back(Run(factory, mode, seed, o, progress, twin).train());
    ++progress.run;
    out.interrupted = o.stop && o.stop();
  };
  for (std::int64_t i = 0; i < o.seeds && !out.interrupted; ++i) {
    const std::uint64_t seed = o.first_seed + static_cast<std::uint64_t>(i);
    for (ModeResult& mode : out.modes)
      if (!out.interrupted) train(mode.mode, seed, false, mode.seeds);
    if (twins && !out.interrupted) train(fp32, seed, true, out.twins);
  }

  if (const ModeResult* reference = out.reference()) {
    out.seed_spread = spread(*reference);
    for (ModeResult& mode : out.modes) mode.verdict = judge(mode, *reference, out.twins);
  } else {
    for (ModeResult& mode : out.modes) mode.verdict.reason = "needs fp32 among the modes";
  }
  return out;
}

// ---- means

namespace {
template <class Get>
double mean_over(const std::vector<SeedRun>& seeds, Get get) {
  double sum = 0, count = 0;
  for (const SeedRun& run : seeds) {
    if (!run.counts()) continue;
    sum += get(run);
    ++count;
  }
  return count > 0 ? sum / count : NAN;
}
}  // namespace

double SeedRun::final_train_loss() const {
  if (!complete || train_loss.empty()) return NAN;
  const std::size_t count = std::max<std::size_t>(1, train_loss.size() / 5);
  return std::accumulate(train_loss.end() - static_cast<std::ptrdiff_t>(count), train_loss.end(), 0.0) /
         static_cast<double>(count);
}
double SeedRun::final_validation_loss() const {
  return complete && !validation_loss.empty() ? validation_loss.back().second : NAN;
}
double ModeResult::final_train_loss() const {
  return mean_over(seeds, [](const SeedRun& run) { return run.final_train_loss(); });
}
double ModeResult::final_validation_loss() const {
  return mean_over(seeds, [](const SeedRun& run) { return run.final_validation_loss(); });
}
double ModeResult::items_per_s() const {
  return mean_over(seeds, [](const SeedRun& run) { return run.items_per_s; });
}
std::size_t ModeResult::peak_bytes() const {
  std::size_t peak = 0;
  for (const SeedRun& run : seeds) peak = std::max(peak, run.memory.peak_total);
  return peak;
}
std::int64_t ModeResult::skipped_steps() const {
  std::int64_t sum = 0;
  for (const SeedRun& run : seeds) sum += run.skipped_steps;
  return sum;
}
double ModeResult::final_loss_scale() const {
  return seeds.empty() || seeds.back().loss_scale.empty() ? 0 : seeds.back().loss_scale.back();
}
const ModeResult* Comparison::reference() const {
  const auto found = std::ranges::find_if(modes, [](const ModeResult& m) { return m.mode.name == "fp32"; });
  return found == modes.end() ? nullptr : &*found;
}

}  // namespace binade::compare
