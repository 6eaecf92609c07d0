#include "binade/ops/nn/transformer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "binade/core/autograd/autocast_state.h"
#include "binade/core/autograd/checkpoint.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/core/base/random.h"
#include "binade/ops/nn/init.h"

namespace binade::nn {

namespace {
// What autocast casts the operands of products to. Norms that only products read write it straight away: the same bits.
DType product_dtype() { return autocast_state().on ? autocast_state().dtype : DType::f32; }
}  // namespace

MultiHeadAttention::MultiHeadAttention(std::int64_t channels, std::int64_t head_count, AttentionSettings settings)
    : heads(head_count),
      causal(settings.causal),
      dropout_p(settings.dropout),
      qkv(add("qkv", Linear(channels, 3 * channels, {.bias = settings.bias}))),
      proj(add("proj", Linear(channels, channels, {.bias = settings.bias}))) {
  check(heads > 0 && channels % heads == 0, "MultiHeadAttention: heads must divide the channels: ", channels,
        " channels, ", heads, " heads");
}

Tensor MultiHeadAttention::before_dropout(const Tensor& x, const Tensor& lengths) const {
  const ModuleScope inside = enter();
  const double p = training() ? dropout_p : 0;
  return proj(packed_self_attention(qkv(x), heads, {.is_causal = causal, .dropout = p, .lengths = lengths}));
}
Tensor MultiHeadAttention::operator()(const Tensor& x, const Tensor& lengths) const {
  const ModuleScope inside = enter();
  return dropout(before_dropout(x, lengths), result_dropout());
}

MLP::MLP(std::int64_t channels, std::int64_t hidden, MLPSettings settings)
    : dropout_p(settings.dropout),
      fc(add("fc", Linear(channels, hidden, {.bias = settings.bias, .activation = Activation::gelu_tanh}))),
      proj(add("proj", Linear(hidden, channels, {.bias = settings.bias}))) {}

Tensor MLP::before_dropout(const Tensor& x) const {
  const ModuleScope inside = enter();
  return proj(fc(x));
}
Tensor MLP::operator()(const Tensor& x) const {
  const ModuleScope inside = enter();
  return dropout(before_dropout(x), result_dropout());
}

TransformerBlock::TransformerBlock(std::int64_t channels, std::int64_t heads, AttentionSettings settings)
    : ln_1(add("ln_1", LayerNorm(channels, {.bias = settings.bias}))),
      attn(add("attn", MultiHeadAttention(channels, heads, settings))),
      ln_2(add("ln_2", LayerNorm(channels, {.bias = settings.bias}))),
      mlp(add("mlp", MLP(channels, 4 * channels, {.dropout = settings.dropout, .bias = settings.bias}))) {}

Tensor TransformerBlock::operator()(const Tensor& x, const Tensor& lengths) const {
  const ModuleScope inside = enter();
  const NormedSum y = attended(x, ln_1(x, product_dtype()), lengths);
  return y.sum + mlp(y.normed);
}

NormedSum TransformerBlock::operator()(const NormedSum& x, const LayerNorm& next, const Tensor& lengths) const {
  const ModuleScope inside = enter();
  const NormedSum y = attended(x.sum, x.normed, lengths);
  return next.of_sum(y.sum, mlp.before_dropout(y.normed), {.dropout = mlp.result_dropout(), .dtype = product_dtype()});
}

NormedSum TransformerBlock::attended(const Tensor& x, const Tensor& normed, const Tensor& lengths) const {
  return ln_2.of_sum(x, attn.before_dropout(normed, lengths),
                     {.dropout = attn.result_dropout(), .dtype = product_dtype()});
}

GPT::GPT(const GPTConfig& settings)
    : config(settings),
      wte(add("wte", Embedding(config.vocab_size, config.n_embd))),
      wpe(add("wpe", Embedding(config.block_size, config.n_embd))),
      drop(add("drop", Dropout(config.dropout))),
      ln_f(LayerNorm(config.n_embd, {.bias = config.bias})) {
  check(config.n_layer > 0, "GPT: n_layer must be positive, got ", config.n_layer);
  check(config.loss_chunk >= 0, "GPT: loss_chunk must not be negative, got ", config.loss_chunk);
  Module blocks = add("h", Module());
  for (std::int64_t i = 0; i < config.n_layer; ++i) {
    h.push_back(blocks.add(std::to_string(i),
                           TransformerBlock(config.n_embd, config.n_head,
                                            {.causal = true, .dropout = config.dropout, .bias = config.bias})));
  }
  add("ln_f", ln_f);

  // GPT-2's start: N(0, 0.02), biases 0; the 2 n_layer projections into the residual stream are made smaller, so that
  // its variance does not grow with depth.
  const double residual_stddev = 0.02 / std::sqrt(2.0 * static_cast<double>(config.n_layer));
  for (const auto& [name, x] : named_parameters()) {
    if (name.ends_with("proj.weight")) init::normal_(x, 0, residual_stddev);
    else if (x.dim() == 2) init::normal_(x, 0, 0.02);
    else if (name.ends_with("bias")) init::constant_(x, 0);
  }
}

Tensor GPT::hidden(const Tensor& tokens) const {
  const ModuleScope inside = enter();
  check(tokens.defined() && tokens.dim() == 2, "GPT: tokens must be [batch, time], got ",
        tokens ? to_text(tokens.shape()) : "an undefined tensor");
  const std::int64_t time = tokens.size(1);
  check(time > 0 && time <= config.block_size, "GPT: time must be 1 to block_size = ", config.block_size, ", got ",
        time);
  const Tensor positions = arange(0, static_cast<double>(time), 1, {.dtype = DType::i64, .device = tokens.device()});
  Tensor x = drop(wte(tokens) + wpe(positions));  // [batch, time, n_embd] + [time, n_embd]
  if (config.activation_checkpointing) {
    for (const TransformerBlock& block : h) x = checkpoint([block](const Tensors& in) { return block(in[0]); }, {x});
    return ln_f(x, product_dtype());
  }
  NormedSum stream{x, h.front().ln_1(x, product_dtype())};
  for (std::size_t i = 0; i < h.size(); ++i) stream = h[i](stream, i + 1 < h.size() ? h[i + 1].ln_1 : ln_f);
  return stream.normed;
}

Tensor GPT::forward(const Tensor& tokens) const {
  const ModuleScope inside = enter();
  return linear(hidden(tokens), wte.weight);
}

Tensor GPT::loss(const Tensor& tokens, const Tensor& targets) const {
  const ModuleScope inside = enter();
  check(targets.defined() && targets.shape() == tokens.shape(), "GPT: loss: targets must have the shape of tokens ",
        tokens.shape(), ", got ", targets ? to_text(targets.shape()) : "an undefined tensor");
  const bool at_once = config.loss_chunk == 0;
  if (at_once && tokens.device().type == DeviceType::cpu) return cross_entropy(forward(tokens), targets);
  return linear_cross_entropy(hidden(tokens), wte.weight, targets,
                              {.batch_chunk_size = at_once ? std::max<std::int64_t>(1, tokens.numel()) : config.loss_chunk});
}

namespace {

// One draw from softmax(logits / temperature) among the top_k largest; `u` is uniform in [0, 1).
std::int64_t sample(std::span<const double> logits, GenerateOptions options, double u) {
  std::vector<std::int64_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
  const auto logit = [&](std::int64_t i) { return logits[static_cast<std::size_t>(i)]; };
  // Ties by index, so that the choice does not depend on the sorting algorithm.
  const auto larger = [&](std::int64_t a, std::int64_t b) {
    return logit(a) > logit(b) || (logit(a) == logit(b) && a < b);
  };
  if (options.temperature == 0) return *std::min_element(order.begin(), order.end(), larger);
  if (options.top_k > 0 && options.top_k < static_cast<std::int64_t>(order.size())) {
    std::partial_sort(order.begin(), order.begin() + options.top_k, order.end(), larger);
    order.resize(static_cast<std::size_t>(options.top_k));
  }
  double top = -std::numeric_limits<double>::infinity(), sum = 0;
  for (const std::int64_t i : order) top = std::max(top, logit(i));
  std::vector<double> weights;
  for (const std::int64_t i : order) {
    weights.push_back(std::exp((logit(i) - top) / options.temperature));
    sum += weights.back();
  }
  check(std::isfinite(sum), "GPT: generate: the logits are not finite");
  double left = u * sum;
  for (std::size_t i = 0; i < order.size(); ++i) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order.back();
}

struct EvalScope {  // eval() for the time of a scope
  explicit EvalScope(Module& module) : module_(module), was_(module.training()) { module_.eval(); }
  ~EvalScope() {
    if (was_) module_.train();
  }
  EvalScope(const EvalScope&) = delete;
  EvalScope& operator=(const EvalScope&) = delete;

