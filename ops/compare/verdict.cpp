#include "binade/ops/compare/verdict.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace binade::compare {

namespace {

constexpr std::size_t enough_seeds = 3;
constexpr double most_missed = 0.1;  // of FP32's improvement: what "equivalent" rules out, however wide the noise

struct Pair {  // one seed, in the mode and in FP32
  const SeedRun *run, *reference;
};

std::vector<Pair> pairs(std::span<const SeedRun> runs, const ModeResult& reference) {
  std::vector<Pair> found;
  for (const SeedRun& run : runs) {
    if (!run.counts()) continue;
    for (const SeedRun& other : reference.seeds)
      if (other.seed == run.seed && other.complete) found.push_back({&run, &other});
  }
  return found;
}

double mean(const std::vector<double>& x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}

// Of FP32, mean over its seeds; what a difference is measured against.
double improvement(const ModeResult& reference) {
  std::vector<double> all;
  for (const SeedRun& run : reference.seeds)
    if (run.complete && !run.train_loss.empty()) all.push_back(run.train_loss.front() - run.final_train_loss());
  return all.empty() ? NAN : mean(all);
}

std::vector<double> relative(const std::vector<Pair>& seeds, double scale) {
  std::vector<double> r;
  for (const auto& [run, reference] : seeds) r.push_back((run->final_train_loss() - reference->final_train_loss()) / scale);
  return r;
}

// Why one seed failed, or empty.
std::string failure_of(const SeedRun& run, double r) {
  if (!run.failure.empty()) return run.failure;
  const auto bad = std::ranges::find_if(run.train_loss, [](double loss) { return !std::isfinite(loss); });
  if (!std::isfinite(run.final_train_loss()))
    return fmt::format("the loss is not finite from step {} on", bad - run.train_loss.begin());
  const auto low = std::ranges::find_if(run.loss_scale, [](double scale) { return scale < 1; });
  if (low != run.loss_scale.end() && run.loss_scale.front() >= 1)  // a scale that is set below 1 has not fallen
    return fmt::format("the loss scale fell below 1 at step {}", low - run.loss_scale.begin());
  const auto steps = static_cast<double>(run.train_loss.size());
  if (static_cast<double>(run.skipped_steps) > 0.2 * steps)
    return fmt::format("{} of {} steps were skipped", run.skipped_steps, run.train_loss.size());
  if (r > 0.5) return fmt::format("{:.0f} % of FP32's improvement is missing", 100 * r);
  return "";
}

}  // namespace

std::string_view name(Label label) {
  switch (label) {
    case Label::reference: return "reference";
    case Label::equivalent: return "equivalent";
    case Label::degraded: return "degraded";
    case Label::failed: return "failed";
    case Label::inconclusive: return "inconclusive";
  }
  return "?";
}

Verdict judge(const ModeResult& mode, const ModeResult& reference, std::span<const SeedRun> twins) {
  const std::vector<Pair> seeds = pairs(mode.seeds, reference);
  if (&mode == &reference) return {Label::reference, "what the others are compared with", 0, NAN};
  if (seeds.empty()) return {Label::inconclusive, "no seed ran to its end here and in fp32", NAN, NAN};
  const double gained = improvement(reference);
  const double first = reference.seeds.front().train_loss.empty() ? NAN : reference.seeds.front().train_loss.front();
  if (!(gained > 0.05 * std::abs(first)))
    return {Label::inconclusive,
            fmt::format("fp32 itself hardly improved (by {:.3g} from {:.3g}): there is nothing to compare", gained, first),
            NAN, NAN};

  const std::vector<double> r = relative(seeds, gained);
  const auto n = static_cast<double>(r.size());
  Verdict verdict{.label = Label::failed, .reason = "", .mean_difference = mean(r), .visible = NAN};
  std::string failures;
  std::size_t failed = 0;
  for (std::size_t i = 0; i < r.size(); ++i) {
    const std::string why = failure_of(*seeds[i].run, r[i]);
    if (why.empty()) continue;
    if (failed++ == 0) failures = fmt::format("seed {}: {}", seeds[i].run->seed, why);
  }
  if (failed > 0) {
    verdict.reason = fmt::format("{} of {} seeds; {}", failed, r.size(), failures);
    return verdict;
  }

  double squares = 0;
  const std::vector<double> noise = relative(pairs(twins, reference), gained);
  for (const double x : noise) squares += x * x;
  const double rms = noise.empty() ? 0 : std::sqrt(squares / static_cast<double>(noise.size()));
  const double s0 = std::max(0.005, std::isfinite(rms) ? rms : 1.0), e = 3 * s0 / std::sqrt(n);
  verdict.visible = e;
  const double m = verdict.mean_difference, worst = *std::ranges::max_element(r);
  const auto not_behind = std::ranges::count_if(r, [](double x) { return x <= 0; });
  const std::string size = fmt::format("training loss {:+.1f} % of FP32's improvement (differences from {:.1f} % on are visible)",
                                       100 * m, 100 * e);
  verdict.label = Label::inconclusive;
  if (r.size() < enough_seeds)
    verdict.reason = fmt::format("{}; a verdict needs {} seeds, there {} {}", size, enough_seeds,
                                 r.size() == 1 ? "is" : "are", r.size());
  else if (m > std::max(0.02, e) && not_behind <= static_cast<std::ptrdiff_t>(r.size() / 5))
    verdict.label = Label::degraded, verdict.reason = size;
  else if (m + e < std::clamp(2 * e, 0.05, most_missed) && worst <= most_missed)
    verdict.label = Label::equivalent, verdict.reason = size;
  else
    verdict.reason = size + (e > most_missed ? "; longer runs or more seeds would tell" : "; more seeds would tell");
  return verdict;
}

}  // namespace binade::compare
