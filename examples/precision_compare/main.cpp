// Trains the same model from the same weights on the same batches in each requested precision, and shows what the
// precision changed: loss, speed, memory.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <sstream>

#include "common/models.h"
#include "precision_compare/comparison.h"

using namespace example;

namespace {

struct Options {
  std::string model = "mlp", size = "tiny", modes = "fp32,bf16,fp16", device = "auto", json, html;
  std::uint64_t seed = 42;
  std::int64_t seeds = 1, steps = 300, batch = 0;
  double lr = 0;
};

void add_flags(CLI::App& app, Options& o) {
  app.add_option("--model", o.model, "What to train")->check(CLI::IsMember({"mlp", "gpt"}))->capture_default_str();
  app.add_option("--size", o.size, "tiny or small")->check(CLI::IsMember({"tiny", "small"}))->capture_default_str();
  app.add_option("--modes", o.modes, "Comma-separated precisions: fp32, bf16, fp16")->capture_default_str();
  app.add_option("--seed", o.seed, "The first seed")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--seeds", o.seeds, "How many seeds, counting up")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--steps", o.steps, "Training steps per run")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--batch", o.batch, "Samples per step (default: by model and size)")->check(CLI::PositiveNumber);
  add_learning_rate(app, o.lr, "Peak learning rate (default: by model and size)");
  app.add_option("--device", o.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--json", o.json, "Write the results to this file");
  app.add_option("--html", o.html, "Write a report with loss curves to this file");
}

void compare(const Options& o) {
  std::vector<PrecisionMode> modes;
  std::stringstream list(o.modes);
  try {
    for (std::string name; std::getline(list, name, ',');) modes.push_back(precision_mode(name));
  } catch (const UsageError& error) {
    throw UsageError(std::string("--modes: ") + error.what());
  }
  require(!modes.empty(), "--modes: expected a list such as fp32,bf16,fp16");
  check_writable(o.json, "--json");
  check_writable(o.html, "--html");
  const binade::Device device = choose_device(o.device);

  const bool gpt = o.model == "gpt";
  Comparison comparison{.model = o.model,
                        .size = o.size,
                        .unit = gpt ? "tokens" : "images",
                        .device = binade::device_description(device),
                        .steps = o.steps,
                        .batch = o.batch ? o.batch : gpt ? gpt_size(o.size).batch : 128,
                        .lr = o.lr > 0 ? o.lr : gpt ? gpt_size(o.size).lr : 2e-3,
                        .modes = {}};
  const TaskFactory factory = gpt ? gpt_task(o.size, comparison.batch, device) : mlp_task(o.size, comparison.batch, device);
  const TrainOptions options{.steps = o.steps, .evaluate_every = std::max<std::int64_t>(1, o.steps / 5), .lr = comparison.lr};
  for (const PrecisionMode& mode : modes) {
    ModeResult result{mode, {}};
    for (std::int64_t i = 0; i < o.seeds; ++i) {
      const std::uint64_t seed = o.seed + static_cast<std::uint64_t>(i);
      const std::string label = o.seeds > 1 ? fmt::format("{} {} seed {}", o.model, mode.name, seed)
                                            : fmt::format("{} {}", o.model, mode.name);
      result.seeds.push_back(train(factory, mode, seed, options, label));
    }
    comparison.modes.push_back(std::move(result));
  }
  print_table(comparison);
  if (!o.json.empty()) write_json(comparison, o.json);
  if (!o.html.empty()) write_html(comparison, o.html);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  return run_program(
      argc, argv, "Trains one model in several precisions and compares loss, speed and memory.",
      [&](CLI::App& app) { add_flags(app, options); }, [&] { compare(options); });
}
