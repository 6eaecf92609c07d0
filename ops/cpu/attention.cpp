// Attention by blocks of query rows: a block's scores against all keys it may see fit in cache, and the matrix of all
// scores is never formed. Backward recomputes the probabilities from the saved logsumexp. Rows beyond a sequence's
// lengths are not read, and cost no products.
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/base/scalar.h"
#include "binade/ops/cpu/attention_rows.h"
#include "binade/ops/cpu/convert.h"
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
void clear_rows(const TensorView& x, std::int64_t begin, std::int64_t end) {
  if (begin < end) kernel::fill(rows_of(x, begin, end), 0);
}
MatrixBlock plain(const TensorView& x) { return {x.data, x.dtype, x.stride(0), 1}; }
MatrixBlock turned(const TensorView& x) { return {x.data, x.dtype, 1, x.stride(0)}; }

// What the operands of attention's products are rounded to, for f32 attention under MatmulPrecision::high.
struct OperandRounding {
  bool tf32;
  OperandRounding(const TensorView& q, const kernel::AttentionOptions& options)
      : tf32(q.dtype == DType::f32 && options.precision == MatmulPrecision::high) {}
  template <class S>
  void operator()(S* x, std::int64_t count) const {
    if constexpr (std::is_same_v<S, float>) {
      if (tf32) round_to_tf32(x, x, count);
    }
  }
};

// Memory of one task, handed out from the front.
template <class S>
class Workspace {
 public:
  explicit Workspace(std::int64_t elements) : memory_(static_cast<std::size_t>(elements) * sizeof(S), Device{}) {}
  S* take(std::int64_t elements) { return memory_.template as<S>() + std::exchange(taken_, taken_ + elements); }
  TensorView rows(const TensorView& like) {  // dense [rows, d]
    TensorView y = like;
    y.dtype = dtype_of<S>;
    y.strides = contiguous_strides(y.shape);
    y.data = reinterpret_cast<std::byte*>(take(y.numel()));
    return y;
  }
  // x [rows, d] dense and in S: itself, or a copy.
  TensorView dense(const TensorView& x) {
    if (x.dtype == dtype_of<S> && x.is_contiguous()) return x;
    const TensorView y = rows(x);
    kernel::copy(x, y);
    return y;
  }
  // x [rows, d] as an operand of products: dense, and rounded.
  TensorView operand(const TensorView& x, const OperandRounding& round) {
    if (!round.tf32) return dense(x);
    const TensorView y = rows(x);
    kernel::copy(x, y);
    round(y.as<S>(), y.numel());
    return y;
  }

 private:
  Scratch memory_;
  std::int64_t taken_ = 0;
};

template <class S>
class Scores {  // what is done to the scores of query row i of (batch, head) against keys [0, n)
 public:
  Scores(const TensorView& q, const TensorView& k, const TensorView& mask, const kernel::AttentionOptions& options)
      : mask_(mask), options_(options), heads_(q.size(1)), time_q_(q.size(2)), time_k_(k.size(2)) {}

  std::int64_t queries(std::int64_t batch) const { return length(options_.q_lengths, batch, time_q_); }
  std::int64_t keys(std::int64_t batch) const { return length(options_.kv_lengths, batch, time_k_); }
  std::int64_t visible(std::int64_t batch, std::int64_t i) const {
    return options_.causal ? std::min(keys(batch), i + 1) : keys(batch);
  }
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
  static std::int64_t length(const TensorView& lengths, std::int64_t batch, std::int64_t time) {
    return lengths ? lengths.as<std::int32_t>()[batch] : time;
  }
  TensorView mask_;
  kernel::AttentionOptions options_;
  std::int64_t heads_, time_q_, time_k_;
};

