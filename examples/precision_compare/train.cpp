// One training run of the comparison, and the means a table shows.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "precision_compare/comparison.h"

namespace example {

using namespace binade;

SeedRun train(const TaskFactory& factory, const PrecisionMode& mode, std::uint64_t seed, const TrainOptions& options,
              const std::string& label) {
  const std::unique_ptr<Task> task = factory(seed);
  const Tensors parameters = task->parameters();
  optim::AdamW optimizer(parameters, {.lr = options.lr, .weight_decay = 0.01});
  amp::GradScaler scaler({.enabled = mode.loss_scaling});
  const optim::Schedule schedule = optim::cosine(
      {.lr = options.lr, .min_lr = options.lr / 10, .warmup = options.steps / 20, .steps = options.steps});

  SeedRun run;
  run.seed = seed;
  reset_peak_memory();
  Progress progress(label, task->unit() + "/s", 0, options.steps);
  double training_seconds = 0;
  for (std::int64_t step = 0; step < options.steps; ++step) {
    const auto start = std::chrono::steady_clock::now();
    schedule.set_lr(optimizer, step);
    Tensor loss;
    {
      amp::Autocast autocast(mode.autocast);
      loss = task->training_loss();
    }
    scaler.scale(loss).backward();
    scaler.unscale_(optimizer);
    optim::clip_grad_norm_(parameters, 1.0);
    scaler.step(optimizer);
    scaler.update();
    optimizer.zero_grad();
    run.train_loss.push_back(loss.item<double>());
    if (mode.loss_scaling) run.loss_scale.push_back(scaler.get_scale());
    training_seconds += seconds_since(start);

    run.items_per_s = static_cast<double>((step + 1) * task->items_per_step()) / training_seconds;
    progress.update({.step = step,
                     .loss = run.train_loss.back(),
                     .lr = schedule.lr_at(step),
                     .loss_scale = mode.loss_scaling ? scaler.get_scale() : 0,
                     .skipped = scaler.skipped_steps(),
                     .items_per_s = run.items_per_s});
    if ((step + 1) % options.evaluate_every == 0 || step + 1 == options.steps) {
      const NoGrad no_grad;
      const amp::Autocast autocast(mode.autocast);
      run.validation_loss.emplace_back(step + 1, task->validation_loss());
    }
  }
  progress.finish();
  run.skipped_steps = scaler.skipped_steps();
  run.memory = memory_stats();
  return run;
}

namespace {
template <class Get>
double mean_over(const std::vector<SeedRun>& seeds, Get get) {
  double sum = 0;
  for (const SeedRun& run : seeds) sum += get(run);
  return sum / static_cast<double>(seeds.size());
}
}  // namespace

double SeedRun::final_train_loss() const {
  const std::size_t count = std::max<std::size_t>(1, train_loss.size() / 5);
  return std::accumulate(train_loss.end() - static_cast<std::ptrdiff_t>(count), train_loss.end(), 0.0) /
         static_cast<double>(count);
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
  const auto& trace = seeds.back().loss_scale;
  return trace.empty() ? 0 : trace.back();
}
const ModeResult* Comparison::reference() const {
  const auto found = std::ranges::find_if(modes, [](const ModeResult& m) { return m.mode.name == "fp32"; });
  return found == modes.end() ? nullptr : &*found;
}

}  // namespace example
