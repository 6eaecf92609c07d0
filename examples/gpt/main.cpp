// Trains a GPT-2-style language model on a text and writes some text at the end.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <optional>

#include "common/models.h"
#include "common/parallel.h"
#include "common/training.h"

using namespace binade;
using namespace example;

namespace {

struct Options : RunOptions {
  std::string size = "tiny", data, unit = "characters", prompt = "\n";
  std::int64_t context = 0, generate = 0, evaluate_every = 0;
  double dropout = 0;
};

void write_text(nn::GPT& model, const data::TextDataset& text, const Options& o, Device device) {
  const NoGrad no_grad;
  model.eval();
  const std::vector<std::int64_t> prompt = text.encode(o.prompt);
  const Tensor start = from_vector(prompt, {1, static_cast<std::int64_t>(prompt.size())}).to(device);
  const Tensor tokens = model.generate(start, o.generate, {.temperature = 0.8, .top_k = 40});
  fmt::print("---- {} tokens from the model ----\n{}\n----\n", o.generate, text.decode(tokens.to_vector<std::int64_t>()));
}

// Before the training, not after it.
void require_prompt(const data::TextDataset& text, const std::string& prompt) {
  require(!prompt.empty(), "--prompt: expected at least one character");
  try {
    text.encode(prompt);
  } catch (const Error& error) {
    throw UsageError(std::string("--prompt: ") + error.what());
  }
}

void train(Options o) {
  const GptSize size = gpt_size(o.size);
  if (o.batch == 0) o.batch = size.batch;
  if (o.lr == 0) o.lr = size.lr;
  const std::int64_t context = o.context ? o.context : size.context;
  validate(o);
  const PrecisionMode mode = o.mode();
  const auto group = join_group(o);
  const Device device = group->device();
  manual_seed(o.seed);

  const auto text = data::text_file(o.data.empty() ? default_text() : o.data,
                                    o.unit == "bytes" ? data::TextUnit::bytes : data::TextUnit::characters);
  const data::TextWindows windows = text.train(context), validation = text.validation(context);
  require_batch(o.batch, windows.size());
  if (o.generate > 0) require_prompt(text, o.prompt);
  nn::GPT model({.vocab_size = text.vocab_size(),
                 .block_size = context,
                 .n_layer = size.layers,
                 .n_head = size.heads,
                 .n_embd = size.width,
                 .dropout = o.dropout});
  model.to(device);
  fmt::print("gpt: {} tokens of {} kinds, {} parameters, context {}, {}\n", text.size(), text.vocab_size(),
             model.parameter_count(), context, mode.name);

  amp::GradScaler scaler({.enabled = mode.loss_scaling, .agree = dist::agree_on_overflow(group)});
  const auto schedule =
      optim::cosine({.lr = o.lr, .min_lr = o.lr / 10, .warmup = o.steps / 20, .steps = o.steps});
  Batches batches(windows, sharded({.batch_size = o.batch, .shuffle = true, .seed = o.seed, .device = device}, *group, o));
  const Parallel parallel(model, group, o);
  const auto optimizer = parallel.adamw(model, {.lr = o.lr, .beta2 = 0.99, .weight_decay = 0.1});

  const Training training{model, *optimizer, scaler, batches};
  const std::int64_t first = training.start(o);
  auto metrics = open_metrics(o, first);

  const auto validate_now = [&] {
    const NoGrad no_grad;
    const amp::Autocast autocast(mode.autocast);
    model.eval();
    const double loss = validation_loss(model, validation, o.batch, 40);
    model.train();
    return loss;
  };

  Progress progress("gpt " + mode.name, "tokens/s", first, o.steps);
  double training_seconds = 0, last_validation = NAN;
  for (std::int64_t step = first; step < o.steps; ++step) {
    const auto start = std::chrono::steady_clock::now();
    const double lr = schedule.lr_at(step);
    schedule.set_lr(*optimizer, step);
    const double loss_value = parallel.forward_backward(step, batches.next(), scaler, [&](const data::Batch& batch) {
      amp::Autocast autocast(mode.autocast);
      return model.loss(batch.inputs, batch.targets);
    });
    const Tensor grad_norm = scaler.step(*optimizer, {.max_norm = 1.0});
    scaler.update();
    optimizer->zero_grad();
    if (o.zero1 && step == first) progress.line("gpt: " + parallel.optimizer_memory());

    training_seconds += seconds_since(start);
    const double rate = static_cast<double>((step + 1 - first) * o.batch * context) / training_seconds;
    const StepReport report{step, loss_value, lr, grad_norm.item<double>(), rate, "tokens_per_s", device};
    progress.update(report.progress(scaler));
    std::optional<double> evaluated;
    if (parallel.first() && (step + 1 == o.steps || (step + 1) % o.evaluate_every == 0)) {
      evaluated = last_validation = validate_now();
      progress.line(fmt::format("gpt {}  step {}  validation loss {:.4f}", mode.name, step + 1, last_validation));
    }
    if (metrics) metrics->write(step, report.metrics(scaler, evaluated));
    if (o.saves_after(step)) training.save(o.checkpoint, step + 1);
  }
  progress.finish();
  if (!parallel.first()) return;

  const CountingBaselines counting = counting_baselines(text);
  fmt::print("gpt {}: validation loss {:.4f} nats per token; counting alone: unigram {:.4f}, bigram {:.4f}\n", mode.name,
             last_validation, counting.unigram, counting.bigram);
  if (o.generate > 0) write_text(model, text, o, device);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  options.steps = 300;
  options.evaluate_every = 100;
  return run_program(
      argc, argv, "Trains a GPT-2-style language model in fp32, bf16 or fp16.",
      [&](CLI::App& app) {
        add_run_options(app, options);
        app.add_option("--size", options.size, "tiny (0.8M parameters), small (11M) or gpt2 (GPT-2's 124M shape)")
            ->check(CLI::IsMember({"tiny", "small", "gpt2"}))
            ->capture_default_str();
        app.add_option("--data", options.data, "A text file, plain or .gz (default: the King James text)");
        app.add_option("--unit", options.unit, "What a token is: characters or bytes")
            ->check(CLI::IsMember({"characters", "bytes"}))
            ->capture_default_str();
        app.add_option("--context", options.context, "Tokens a sample holds (default: by size)")
            ->check(CLI::PositiveNumber);
        app.add_option("--dropout", options.dropout, "Dropout probability")
            ->check(CLI::Range(0.0, 0.99))
            ->capture_default_str();
        app.add_option("--evaluate-every", options.evaluate_every, "Steps between validations")
            ->check(CLI::PositiveNumber)
            ->capture_default_str();
        app.add_option("--generate", options.generate, "Write this many tokens of text at the end")
            ->check(CLI::NonNegativeNumber);
        app.add_option("--prompt", options.prompt, "What the generated text starts with");
      },
      [&] { train(options); });
}
