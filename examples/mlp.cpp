// Trains a multi-layer perceptron on images: Fashion-MNIST, 8x8 digits, or any folder in MNIST's format.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <optional>

#include "common/models.h"
#include "common/parallel.h"
#include "common/training.h"

using namespace binade;
using namespace example;

namespace {

struct Options : RunOptions {
  std::string dataset = "fashion", data;
  std::int64_t hidden = 256;
};

data::TrainTest load_images(const Options& o) {
  if (!o.data.empty()) return data::idx_images(o.data);
  return o.dataset == "digits" ? data::digits() : data::fashion_mnist();
}

std::int64_t class_count(const data::TrainTest& sets) {  // labels count from 0
  return 1 + std::max(std::ranges::max(sets.train.targets().to_vector<std::int64_t>()),
                      std::ranges::max(sets.test.targets().to_vector<std::int64_t>()));
}

void train(const Options& o) {
  validate(o);
  const PrecisionMode mode = o.mode();
  const auto group = join_group(o);
  const Device device = group->device();
  manual_seed(o.seed);

  const data::TrainTest sets = load_images(o);
  const auto& [train_set, test_set] = sets;
  require_batch(o.batch, train_set.size());
  nn::Sequential model(nn::Linear(train_set.inputs().size(1), o.hidden), nn::ReLU(), nn::Linear(o.hidden, class_count(sets)));
  model.to(device);
  fmt::print("mlp: {} training and {} test images, {} parameters, {}\n", train_set.size(), test_set.size(),
             model.parameter_count(), mode.name);

  amp::GradScaler scaler({.enabled = mode.loss_scaling, .agree = dist::agree_on_overflow(group)});
  const auto schedule = optim::cosine({.lr = o.lr, .warmup = o.steps / 20, .steps = o.steps});
  Batches batches(train_set, sharded({.batch_size = o.batch, .shuffle = true, .drop_last = true, .seed = o.seed, .device = device},
                                     *group, o));
  const Parallel parallel(model, group, o);
  const auto optimizer = parallel.adamw(model, {.lr = o.lr, .weight_decay = 0.01});

  const Training training{model, *optimizer, scaler, batches};
  const std::int64_t first = training.start(o);
  auto metrics = open_metrics(o, first);

  Progress progress("mlp " + mode.name, "images/s", first, o.steps);
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t step = first; step < o.steps; ++step) {
    const double lr = schedule.lr_at(step);
    schedule.set_lr(*optimizer, step);
    const double loss = parallel.forward_backward(step, batches.next(), scaler, [&](const data::Batch& batch) {
      amp::Autocast autocast(mode.autocast);
      return cross_entropy(model(batch.inputs), batch.targets);
    });
    const Tensor grad_norm = scaler.step(*optimizer, {.max_norm = 1.0});
    scaler.update();
    optimizer->zero_grad();
    if (o.zero1 && step == first) progress.line("mlp: " + parallel.optimizer_memory());

    const double rate = static_cast<double>((step + 1 - first) * o.batch) / seconds_since(start);
    const StepReport report{step, loss, lr, grad_norm.item<double>(), rate, "images_per_s", device};
    progress.update(report.progress(scaler));
    std::optional<Accuracy> test;
    if (parallel.first() && step + 1 == o.steps) {
      amp::Autocast autocast(mode.autocast);
      test = evaluate(model, test_set, device);
    }
    if (metrics) metrics->write(step, report.metrics(scaler, test ? std::optional(test->loss) : std::nullopt));
    if (o.saves_after(step)) training.save(o.checkpoint, step + 1);
    if (test) {
      progress.finish();
      fmt::print("mlp {}: test loss {:.4f}, test accuracy {:.2f} %\n", mode.name, test->loss, 100 * test->accuracy);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  options.steps = 4000;
  options.batch = 128;
  options.lr = 2e-3;
  return run_program(
      argc, argv, "Trains an MLP on images in fp32, bf16 or fp16.",
      [&](CLI::App& app) {
        add_run_options(app, options);
        app.add_option("--dataset", options.dataset, "fashion or digits (8x8)")
            ->check(CLI::IsMember({"fashion", "digits"}))
            ->capture_default_str();
        app.add_option("--data", options.data, "A folder with the four MNIST-format files, plain or .gz");
        app.add_option("--hidden", options.hidden, "Width of the hidden layer")
            ->check(CLI::PositiveNumber)
            ->capture_default_str();
      },
      [&] { train(options); });
}
