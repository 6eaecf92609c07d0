#include "step.h"

#include "clock.h"

namespace bench {

using namespace binade;

namespace {

std::optional<amp::Fp8Scaling> fp8_scaling(const std::string& precision) {
  if (precision == "fp8") return amp::Fp8Scaling::delayed;
  if (precision == "fp8_current") return amp::Fp8Scaling::current;
  return {};
}
DType autocast_dtype_of(const std::string& precision) {
  if (precision == "fp32") return DType::f32;
  if (precision == "fp16") return DType::f16;
  check(precision == "bf16" || fp8_scaling(precision), "--precision: expected fp32, bf16, fp16, fp8 or fp8_current, got ",
        precision);
  return DType::bf16;
}

}  // namespace

const Dimensions* dimensions_of(const Case& c) {
  if (c.model == "gpt2") return &gpt2_dimensions;
  if (c.model == "char") return &char_dimensions;
  check(c.model == "mlp", "--model: expected mlp, char, gpt2 or tiny-op, got ", c.model);
  return nullptr;
}

Step::Step(const Case& c) : autocast_(autocast_dtype_of(c.precision)), device_(c.device) {
  manual_seed(1);
  const Dimensions* d = dimensions_of(c);
  if (d) {
    gpt_ = std::make_unique<nn::GPT>(nn::GPTConfig{.vocab_size = d->vocabulary,
                                                   .block_size = std::max<std::int64_t>(c.time, d == &gpt2_dimensions ? 1024 : 1),
                                                   .n_layer = d->layers,
                                                   .n_head = d->heads,
                                                   .n_embd = d->channels,
                                                   .activation_checkpointing = c.activation_checkpointing,
                                                   .loss_chunk = c.loss_chunk});
    inputs_ = randint(0, d->vocabulary, {c.batch, c.time});
    targets_ = randint(0, d->vocabulary, {c.batch, c.time});
    items = c.batch * c.time;
  } else {
    const auto [in, hidden, out] = mlp_sizes;
    mlp_ = std::make_unique<nn::Sequential>(nn::Linear(in, hidden), nn::ReLU(), nn::Linear(hidden, out));
    inputs_ = rand({c.batch, in});
    targets_ = randint(0, out, {c.batch});
    items = c.batch;
  }
  nn::Module& model = d ? static_cast<nn::Module&>(*gpt_) : *mlp_;
  if (const auto scaling = fp8_scaling(c.precision))  // the mlp's only layer that can is its first
    nn::use_fp8(model, {.scaling = *scaling}, {.keep_first_and_last = d != nullptr});
  model.to(device_);
  inputs_ = inputs_.to(device_);
  targets_ = targets_.to(device_);
  optimizer_ = std::make_unique<optim::AdamW>(model.parameters(), optim::AdamWOptions{.lr = 1e-4});
  scaler_ = std::make_unique<amp::GradScaler>(amp::GradScalerOptions{.enabled = autocast_ == DType::f16});
  if (c.graphed) {
    graphed_ = std::make_unique<cuda::GraphedStep>(
        [this](const Tensors& batch) -> Tensors { return {run(batch[0], batch[1])}; },
        cuda::GraphedStepOptions{.device = device_});
  }
}

Tensor Step::run(const Tensor& inputs, const Tensor& targets) {
  Tensor loss;
  {
    const amp::Autocast autocast(autocast_);
    loss = gpt_ ? gpt_->loss(inputs, targets) : cross_entropy((*mlp_)(inputs), targets);
  }
  scaler_->scale(loss).backward();
  scaler_->step(*optimizer_, {.max_norm = 1.0});
  scaler_->update();
  optimizer_->zero_grad();
  return loss.detach();
}

double Step::operator()() {
  const double start = now();
  loss_ = graphed_ ? (*graphed_)({inputs_, targets_})[0] : run(inputs_, targets_);
  synchronize(device_);
  return now() - start;
}

}  // namespace bench
