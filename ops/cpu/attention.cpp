// Attention by blocks of query rows: a block's scores against all keys it may see fit in cache, and the matrix of all
// scores is never formed. Backward recomputes the probabilities from the saved logsumexp.
#include <algorithm>
#include <cmath>
#include <optional>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/base/scalar.h"
#include "binade/ops/cpu/attention_rows.h"
#include "binade/ops/cpu/matmul_block.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {

namespace {

constexpr std::int64_t block_rows = 64;

TensorView at(const TensorView& x, std::int64_t i, std::int64_t j) {  // the last two dims at [i, j]
  TensorView y = x;
  y.data += (i * x.stride(0) + j * x.stride(1)) * size_of(x.dtype);
  y.shape = {x.size(2), x.size(3)};
  y.strides = {x.stride(2), x.stride(3)};
  return y;
}
TensorView rows_of(const TensorView& x, std::int64_t begin, std::int64_t end) {
  TensorView y = x;
  y.data += begin * x.stride(0) * size_of(x.dtype);
  y.shape[0] = end - begin;
  return y;
}
MatrixBlock plain(const TensorView& x) { return {x.data, x.dtype, x.stride(0), 1}; }
MatrixBlock turned(const TensorView& x) { return {x.data, x.dtype, 1, x.stride(0)}; }

// x in the dtype that is computed in: itself, or a converted copy.
class Values {
 public:
  Values(const TensorView& x, DType dtype) : view(x) {
    const bool rows_apart = x.size(2) <= 1 || x.stride(2) >= x.size(3);  // expanded rows cannot be multiplied
    if (!x || (x.dtype == dtype && rows_apart)) return;
    view.dtype = dtype;
    view.strides = contiguous_strides(x.shape);
    memory_.emplace(static_cast<std::size_t>(x.numel() * size_of(dtype)), Device{});
    view.data = memory_->as<std::byte>();
    kernel::copy(x, view);
  }
  TensorView view;

 private:
  std::optional<Scratch> memory_;
};

// Where a gradient is summed: the output itself, or memory in the computing dtype that is converted at the end.
class Sums {
 public:
  Sums(const TensorView& target, DType dtype) : view(target), target_(target) {
    if (!target || target.dtype == dtype) return;
    view.dtype = dtype;
    view.strides = contiguous_strides(target.shape);
    memory_.emplace(static_cast<std::size_t>(target.numel() * size_of(dtype)), Device{});
    view.data = memory_->as<std::byte>();
  }
  void finish() const {
    if (memory_) kernel::copy(view, target_);
  }
  TensorView view;

 private:
  TensorView target_;
  std::optional<Scratch> memory_;
};

template <class S>
class Scores {  // what is done to the scores of query row i of (batch, head) against keys [0, n)
 public:
  Scores(const TensorView& q, const TensorView& k, const TensorView& mask, const kernel::AttentionOptions& options)
      : mask_(mask), options_(options), heads_(q.size(1)), time_q_(q.size(2)), time_k_(k.size(2)) {}

  std::int64_t visible(std::int64_t i) const { return options_.causal ? std::min(time_k_, i + 1) : time_k_; }
  // What is left to multiply with: masked scores are already scaled.
  S scale() const { return mask_ ? S(1) : static_cast<S>(options_.scale); }

  void mask(S* row, std::int64_t batch, std::int64_t head, std::int64_t i, std::int64_t n) const {
    if (!mask_) return;
    const auto scale = static_cast<S>(options_.scale);
    const std::int64_t start = batch * mask_.stride(0) + head * mask_.stride(1) + i * mask_.stride(2);
    const std::int64_t step = mask_.stride(3);
    if (mask_.dtype == DType::boolean) {
      const bool* allowed = mask_.as<bool>() + start;
      for (std::int64_t j = 0; j < n; ++j) row[j] = allowed[j * step] ? row[j] * scale : S(-INFINITY);
      return;
    }
    with_float_type(mask_.dtype, "attention: mask", [&]<class M> {
      const M* added = mask_.as<M>() + start;
      for (std::int64_t j = 0; j < n; ++j) row[j] = row[j] * scale + convert<S>(added[j * step]);
    });
  }
  bool drops() const { return options_.dropout > 0; }
  S kept_scale() const { return static_cast<S>(1 / (1 - options_.dropout)); }
  // body(j, kept) for every key
  template <class Body>
  void dropout(std::int64_t batch, std::int64_t head, std::int64_t i, std::int64_t n, const Body& body) const {
    const auto start = static_cast<std::uint64_t>(((batch * heads_ + head) * time_q_ + i) * time_k_);
    Philox4 words{};
    std::uint64_t block = ~std::uint64_t{0};
    for (std::int64_t j = 0; j < n; ++j) {
      const std::uint64_t word = start + static_cast<std::uint64_t>(j);
      if (word / 4 != block) words = philox(options_.state, block = word / 4);
      body(j, static_cast<double>(uniform_from_word(words.x[word % 4])) >= options_.dropout);
    }
  }

