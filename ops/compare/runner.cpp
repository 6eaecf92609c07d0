// Trains one task in every mode and seed, and judges the outcome.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <tuple>

#include "binade/ops/compare/training_run.h"
#include "binade/ops/compare/verdict.h"
#include "binade/ops/nn/fp8.h"

namespace binade::compare {

namespace {

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

// Before anything is trained: an FP8 mode must find a layer to work on.
void check_fp8(const TaskFactory& factory, const Options& o) {
  const auto fp8 = std::ranges::find_if(o.modes, [](const Mode& m) { return m.fp8.has_value(); });
  if (fp8 == o.modes.end()) return;
  Task task = factory(o.first_seed);
  check(!nn::use_fp8(task.model, *fp8->fp8).fp8.empty(), "compare: ", fp8->name,
        ": no linear layer of this model computes in FP8: the first and the last are kept higher, and the sizes of the "
        "others must be multiples of 16");
}

// What the first FP32 run looks like to the other formats.
class Numerics {
 public:
  explicit Numerics(std::int64_t steps)
      : monitor_({.every = std::max<std::int64_t>(2, steps / 40), .early_steps = std::min<std::int64_t>(25, steps / 4)}) {}
  Watchers watchers() { return {.monitor = &monitor_}; }
  void tell(Comparison& out, const Options& o) const {
    out.numerics = monitor_.json();
    out.numerics_text = monitor_.advice();
    out.gradients_lost = lost();
    if (o.on_numerics) o.on_numerics(out.numerics_text);
  }

 private:
  double lost() const {  // share of all gradient values other than zero that FP16 rounds to zero without a loss scale
    double values = 0, zeros = 0;
    for (const amp::TensorRecord& record : monitor_.records()) {
      if (!amp::is_fp16_gradient(record)) continue;
      const auto count = static_cast<double>(record.all.nonzero());
      values += count;
      zeros += count * record.all.shares(DType::f16).to_zero;
    }
    return values > 0 ? zeros / values : NAN;
  }

  amp::NumericsMonitor monitor_;
};

// A failed run once more, to its first infinity or NaN: runs repeat bit for bit, so that nobody has to look on before
// something went wrong.
std::string autopsy(const TaskFactory& factory, const Mode& mode, const SeedRun& failed, const Options& given) {
  Options o = given;
  o.on_step = {};
  const auto steps = std::ssize(failed.train_loss);
  std::optional<TrainingRun> again;
  amp::PostMortem post_mortem({.loss_scale = [&] { return again->loss_scale(); }});  // asked during its steps
  again.emplace(factory, mode, failed.seed, o, Progress{}, false, Watchers{.post_mortem = &post_mortem});
  again->train();
  if (!post_mortem.first() && !post_mortem.last()) return "";
  const std::string when = fmt::format("seed {}, of {} steps: ", failed.seed, steps);
  return when + (post_mortem.first() ? post_mortem.first()->text() : post_mortem.explain());
}

}  // namespace

Comparison run(const TaskFactory& factory, const Options& given) {
  const Options o = completed(given);
  check_fp8(factory, o);
  Comparison out{.model = o.model, .size = o.size, .unit = o.unit, .device = o.device, .steps = o.steps,
                 .batch = o.batch, .seeds = o.seeds, .lr = o.lr};
  for (const Mode& mode : o.modes) out.modes.push_back({mode, {}, {}});
  const bool has_reference = out.reference() != nullptr;
  const bool twins = o.twins && has_reference && o.modes.size() > 1;
  const Mode fp32 = compare::mode("fp32");

  Progress progress{.runs = o.seeds * (std::ssize(o.modes) + (twins ? 1 : 0)), .steps = o.steps};
  const auto prepare = [&](const std::string& name, std::uint64_t seed) {
    progress.mode = name;
    progress.seed = seed;
  };
  const auto done = [&] {
    ++progress.run;
    out.interrupted = o.stop && o.stop();
  };
  for (std::int64_t i = 0; i < o.seeds && !out.interrupted; ++i) {
    const std::uint64_t seed = o.first_seed + static_cast<std::uint64_t>(i);
    for (ModeResult& mode : out.modes) {
      if (out.interrupted) break;
      prepare(mode.mode.name, seed);
      const bool reference = mode.mode.name == fp32.name;
      std::optional<Numerics> numerics;
      if (i == 0 && reference && o.observe) numerics.emplace(o.steps);
      TrainingRun run(factory, mode.mode, seed, o, progress, false, numerics ? numerics->watchers() : Watchers{});
      mode.seeds.push_back(run.train());
      const SeedRun& result = mode.seeds.back();
      done();
      if (numerics) numerics->tell(out, o);
      if (i == 0 && o.observe && !reference && result.complete) std::tie(mode.shadow_text, mode.shadow) = run.shadow_step();
      if (o.observe && !result.failure.empty() && mode.post_mortem.empty())
        mode.post_mortem = autopsy(factory, mode.mode, result, o);
    }
    if (twins && !out.interrupted) {
      prepare("fp32 twin", seed);
      out.twins.push_back(TrainingRun(factory, fp32, seed, o, progress, true).train());
      done();
    }
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
