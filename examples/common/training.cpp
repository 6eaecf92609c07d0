#include "common/training.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>

#include "binade/core/io/atomic_file.h"

namespace example {

using namespace binade;

void Training::save(const std::string& path, std::int64_t steps_done) const {
  const auto* sharded = dynamic_cast<const dist::ShardedOptimizer*>(&optimizer);
  const auto save_rest = [&] {
    io::save_checkpoint(path, {.model = model.state_dict(),
                               .optimizer = sharded ? optim::StateDict() : optimizer.state_dict(),
                               .scaler = scaler.state_dict(),
                               .random = random_state(),
                               .loader = batches.loader().state(),
                               .step = steps_done});
  };
  if (sharded) sharded->save(path + ".optimizer", steps_done, save_rest);
  else if (rank_of_launch() == 0) save_rest();  // every process has the same state
}

std::int64_t Training::load(const std::string& path) const {
  const io::Checkpoint checkpoint = io::load_checkpoint(path);
  try {
    model.load_state_dict(checkpoint.model);
    if (auto* sharded = dynamic_cast<dist::ShardedOptimizer*>(&optimizer)) sharded->load(path + ".optimizer", checkpoint.step);
    else optimizer.load_state_dict(checkpoint.optimizer);
    scaler.load_state_dict(checkpoint.scaler);
    batches.loader().load_state(checkpoint.loader);
  } catch (const Error& error) {
    // The error has a line for each tensor; the first says enough.
    const std::string all = error.what();
    const std::size_t first = all.find("\n  "), second = first == std::string::npos ? first : all.find('\n', first + 1);
    const std::string cause = first == std::string::npos ? all : all.substr(first + 3, second - first - 3);
    const auto more = std::max<std::ptrdiff_t>(0, std::ranges::count(all, '\n') - 1);
    fail({"--resume: ", path, " does not fit this run: ", cause, more ? " (and " + to_text(more) + " more)" : "",
          "; give the flags and data it was written with"});
  }
  set_random_state(checkpoint.random);
  return checkpoint.step;
}

std::int64_t Training::start(const RunOptions& o) const {
  const std::int64_t first = o.resume ? load(o.checkpoint) : 0;
  require(first < o.steps, "--steps: ", o.checkpoint, " has done ", first, " steps already; ask for more than that");
  return first;
}

std::optional<io::MetricsWriter> open_metrics(const RunOptions& o, std::int64_t first_step) {
  if (o.metrics.empty() || rank_of_launch() > 0) return std::nullopt;
  if (o.resume && std::filesystem::exists(o.metrics)) {
    std::ifstream file(o.metrics);
    std::string kept;
    for (std::string line; std::getline(file, line);) {
      const auto step = nlohmann::json::parse(line, nullptr, false);
      // A line cut short by the kill does not parse.
      if (step.is_object() && step.contains("step") && step["step"] < first_step) kept += line + "\n";
    }
    io::AtomicFile replaced(o.metrics);
    replaced.write(std::as_bytes(std::span(kept)));
    replaced.commit();
  }
  return std::optional<io::MetricsWriter>(std::in_place, o.metrics, o.resume);
}

Progress::Now StepReport::progress(const amp::GradScaler& scaler) const {
  return {.step = step,
          .loss = loss,
          .lr = lr,
          .loss_scale = scaler.enabled() ? scaler.get_scale() : 0,
          .skipped = scaler.skipped_steps(),
          .items_per_s = items_per_s,
          .device = device};
}

io::Metrics StepReport::metrics(const amp::GradScaler& scaler, std::optional<double> validation_loss) const {
  io::Metrics out{{"loss", loss},
                  {"lr", lr},
                  {"grad_norm", grad_norm},
                  {"loss_scale", scaler.enabled() ? scaler.get_scale() : 1.0},
                  {"skipped", scaler.last_step_skipped()},
                  {rate_name, items_per_s},
                  {"bytes_peak", static_cast<std::int64_t>(memory_stats(device).peak_total)}};
  if (validation_loss) out.emplace_back("val_loss", *validation_loss);
  return out;
}

}  // namespace example