 private:
  TensorView mask_;
  kernel::AttentionOptions options_;
  std::int64_t heads_, time_q_, time_k_;
};

template <class S>
void forward(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& mask,
             const TensorView& o, const TensorView& lse, const kernel::AttentionOptions& options) {
  constexpr DType dtype = dtype_of<S>;
  const Values query(q, dtype), key(k, dtype), value(v, dtype);
  const Sums output(o, dtype);
  const Scores<S> scores(q, k, mask, options);
  const std::int64_t heads = q.size(1), time_q = q.size(2), d = q.size(3), group = heads / k.size(1);
  const std::int64_t blocks = chunk_count(time_q, block_rows);
  parallel_for(q.size(0) * heads * blocks, 1, [&](std::int64_t task, std::int64_t) {
    // Late blocks first: with a causal mask they are the longest, and threads should end together.
    const std::int64_t begin = (blocks - 1 - task % blocks) * block_rows, end = std::min(time_q, begin + block_rows);
    const std::int64_t head = task / blocks % heads, batch = task / blocks / heads;
    const std::int64_t rows = end - begin, n = scores.visible(end - 1);
    const TensorView block_o = rows_of(at(output.view, batch, head), begin, end);
    const TensorView keys = at(key.view, batch, head / group), values = at(value.view, batch, head / group);
    const Scratch memory(static_cast<std::size_t>(rows * n) * sizeof(S), Device{});
    const MatrixBlock p{memory.as<S>(), dtype, n, 1};
    multiply_block(rows, n, d, plain(rows_of(at(query.view, batch, head), begin, end)), turned(keys), nullptr, p, false);
    S factors[block_rows];
    for (std::int64_t r = 0; r < rows; ++r) {
      S* row = memory.as<S>() + r * n;
      const std::int64_t i = begin + r, seen = scores.visible(i);
      scores.mask(row, batch, head, i, seen);
      const auto [max, sum] = exp_row(row, seen, scores.scale());
      std::fill(row + seen, row + n, S(0));
      lse.as<S>()[batch * lse.stride(0) + head * lse.stride(1) + i * lse.stride(2)] =
          sum == 0 ? S(-INFINITY) : max + std::log(sum);
      factors[r] = sum == 0 ? S(0) : 1 / sum;
      if (!scores.drops()) continue;
      scores.dropout(batch, head, i, seen, [&](std::int64_t j, bool kept) { row[j] = kept ? row[j] : S(0); });
      factors[r] *= scores.kept_scale();
    }
    multiply_block(rows, d, n, p, plain(values), nullptr, plain(block_o), false);
    for (std::int64_t r = 0; r < rows; ++r) scale_row(block_o.as<S>() + r * block_o.stride(0), d, factors[r]);
  });
  output.finish();
}

template <class S>
void backward(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& mask,
              const TensorView& o, const TensorView& lse, const TensorView& d_o, const TensorView& dq,
              const TensorView& dk, const TensorView& dv, const kernel::AttentionOptions& options) {
  constexpr DType dtype = dtype_of<S>;
  const Values query(q, dtype), key(k, dtype), value(v, dtype), output(o, dtype), d_output(d_o, dtype);
  const Sums d_query(dq, dtype), d_key(dk, dtype), d_value(dv, dtype);
  const Scores<S> scores(q, k, mask, options);
  const std::int64_t heads = q.size(1), kv_heads = k.size(1), group = heads / kv_heads;
  const std::int64_t time_q = q.size(2), d = q.size(3), time_k = k.size(2);
  // One task holds a key head, so that the sums over its query heads and blocks have one order.
  parallel_for(q.size(0) * kv_heads, 1, [&](std::int64_t task, std::int64_t) {
    const std::int64_t kv_head = task % kv_heads, batch = task / kv_heads;
    const TensorView keys = at(key.view, batch, kv_head), values = at(value.view, batch, kv_head);
    for (const Sums* sums : {&d_key, &d_value}) {
      if (!sums->view) continue;
      const TensorView rows = at(sums->view, batch, kv_head);
      for (std::int64_t j = 0; j < time_k; ++j) std::fill_n(rows.as<S>() + j * rows.stride(0), d, S(0));
    }
    const Scratch memory(static_cast<std::size_t>(2 * std::min(block_rows, time_q) * time_k) * sizeof(S), Device{});
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
      for (std::int64_t begin = 0; begin < time_q; begin += block_rows) {
        const std::int64_t end = std::min(time_q, begin + block_rows), rows = end - begin;
        const std::int64_t n = scores.visible(end - 1);
        const TensorView block_q = rows_of(at(query.view, batch, head), begin, end);
        const TensorView block_o = rows_of(at(output.view, batch, head), begin, end);
        const TensorView block_do = rows_of(at(d_output.view, batch, head), begin, end);
        S* const probabilities = memory.as<S>();
        S* const gradients = probabilities + rows * n;
        const MatrixBlock p{probabilities, dtype, n, 1}, ds{gradients, dtype, n, 1};
        multiply_block(rows, n, d, plain(block_q), turned(keys), nullptr, p, false);
        multiply_block(rows, n, d, plain(block_do), turned(values), nullptr, ds, false);
        for (std::int64_t r = 0; r < rows; ++r) {
          S *row = probabilities + r * n, *d_row = gradients + r * n;
          const std::int64_t i = begin + r, seen = scores.visible(i);
          scores.mask(row, batch, head, i, seen);
          probability_row(row, seen, scores.scale(),
                          lse.as<S>()[batch * lse.stride(0) + head * lse.stride(1) + i * lse.stride(2)]);
          if (scores.drops()) {
            const S kept_scale = scores.kept_scale();
            scores.dropout(batch, head, i, seen,
                           [&](std::int64_t j, bool kept) { d_row[j] = kept ? d_row[j] * kept_scale : S(0); });
          }
          // sum_j p_j dp_j = sum_d do_d o_d
          const S delta = dot_row(block_do.as<S>() + r * block_do.stride(0), block_o.as<S>() + r * block_o.stride(0), d);
          score_gradient_row(row, d_row, seen, delta, static_cast<S>(options.scale));
          if (scores.drops()) {
            const S kept_scale = scores.kept_scale();
            scores.dropout(batch, head, i, seen,
                           [&](std::int64_t j, bool kept) { row[j] = kept ? row[j] * kept_scale : S(0); });
          }
          std::fill(row + seen, row + n, S(0));
          std::fill(d_row + seen, d_row + n, S(0));
        }
        if (d_query.view)
          multiply_block(rows, d, n, ds, plain(keys), nullptr,
                         plain(rows_of(at(d_query.view, batch, head), begin, end)), false);
        const MatrixBlock p_turned{probabilities, dtype, 1, n}, ds_turned{gradients, dtype, 1, n};
        if (d_key.view)
          multiply_block(n, d, rows, ds_turned, plain(block_q), nullptr, plain(at(d_key.view, batch, kv_head)), true);
        if (d_value.view)
          multiply_block(n, d, rows, p_turned, plain(block_do), nullptr, plain(at(d_value.view, batch, kv_head)), true);
      }
  });
  d_query.finish();
  d_key.finish();
  d_value.finish();
}

void attention(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
               kernel::AttentionOptions options) {
  if (q.dtype == DType::f64)
    forward<double>(q, k, v, mask, o, lse, options);
  else
    forward<float>(q, k, v, mask, o, lse, options);
}

void attention_backward(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
                        TensorView d_o, TensorView dq, TensorView dk, TensorView dv,
                        kernel::AttentionOptions options) {
  if (q.dtype == DType::f64)
    backward<double>(q, k, v, mask, o, lse, d_o, dq, dk, dv, options);
  else
    backward<float>(q, k, v, mask, o, lse, d_o, dq, dk, dv, options);
}

}  // namespace

void provide_attention() {
  kernel::attention.provide(DeviceType::cpu, attention);
  kernel::attention_backward.provide(DeviceType::cpu, attention_backward);
}

}  // namespace binade::cpu