template <class S>
void forward(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& mask,
             const TensorView& o, const TensorView& lse, const kernel::AttentionOptions& options) {
  constexpr DType dtype = dtype_of<S>;
  constexpr std::int64_t task_rows = 4 * block_rows;  // keys and values are made dense once per task
  const Scores<S> scores(q, k, mask, options);
  const OperandRounding round(q, options);
  const std::int64_t heads = q.size(1), time_q = q.size(2), d = q.size(3), group = heads / k.size(1);
  const std::int64_t parts = chunk_count(time_q, task_rows);
  const auto lse_of = [&](std::int64_t batch, std::int64_t head, std::int64_t i) -> S& {
    return lse.as<S>()[batch * lse.stride(0) + head * lse.stride(1) + i * lse.stride(2)];
  };
  const auto run_block = [&](std::int64_t batch, std::int64_t head, std::int64_t begin, std::int64_t end,
                             const TensorView& keys, const TensorView& values) {
    const std::int64_t rows = end - begin, n = scores.visible(batch, end - 1);
    Workspace<S> space(rows * (n + 2 * d));
    const TensorView block_q = space.operand(rows_of(at(q, batch, head), begin, end), round);
    const TensorView target = rows_of(at(o, batch, head), begin, end), block_o = space.rows(target);
    S* const probabilities = space.take(rows * n);
    const MatrixBlock p{probabilities, dtype, n, 1};
    multiply_block(rows, n, d, plain(block_q), turned(keys), nullptr, p, false);
    S factors[block_rows];
    for (std::int64_t r = 0; r < rows; ++r) {
      S* row = probabilities + r * n;
      const std::int64_t i = begin + r, seen = scores.visible(batch, i);
      scores.mask(row, batch, head, i, seen);
      const auto [max, sum] = exp_row(row, seen, scores.scale());
      std::fill(row + seen, row + n, S(0));
      lse_of(batch, head, i) = sum == 0 ? S(-INFINITY) : max + std::log(sum);
      factors[r] = sum == 0 ? S(0) : 1 / sum;
      if (!scores.drops()) continue;
      scores.dropout(batch, head, i, seen, [&](std::int64_t j, bool kept) { row[j] = kept ? row[j] : S(0); });
      factors[r] *= scores.kept_scale();
    }
    round(probabilities, rows * n);
    multiply_block(rows, d, n, p, plain(values), nullptr, plain(block_o), false);
    for (std::int64_t r = 0; r < rows; ++r) scale_row(block_o.as<S>() + r * d, d, factors[r]);
    kernel::copy(block_o, target);
  };
  parallel_for(q.size(0) * heads * parts, 1, [&](std::int64_t task, std::int64_t) {
    const std::int64_t head = task / parts % heads, batch = task / parts / heads;
    const std::int64_t begin = task % parts * task_rows, stop = std::min(time_q, begin + task_rows);
    const std::int64_t end = std::clamp(scores.queries(batch), begin, stop);
    clear_rows(at(o, batch, head), end, stop);
    for (std::int64_t i = end; i < stop; ++i) lse_of(batch, head, i) = S(INFINITY);
    if (begin == end) return;
    const std::int64_t n = scores.visible(batch, end - 1);
    Workspace<S> space(2 * n * d);
    const TensorView keys = space.operand(rows_of(at(k, batch, head / group), 0, n), round);
    const TensorView values = space.operand(rows_of(at(v, batch, head / group), 0, n), round);
    for (std::int64_t block = begin; block < end; block += block_rows)
      run_block(batch, head, block, std::min(end, block + block_rows), keys, values);
  });
}

