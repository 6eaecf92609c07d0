// Attention: softmax(scale q k^T + mask) v, from separate or packed q, k, v; and rotary position embedding.
#include <cmath>
#include <limits>
#include <optional>

#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/base/random.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"
#include "binade/ops/rotary_tables.h"

namespace binade {

namespace {

Tensor last_contiguous(const Tensor& x) {  // what the kernels ask for
  return x.size(-1) <= 1 || x.strides().back() == 1 ? x : contiguous_values(x);
}

DType statistics_dtype(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// Of a batch of sequences: i32 [batch] as kernels get them, or both undefined where every sequence is whole.
struct Lengths {
  Tensor q, kv;
};
Lengths checked_lengths(const Tensor& q, const Tensor& kv, std::int64_t time_q, std::int64_t time_k) {
  if (!q && !kv) return {};
  const Tensor& given = q ? q : kv;
  const Spec spec{{given.size(0)}, DType::i32};
  const Lengths checked{empty(spec, given.device()), empty(spec, given.device())};
  kernel::attention_lengths(checked.q, checked.kv, q, kv, time_q, time_k);
  return checked;
}
Lengths checked_lengths(const Tensor& both, std::int64_t time) {
  if (!both) return {};
  const Tensor checked = empty(Spec{{both.size(0)}, DType::i32}, both.device());
  kernel::attention_lengths(checked, {}, both, {}, time, time);
  return {checked, checked};
}
void check_lengths(std::string_view op, const char* what, const Tensor& lengths, const Tensor& x) {
  if (!lengths) return;
  check(lengths.dtype() == DType::i32 || lengths.dtype() == DType::i64, op, ": ", what, " must be i32 or i64, got ",
        lengths.dtype());
  check(lengths.dim() == 1 && lengths.size(0) == x.size(0), op, ": ", what, " must be [", x.size(0),
        "], one for each sequence, got ", lengths.shape());
}
std::vector<std::int64_t> lengths_of(const Tensor& lengths, std::int64_t batch, std::int64_t time) {
  return lengths ? lengths.to_vector<std::int64_t>() : std::vector(static_cast<std::size_t>(batch), time);
}

struct AttentionCall {  // options of one call, with the dropout's draw
  bool causal = false;
  std::optional<double> scale;
  double dropout = 0;
  PhiloxState state;

  kernel::AttentionOptions kernel_options(std::int64_t d, const Lengths& lengths = {}) const {
    const double standard = d == 0 ? 1.0 : 1 / std::sqrt(static_cast<double>(d));
    return {.scale = scale.value_or(standard),
            .causal = causal,
            .dropout = dropout,
            .state = state,
            .q_lengths = lengths.q,
            .kv_lengths = lengths.kv};
  }
};

template <class Options>
AttentionCall make_call(std::string_view op, const Options& options) {
  check(options.dropout >= 0 && options.dropout < 1, op, ": dropout must be at least 0 and less than 1, got ",
        options.dropout);
  return {options.is_causal, options.scale, options.dropout, options.dropout > 0 ? next_draw() : PhiloxState{}};
}

struct ReferenceSizes {
  std::int64_t batch, heads, time_q, time_k, d;
  std::vector<std::int64_t> q_lengths, kv_lengths;
};
// f64 loops on contiguous [batch, heads, time, d] given by a function of (batch, head, time, channel).
template <class Query, class Key, class Value, class Mask, class Out>
void reference_attention(const ReferenceSizes& sizes, const kernel::AttentionOptions& options, const Query& query,
                         const Key& key, const Value& value, const Mask& mask, const Out& out) {
  std::vector<double> p(static_cast<std::size_t>(sizes.time_k));
  for (std::int64_t b = 0; b < sizes.batch; ++b)
    for (std::int64_t h = 0; h < sizes.heads; ++h)
      for (std::int64_t i = 0; i < sizes.time_q; ++i) {
        const auto sequence = static_cast<std::size_t>(b);
        const std::int64_t keys = i < sizes.q_lengths[sequence] ? sizes.kv_lengths[sequence] : 0;
        double top = -std::numeric_limits<double>::infinity(), sum = 0;
        for (std::int64_t j = 0; j < keys; ++j) {
          double score = 0;
          for (std::int64_t c = 0; c < sizes.d; ++c) score += query(b, h, i, c) * key(b, h, j, c);
          score = options.causal && j > i ? -std::numeric_limits<double>::infinity()
                                          : score * options.scale + mask(b, h, i, j);
          p[static_cast<std::size_t>(j)] = score;
          top = std::max(top, score);
        }
        for (std::int64_t j = 0; j < keys; ++j) {
          double& score = p[static_cast<std::size_t>(j)];
          sum += score = std::isinf(top) ? 0.0 : std::exp(score - top);
        }
        for (std::int64_t j = 0; j < keys && options.dropout > 0; ++j) {
          const auto word = static_cast<std::uint64_t>(((b * sizes.heads + h) * sizes.time_q + i) * sizes.time_k + j);
          const bool kept = static_cast<double>(uniform_from_word(philox_word(options.state, word))) >= options.dropout;
          p[static_cast<std::size_t>(j)] *= kept ? 1 / (1 - options.dropout) : 0;
        }
        for (std::int64_t c = 0; c < sizes.d; ++c) {
          double total = 0;
          for (std::int64_t j = 0; j < keys; ++j) total += p[static_cast<std::size_t>(j)] * value(b, h, j, c);
          out(b, h, i, c) = sum == 0 ? 0 : total / sum;
        }
      }
}

struct Attention : Op {
  AttentionCall call;

  std::string_view name() const override { return "scaled_dot_product_attention"; }
  Precision precision() const override { return Precision::low; }

  Spec infer(Inputs in) const override {
    const Tensor &q = in[0], &k = in[1], &v = in[2], &mask = in[3];
    for (const auto& [what, x] : {std::pair<const char*, const Tensor&>("q", q), {"k", k}, {"v", v}}) {
      check_float(name(), what, x);
      check_dims(name(), what, x, 4);
    }
    check_same_dtype(name(), "q", q, "k", k);
    check_same_dtype(name(), "q", q, "v", v);
    check(k.shape() == v.shape(), name(), ": k and v must have one shape: k is ", k.shape(), ", v is ", v.shape());
    check(q.size(0) == k.size(0) && q.size(3) == k.size(3), name(),
          ": q and k must agree in batch and last dimension: q is ", q.shape(), ", k is ", k.shape());
    check(k.size(1) > 0 ? q.size(1) % k.size(1) == 0 : q.size(1) == 0, name(),
          ": q's heads must be a multiple of k's: q is ", q.shape(), ", k is ", k.shape());
    if (mask) {
      check(mask.dtype() == DType::boolean || is_arithmetic_float(mask.dtype()), name(),
            ": mask must be bool or floating, got ", mask.dtype());
      const Shape scores = scores_shape(q, k);
      const bool fits = mask.dim() <= 4 && broadcast_shapes(mask.shape(), scores, name()) == scores;
      check(fits, name(), ": mask must broadcast to ", scores, ", got ", mask.shape());
    }
    check_lengths(name(), "q_lengths", in[4], q);
    check_lengths(name(), "kv_lengths", in[5], q);
    return q.spec();
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Spec spec = infer(in);
    const Tensor q = last_contiguous(in[0]), k = last_contiguous(in[1]), v = last_contiguous(in[2]), mask = in[3];
    const Tensor o = empty(spec, q.device());
    const Tensor lse = empty(Spec{{q.size(0), q.size(1), q.size(2)}, statistics_dtype(q.dtype())}, q.device());
    const Lengths lengths = checked_lengths(in[4], in[5], q.size(2), k.size(2));
    if (o.numel() > 0)
      kernel::attention(q, k, v, mask_view(mask, q, k), o, lse, call.kernel_options(q.size(3), lengths));
    for (const Tensor& x : {q, k, v, mask, o, lse, lengths.q, lengths.kv}) saved.save(x);
    return o;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor q = saved[0], k = saved[1], v = saved[2], mask = saved[3], o = saved[4], lse = saved[5];
    Tensor gradients[3];
    for (std::size_t i = 0; i < 3; ++i)
      if (out.wanted(i)) gradients[i] = empty(saved[i].spec(), q.device());
    if (o.numel() > 0) {
      kernel::attention_backward(q, k, v, mask_view(mask, q, k), o, lse, last_contiguous(dy), gradients[0],
                                 gradients[1], gradients[2], call.kernel_options(q.size(3), {saved[6], saved[7]}));
    } else {
      for (const Tensor& gradient : gradients)
        if (gradient) kernel::fill(gradient, 0);
    }
    for (std::size_t i = 0; i < 3; ++i)
      if (gradients[i]) out.put(i, gradients[i]);
  }
  Tensor reference(Inputs in) const override {
    const Tensor q = contiguous_values(in[0]), k = contiguous_values(in[1]), v = contiguous_values(in[2]);
    const Tensor o = empty(infer(in), q.device()), mask = in[3];
    const Shape shape = q.shape();
    const std::int64_t time_k = k.size(2), d = shape[3], group = k.size(1) == 0 ? 1 : shape[1] / k.size(1);
    const auto element = [](const Tensor& x, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t c) -> double& {
      return x.data<double>()[static_cast<std::size_t>(((b * x.size(1) + h) * x.size(2) + i) * x.size(3) + c)];
    };
    const auto masked = [&](std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) {
      if (!mask) return 0.0;
      const std::int64_t index[] = {b, h, i, j};
      std::int64_t position = 0;
      for (int dim = 0; dim < mask.dim(); ++dim)
        position = position * mask.shape()[dim] + (mask.shape()[dim] == 1 ? 0 : index[4 - mask.dim() + dim]);
      const double value = mask.at(position);
      if (mask.dtype() != DType::boolean) return value;
      return value != 0 ? 0.0 : -std::numeric_limits<double>::infinity();
    };
    reference_attention(
        {shape[0], shape[1], shape[2], time_k, d, lengths_of(in[4], shape[0], shape[2]),
         lengths_of(in[5], shape[0], time_k)},
        call.kernel_options(d), [&](auto b, auto h, auto i, auto c) { return element(q, b, h, i, c); },
        [&](auto b, auto h, auto j, auto c) { return element(k, b, h / group, j, c); },
        [&](auto b, auto h, auto j, auto c) { return element(v, b, h / group, j, c); }, masked,
        [&](auto b, auto h, auto i, auto c) -> double& { return element(o, b, h, i, c); });
    return o;
  }

 private:
  static Shape scores_shape(const Tensor& q, const Tensor& k) { return {q.size(0), q.size(1), q.size(2), k.size(2)}; }
  static TensorView mask_view(const Tensor& mask, const Tensor& q, const Tensor& k) {
    return mask ? detail::broadcast_view(mask, scores_shape(q, k)) : TensorView();
  }
};

// qkv [batch, time, 3 * heads * d]: q, k and v are views of it, and so are their gradients of its gradient.
struct PackedAttention : Op {
  std::int64_t heads = 1;
  AttentionCall call;

  std::string_view name() const override { return "packed_self_attention"; }
  Precision precision() const override { return Precision::low; }

  Spec infer(Inputs in) const override {
    const Tensor& qkv = in[0];
    check_float(name(), "qkv", qkv);
    check_dims(name(), "qkv", qkv, 3);
    check(heads > 0 && qkv.size(2) % (3 * heads) == 0, name(), ": the last dimension must be 3 * heads * d with ",
          heads, " heads, got ", qkv.shape());
    check_lengths(name(), "lengths", in[1], qkv);
    return {{qkv.size(0), qkv.size(1), qkv.size(2) / 3}, qkv.dtype()};
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Spec spec = infer(in);
    const Tensor qkv = last_contiguous(in[0]), o = empty(spec, qkv.device());
    const Tensor lse = empty(Spec{{qkv.size(0), heads, qkv.size(1)}, statistics_dtype(qkv.dtype())}, qkv.device());
    const Lengths lengths = checked_lengths(in[1], qkv.size(1));
    if (o.numel() > 0)
      kernel::attention(by_heads(qkv, 0, 3), by_heads(qkv, 1, 3), by_heads(qkv, 2, 3), {}, by_heads(o, 0, 1), lse,
                        call.kernel_options(spec.shape[2] / heads, lengths));
    for (const Tensor& x : {qkv, o, lse, lengths.q}) saved.save(x);
    return o;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor qkv = saved[0], o = saved[1], lse = saved[2], d_o = last_contiguous(dy);
    const Tensor dqkv = empty(qkv.spec(), qkv.device());
    if (o.numel() > 0)
      kernel::attention_backward(by_heads(qkv, 0, 3), by_heads(qkv, 1, 3), by_heads(qkv, 2, 3), {}, by_heads(o, 0, 1),
                                 lse, by_heads(d_o, 0, 1), by_heads(dqkv, 0, 3), by_heads(dqkv, 1, 3),
                                 by_heads(dqkv, 2, 3), call.kernel_options(o.size(2) / heads, {saved[3], saved[3]}));
    out.put(0, dqkv);
  }
  Tensor reference(Inputs in) const override {
    const Tensor qkv = contiguous_values(in[0]), o = empty(infer(in), qkv.device());
    const std::int64_t batch = qkv.size(0), time = qkv.size(1), width = o.size(2), d = width / heads;
    const auto x = qkv.data<double>(), y = o.data<double>();
    const auto part = [&](std::int64_t which) {
      return [&, which](auto b, auto h, auto i, auto c) {
        return x[static_cast<std::size_t>((b * time + i) * 3 * width + which * width + h * d + c)];
      };
    };
    const std::vector<std::int64_t> lengths = lengths_of(in[1], batch, time);
    reference_attention(
        {batch, heads, time, time, d, lengths, lengths}, call.kernel_options(d), part(0), part(1), part(2),
        [](auto, auto, auto, auto) { return 0.0; },
        [&](auto b, auto h, auto i, auto c) -> double& {
          return y[static_cast<std::size_t>((b * time + i) * width + h * d + c)];
        });
    return o;
  }

 private:
  // Part `which` of `parts` of x [batch, time, parts * heads * d] as [batch, heads, time, d].
  TensorView by_heads(const Tensor& x, std::int64_t which, std::int64_t parts) const {
    TensorView view = x;
    const std::int64_t width = x.size(2) / parts, d = width / heads;
    view.data += which * width * size_of(x.dtype());
    view.shape = {x.size(0), heads, x.size(1), d};
    view.strides = {x.strides()[0], d, x.strides()[1], 1};
    return view;
  }
};

struct Rotary : Op {
  RotaryOptions options;

  std::string_view name() const override { return "rotary_embedding"; }
  Precision precision() const override { return Precision::as_is; }

  Spec infer(Inputs in) const override {
    const Tensor& x = in[0];
    check_float(name(), "x", x);
    check(x.dim() >= 2 && x.size(-1) % 2 == 0, name(), ": x must be [.., time, d] with even d, got ", x.shape());
    check(options.base > 0, name(), ": base must be positive, got ", options.base);
    return x.spec();
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Tensor& x = in[0];
    const Tensor y = empty(infer(in), x.device());
    const auto [cosines, sines] = rotary_tables({.start = options.start,
                                                 .time = x.size(-2),
                                                 .pairs = x.size(-1) / 2,
                                                 .base = options.base,
                                                 .dtype = statistics_dtype(x.dtype()),
                                                 .device = x.device()});
    kernel::rotary(x, cosines, sines, y, options.interleaved, false);
    saved.save(cosines);
    saved.save(sines);
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor dx = empty(dy.spec(), dy.device());
    kernel::rotary(dy, saved[0], saved[1], dx, options.interleaved, true);
    out.put(0, dx);
  }
  Tensor reference(Inputs in) const override {
    const Tensor x = contiguous_values(in[0]), y = empty(infer(in), x.device());
    const auto d = static_cast<std::size_t>(x.size(-1)), time = static_cast<std::size_t>(x.size(-2));
    const auto from = x.data<double>(), to = y.data<double>();
    for (std::size_t i = 0; i < from.size(); ++i) {
      const std::size_t channel = i % d, row = i / d, position = row % time;
      const std::size_t pair = options.interleaved ? channel / 2 : channel % (d / 2);
      const bool first = options.interleaved ? channel % 2 == 0 : channel < d / 2;
      const std::size_t partner = row * d + (options.interleaved ? channel ^ 1U : (channel + d / 2) % d);
      const double angle = (static_cast<double>(options.start) + static_cast<double>(position)) /
                           std::pow(options.base, 2 * static_cast<double>(pair) / static_cast<double>(d));
      to[i] = from[i] * std::cos(angle) + (first ? -1 : 1) * from[partner] * std::sin(angle);
    }
    return y;
  }

};

}  // namespace

Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask,
                                    SdpaOptions options) {
  Attention op;
  op.call = make_call(op.name(), options);
  return run(std::move(op), {q, k, v, mask ? mask.detach() : mask, options.q_lengths, options.kv_lengths});
}
Tensor packed_self_attention(const Tensor& qkv, std::int64_t heads, SelfAttentionOptions options) {
  PackedAttention op;
  op.heads = heads;
  op.call = make_call(op.name(), options);
  return run(std::move(op), {qkv, options.lengths});
}
Tensor rotary_embedding(const Tensor& x, RotaryOptions options) {
  Rotary op;
  op.options = options;
  return run(std::move(op), {x});
}

namespace families {
std::vector<OpPtr> attention_ops() {
  return {std::make_shared<Attention>(), std::make_shared<PackedAttention>(), std::make_shared<Rotary>()};
}
}  // namespace families

}  // namespace binade
