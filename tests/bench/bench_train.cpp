// Training steps against their floor. The floor is the step's own matrix products, recorded while it runs and timed
// alone with the same kernels and operand types, attention counted as six full time x time products per layer.
// Step and floor alternate in one process; medians are compared, because absolute times drift.
#include <binade/binade.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "binade/core/backend/kernels.h"

using namespace binade;

namespace {

struct Options {
  std::string model = "char", precisions = "fp32", json;
  std::int64_t batch = 8, time = 256, pairs = 8;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double median(std::vector<double> v) {
  std::ranges::sort(v);
  return v.empty() ? 0 : (v[v.size() / 2] + v[(v.size() - 1) / 2]) / 2;
}

// ---- the matrix products of a step -----------------------------------------------------------------------------------

struct Product {  // shapes and types; memory is made when it is replayed
  TensorView a, b, bias, c;
  bool accumulate;
  std::int64_t times = 1;
};
std::vector<Product> recorded;
decltype(kernel::matmul)::Function real_matmul;
decltype(kernel::attention)::Function real_attention;

void record(const Product& p) {
  const auto same = [](const TensorView& x, const TensorView& y) {
    return bool(x) == bool(y) && x.shape == y.shape && x.strides == y.strides && x.dtype == y.dtype;
  };
  for (Product& q : recorded) {
    if (same(q.a, p.a) && same(q.b, p.b) && same(q.c, p.c) && same(q.bias, p.bias) && q.accumulate == p.accumulate) {
      q.times += p.times;
      return;
    }
  }
  recorded.push_back(p);
}

void recording_matmul(TensorView a, TensorView b, TensorView bias, TensorView c, kernel::MatmulOptions options) {
  record({a, b, bias, c, options.accumulate});
  real_matmul(a, b, bias, c, options);
}

TensorView described(const Shape& shape, DType dtype, bool transposed = false) {
  TensorView view{reinterpret_cast<std::byte*>(1), shape, contiguous_strides(shape), dtype, {}};
  if (transposed) {
    std::swap(view.shape[shape.size() - 1], view.shape[shape.size() - 2]);
    std::swap(view.strides[shape.size() - 1], view.strides[shape.size() - 2]);
  }
  return view;
}

void recording_attention(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
                         kernel::AttentionOptions options) {
  const std::int64_t batch = q.shape[0] * q.shape[1], tq = q.shape[2], tk = k.shape[2], d = q.shape[3];
  const auto product = [&](Shape a, bool ta, Shape b, bool tb, Shape c) {
    record({described(a, q.dtype, ta), described(b, q.dtype, tb), {}, described(c, q.dtype), false});
  };
  product({batch, tq, d}, false, {batch, tk, d}, true, {batch, tq, tk});   // scores
  product({batch, tq, tk}, false, {batch, tk, d}, false, {batch, tq, d});  // result
  product({batch, tq, d}, false, {batch, tk, d}, true, {batch, tq, tk});   // d probabilities
  product({batch, tq, tk}, true, {batch, tq, d}, false, {batch, tk, d});   // dv
  product({batch, tq, tk}, false, {batch, tk, d}, false, {batch, tq, d});  // dq
  product({batch, tq, tk}, true, {batch, tq, d}, false, {batch, tk, d});   // dk
  real_attention(q, k, v, mask, o, lse, options);
}

Tensor memory_for(const TensorView& described_view) {
  if (!described_view) return {};
  // A transposed view becomes a transposed view of fresh memory; other strides become contiguous.
  const int n = described_view.dim();
  const bool transposed = n >= 2 && described_view.stride(-2) == 1 && described_view.stride(-1) != 1;
  Shape shape = described_view.shape;
  if (transposed) std::swap(shape[n - 1], shape[n - 2]);
  Tensor x = randn(shape).to(described_view.dtype);
  return transposed ? x.t() : x;
}

class Floor {
 public:
  Floor() {
    const NoGrad no_grad;
    for (const Product& p : recorded)
      items_.push_back({memory_for(p.a), memory_for(p.b), memory_for(p.bias), memory_for(p.c), p.accumulate, p.times});
  }
  double seconds() const {
    double total = 0;
    for (const Item& item : items_) {
      for (std::int64_t i = 0; i < item.times; ++i) {
        const double start = now();
        real_matmul(item.a, item.b, item.bias, item.c, {.accumulate = item.accumulate});
        total += now() - start;
      }
    }
    return total;
  }

 private:
  struct Item {
    Tensor a, b, bias, c;
    bool accumulate;
    std::int64_t times;
  };
  std::vector<Item> items_;
};

// ---- the step -------------------------------------------------------------------------------------------------------

class Step {
 public:
  Step(const Options& o, DType precision) : precision_(precision) {
    manual_seed(1);
    if (o.model == "mlp") {
      model_ = std::make_unique<nn::Sequential>(nn::Linear(784, 256), nn::ReLU(), nn::Linear(256, 10));
      inputs_ = rand({o.batch, 784});
      targets_ = randint(0, 10, {o.batch});
      items = o.batch;
    } else {
      const bool gpt2 = o.model == "gpt2";
      check(gpt2 || o.model == "char", "--model: expected mlp, char or gpt2, got ", o.model);
      gpt_ = std::make_unique<nn::GPT>(gpt2 ? nn::GPTConfig{}
                                            : nn::GPTConfig{.vocab_size = 96,
                                                            .block_size = o.time,
                                                            .n_layer = 6,
                                                            .n_head = 6,
                                                            .n_embd = 384});
      inputs_ = randint(0, gpt2 ? 50257 : 96, {o.batch, o.time});
      targets_ = randint(0, gpt2 ? 50257 : 96, {o.batch, o.time});
      items = o.batch * o.time;
    }
    parameters_ = gpt_ ? gpt_->parameters() : model_->parameters();
    optimizer_ = std::make_unique<optim::AdamW>(parameters_, optim::AdamWOptions{.lr = 1e-4});
    scaler_ = std::make_unique<amp::GradScaler>(amp::GradScalerOptions{.enabled = precision == DType::f16});
  }