template <class S>
void backward(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& mask,
              const TensorView& o, const TensorView& lse, const TensorView& d_o, const TensorView& dq,
              const TensorView& dk, const TensorView& dv, const kernel::AttentionOptions& options) {
  constexpr DType dtype = dtype_of<S>;
  const Scores<S> scores(q, k, mask, options);
  const OperandRounding round(q, options);
  const std::int64_t heads = q.size(1), kv_heads = k.size(1), group = heads / kv_heads;
  const std::int64_t time_q = q.size(2), d = q.size(3);
  // One task holds a key head, so that the sums over its query heads and blocks have one order.
  parallel_for(q.size(0) * kv_heads, 1, [&](std::int64_t task, std::int64_t) {
    const std::int64_t kv_head = task % kv_heads, batch = task / kv_heads;
    const std::int64_t queries = scores.queries(batch), time_k = scores.keys(batch);
    Workspace<S> whole(4 * time_k * d);
    const TensorView keys = whole.operand(rows_of(at(k, batch, kv_head), 0, time_k), round);
    const TensorView values = whole.operand(rows_of(at(v, batch, kv_head), 0, time_k), round);
    const TensorView d_keys = whole.rows(keys), d_values = whole.rows(values);
    std::fill_n(d_keys.as<S>(), time_k * d, S(0));
    std::fill_n(d_values.as<S>(), time_k * d, S(0));
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      if (dq) clear_rows(at(dq, batch, head), queries, time_q);
      for (std::int64_t begin = 0; begin < queries; begin += block_rows) {
        const std::int64_t end = std::min(queries, begin + block_rows), rows = end - begin;
        const std::int64_t n = scores.visible(batch, end - 1);
        Workspace<S> space(rows * (2 * n + 5 * d));
        const TensorView block_q = space.operand(rows_of(at(q, batch, head), begin, end), round);
        const TensorView block_o = space.dense(rows_of(at(o, batch, head), begin, end));
        const TensorView block_do = space.dense(rows_of(at(d_o, batch, head), begin, end));
        const TensorView operand_do = space.operand(block_do, round);
        S* const probabilities = space.take(rows * n);
        S* const gradients = space.take(rows * n);
        const MatrixBlock p{probabilities, dtype, n, 1}, ds{gradients, dtype, n, 1};
        multiply_block(rows, n, d, plain(block_q), turned(keys), nullptr, p, false);
        multiply_block(rows, n, d, plain(operand_do), turned(values), nullptr, ds, false);
        for (std::int64_t r = 0; r < rows; ++r) {
          S *row = probabilities + r * n, *d_row = gradients + r * n;
          const std::int64_t i = begin + r, seen = scores.visible(batch, i);
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
        round(probabilities, rows * n);
        round(gradients, rows * n);
        if (dq) {
          const TensorView target = rows_of(at(dq, batch, head), begin, end), block_dq = space.rows(target);
          multiply_block(rows, d, n, ds, plain(keys), nullptr, plain(block_dq), false);
          kernel::copy(block_dq, target);
        }
        const MatrixBlock p_turned{probabilities, dtype, 1, n}, ds_turned{gradients, dtype, 1, n};
        if (dk) multiply_block(n, d, rows, ds_turned, plain(block_q), nullptr, plain(d_keys), true);
        if (dv) multiply_block(n, d, rows, p_turned, plain(operand_do), nullptr, plain(d_values), true);
      }
    }
    for (const auto& [sums, gradient] : {std::pair(&d_keys, &dk), std::pair(&d_values, &dv)}) {
      if (!*gradient) continue;
      const TensorView target = at(*gradient, batch, kv_head);
      kernel::copy(*sums, rows_of(target, 0, time_k));
      clear_rows(target, time_k, k.size(2));
    }
  });
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

std::int64_t length_at(const TensorView& lengths, std::int64_t b, std::int64_t time, const char* what) {
  if (!lengths) return time;
  const std::int64_t at = b * lengths.stride(0);
  const std::int64_t length =
      lengths.dtype == DType::i32 ? lengths.as<std::int32_t>()[at] : lengths.as<std::int64_t>()[at];
  check(length >= 0 && length <= time, what, " must be in [0, ", time, "]: sequence ", b, " has ", length);
  return length;
}
void attention_lengths(TensorView q, TensorView kv, TensorView q_lengths, TensorView kv_lengths, std::int64_t time_q,
                       std::int64_t time_k) {
  const char* const what = kv ? "scaled_dot_product_attention: q_lengths" : "packed_self_attention: lengths";
  for (std::int64_t b = 0; b < q.size(0); ++b) {
    const std::int64_t queries = length_at(q_lengths, b, time_q, what);
    const std::int64_t keys =
        kv ? length_at(kv_lengths, b, time_k, "scaled_dot_product_attention: kv_lengths") : queries;
    const bool empty = queries == 0 || keys == 0;
    q.as<std::int32_t>()[b] = empty ? 0 : static_cast<std::int32_t>(queries);
    if (kv) kv.as<std::int32_t>()[b] = empty ? 0 : static_cast<std::int32_t>(keys);
  }
}

}  // namespace

void provide_attention() {
  kernel::attention.provide(DeviceType::cpu, attention);
  kernel::attention_backward.provide(DeviceType::cpu, attention_backward);
  kernel::attention_lengths.provide(DeviceType::cpu, attention_lengths);
}

}  // namespace binade::cpu