 private:
  Module& module_;
  bool was_;
};

}  // namespace

Tensor GPT::generate(const Tensor& tokens, std::int64_t count, GenerateOptions options) {
  check(options.temperature >= 0, "GPT: generate: temperature must not be negative, got ", options.temperature);
  check(count >= 0, "GPT: generate: count must not be negative, got ", count);
  check(tokens.defined() && tokens.dim() == 2 && tokens.numel() > 0,
        "GPT: generate: tokens must be [batch, time] and not empty, got ",
        tokens ? to_text(tokens.shape()) : "an undefined tensor");
  const NoGrad no_grad;
  const EvalScope eval_scope(*this);
  const std::int64_t batch = tokens.size(0), vocab = config.vocab_size;
  Tensor all = tokens;
  for (std::int64_t step = 0; step < count; ++step) {
    const std::int64_t time = all.size(1), seen = std::min(time, config.block_size);
    const Tensor last = hidden(all.narrow(1, time - seen, seen)).select(1, seen - 1);  // [batch, n_embd]
    const std::vector<double> logits = linear(last, wte.weight).to_vector<double>();
    const PhiloxState draw = next_draw();
    std::vector<std::int64_t> next;
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::span<const double> row(logits.data() + b * vocab, static_cast<std::size_t>(vocab));
      next.push_back(sample(row, options, uniform_from_word(philox_word(draw, static_cast<std::uint64_t>(b)))));
    }
    all = cat({all, from_vector(next, {batch, 1}, {.dtype = all.dtype(), .device = all.device()})}, 1);
  }
  return all;
}

}  // namespace binade::nn