  double operator()() {
    const double start = now();
    Tensor loss;
    {
      const amp::Autocast autocast(precision_);
      loss = gpt_ ? gpt_->loss(inputs_, targets_) : cross_entropy((*model_)(inputs_), targets_);
    }
    scaler_->scale(loss).backward();
    scaler_->unscale_(*optimizer_);
    optim::clip_grad_norm_(parameters_, 1.0);
    scaler_->step(*optimizer_);
    scaler_->update();
    optimizer_->zero_grad();
    return now() - start;
  }

  std::int64_t items = 0;

 private:
  DType precision_;
  std::unique_ptr<nn::Sequential> model_;
  std::unique_ptr<nn::GPT> gpt_;
  Tensor inputs_, targets_;
  Tensors parameters_;
  std::unique_ptr<optim::AdamW> optimizer_;
  std::unique_ptr<amp::GradScaler> scaler_;
};

struct Shares : KernelObserver {
  std::map<std::string, std::pair<double, std::int64_t>, std::less<>> kernels;
  void on_kernel(std::string_view name, Device, double seconds) override {
    auto& entry = kernels[std::string(name)];
    entry.first += seconds;
    ++entry.second;
  }
};

nlohmann::json measure(const Options& o, const std::string& precision) {
  const DType dtype = precision == "fp32" ? DType::f32 : precision == "bf16" ? DType::bf16 : DType::f16;
  check(precision == "fp32" || precision == "bf16" || precision == "fp16", "--precision: expected fp32, bf16 or fp16, got ",
        precision);
  Step step(o, dtype);
  step();  // loads the kernels
  real_matmul = kernel::matmul.function(DeviceType::cpu);
  real_attention = kernel::attention.function(DeviceType::cpu);
  recorded.clear();
  kernel::matmul.provide(DeviceType::cpu, recording_matmul);
  kernel::attention.provide(DeviceType::cpu, recording_attention);
  step();
  kernel::matmul.provide(DeviceType::cpu, real_matmul);
  kernel::attention.provide(DeviceType::cpu, real_attention);

  Shares shares;
  kernel_observer = &shares;
  const double watched = step();
  kernel_observer = nullptr;
  reset_peak_memory();
  const MemoryStats before = memory_stats();
  step();
  const MemoryStats after = memory_stats();

  const Floor floor;
  std::vector<double> steps, floors;
  for (std::int64_t i = 0; i < o.pairs; ++i) {
    floors.push_back(floor.seconds());
    steps.push_back(step());
  }
  const double step_s = median(steps), floor_s = median(floors);
  fmt::print("{} {} batch {} x {}: step {:.1f} ms, floor {:.1f} ms, step/floor {:.3f}, {:.0f} items/s, peak {:.1f} MiB, "
             "{} system allocations in a steady step\n",
             o.model, precision, o.batch, o.time, 1e3 * step_s, 1e3 * floor_s, step_s / floor_s,
             static_cast<double>(step.items) / step_s, static_cast<double>(after.peak_total) / 1048576.0,
             after.system_allocations - before.system_allocations);
  std::vector<std::pair<double, std::string>> order;
  double in_kernels = 0;
  for (const auto& [name, entry] : shares.kernels) {
    order.emplace_back(entry.first, name);
    in_kernels += entry.first;
  }
  std::ranges::sort(order, std::greater());
  nlohmann::json kernels = nlohmann::json::object();
  for (const auto& [seconds, name] : order) {
    kernels[name] = {{"share", seconds / watched}, {"calls", shares.kernels.find(name)->second.second}};
    if (seconds / watched >= 0.002)
      fmt::print("  {:<26} {:5.1f} %  {:4} calls\n", name, 100 * seconds / watched,
                 shares.kernels.find(name)->second.second);
  }
  fmt::print("  {:<26} {:5.1f} %\n", "outside kernels", 100 * (1 - in_kernels / watched));
  return {{"model", o.model},
          {"precision", precision},
          {"batch", o.batch},
          {"seq", o.time},
          {"tokens_per_s", static_cast<double>(step.items) / step_s},
          {"step_ms", 1e3 * step_s},
          {"floor_ms", 1e3 * floor_s},
          {"step_over_floor", step_s / floor_s},
          {"peak_bytes", after.peak_total},
          {"kernels", kernels},
          {"outside_kernels", 1 - in_kernels / watched}};
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app("Times training steps against their matrix products alone.");
  app.add_option("--model", o.model, "mlp, char (6 layers, 384 wide) or gpt2 (124M)")->capture_default_str();
  app.add_option("--batch", o.batch, "Samples per step")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--seq", o.time, "Tokens per sample")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--precision", o.precisions, "Comma-separated: fp32, bf16, fp16")->capture_default_str();
  app.add_option("--pairs", o.pairs, "Alternating measurements")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--json", o.json, "Write the records to this file");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    nlohmann::json records = nlohmann::json::array();
    std::stringstream list(o.precisions);
    for (std::string precision; std::getline(list, precision, ',');) records.push_back(measure(o, precision));
    if (!o.json.empty()) {
      std::ofstream file(o.json);
      file << records.dump(1) << '\n';
      check(file.good(), "--json: cannot write ", o.json);
    }
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
