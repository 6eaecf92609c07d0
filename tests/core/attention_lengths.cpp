// Attention of padded sequences: the same as each sequence alone, and as an explicit mask; what lies beyond the lengths
// does not matter, and bad lengths are named.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "binade/core/backend/kernels.h"
#include "binade/core/base/random.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/expect_error.h"

namespace binade::test {

namespace {

using Lengths = std::vector<std::int64_t>;

Tensor tensor_of(const Lengths& lengths) { return from_vector(lengths, {static_cast<std::int64_t>(lengths.size())}); }

// x [batch, heads, time, d] with NaN from lengths[b] on.
Tensor poisoned(const Tensor& x, const Lengths& lengths) {
  const Tensor y = x.clone();
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    const auto i = static_cast<std::int64_t>(b);
    narrow(select(y, 0, i), 1, lengths[b], x.size(2) - lengths[b]).fill_(std::numeric_limits<double>::quiet_NaN());
  }
  return y;
}

// o and the gradients of q, k and v, for a gradient of o that is given.
Tensors results(const Tensors& qkv, const Tensor& dy, const Tensor& mask, const SdpaOptions& options) {
  Tensors in;
  for (const Tensor& x : qkv) in.push_back(x.clone().requires_grad_());
  const Tensor o = scaled_dot_product_attention(in[0], in[1], in[2], mask, options);
  o.backward(dy);
  return {o.detach(), in[0].grad(), in[1].grad(), in[2].grad()};
}

void expect_same_bits(const Tensor& a, const Tensor& b, const std::string& what) {
  ASSERT_EQ(a.shape(), b.shape()) << what;
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  for (std::size_t i = 0; i < x.size(); ++i)
    ASSERT_EQ(std::bit_cast<std::uint64_t>(x[i]), std::bit_cast<std::uint64_t>(y[i]))
        << what << ": element " << i << " is " << x[i] << " and " << y[i];
}
void expect_zeros(const Tensor& x, const std::string& what) {
  for (const double value : x.to_vector<double>()) ASSERT_EQ(value, 0) << what;
}

// Sequence b of x, `length` long; and what lies beyond.
Tensor of_sequence(const Tensor& x, std::size_t b, std::int64_t length) {
  return narrow(narrow(x, 0, static_cast<std::int64_t>(b), 1), 2, 0, length);
}
Tensor beyond(const Tensor& x, std::size_t b, std::int64_t length) {
  return narrow(narrow(x, 0, static_cast<std::int64_t>(b), 1), 2, length, x.size(2) - length);
}

TEST(AttentionLengths, EachSequenceAloneHasTheSameBits) {
  const Lengths q_lengths{300, 65, 1, 97, 0}, kv_lengths{131, 64, 131, 3, 7};
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16})
    for (const MatmulPrecision precision : {MatmulPrecision::highest, MatmulPrecision::high})
      for (const bool causal : {false, true}) {
        set_float32_matmul_precision(precision);
        manual_seed(3);
        const auto drawn = [&](std::int64_t heads, std::int64_t time, const Lengths& lengths) {
          return poisoned(randn({5, heads, time, 16}).to(dtype), lengths);
        };
        const Tensors qkv{drawn(4, 300, q_lengths), drawn(2, 131, kv_lengths), drawn(2, 131, kv_lengths)};
        const Tensor dy = drawn(4, 300, q_lengths);
        const Tensors padded = results(
            qkv, dy, {}, {.is_causal = causal, .q_lengths = tensor_of(q_lengths), .kv_lengths = tensor_of(kv_lengths)});
        for (std::size_t b = 0; b < q_lengths.size(); ++b) {
          // Nobody looks at the keys of the last sequence.
          const Lengths lengths{q_lengths[b], q_lengths[b], q_lengths[b] == 0 ? 0 : kv_lengths[b],
                                q_lengths[b] == 0 ? 0 : kv_lengths[b]};
          const Tensors alone =
              results({of_sequence(qkv[0], b, lengths[1]).contiguous(), of_sequence(qkv[1], b, lengths[2]).contiguous(),
                       of_sequence(qkv[2], b, lengths[3]).contiguous()},
                      of_sequence(dy, b, lengths[0]).contiguous(), {}, {.is_causal = causal});
          for (std::size_t i = 0; i < alone.size(); ++i) {
            const std::string what = to_text(dtype) + (causal ? " causal" : "") + ", sequence " + std::to_string(b) +
                                     ", result " + std::to_string(i);
            expect_same_bits(of_sequence(padded[i], b, lengths[i]), alone[i], what);
            expect_zeros(beyond(padded[i], b, lengths[i]), what);
          }
        }
      }
  set_float32_matmul_precision(MatmulPrecision::highest);
}

// [batch, 1, time_q, time_k]: which queries may look at which keys
Tensor mask_of(const Lengths& q_lengths, const Lengths& kv_lengths, std::int64_t time_q, std::int64_t time_k) {
  std::vector<std::uint8_t> allowed;
  for (std::size_t b = 0; b < q_lengths.size(); ++b)
    for (std::int64_t i = 0; i < time_q; ++i)
      for (std::int64_t j = 0; j < time_k; ++j) allowed.push_back(i < q_lengths[b] && j < kv_lengths[b]);
  return from_vector(allowed, {static_cast<std::int64_t>(q_lengths.size()), 1, time_q, time_k}).to(DType::boolean);
}

TEST(AttentionLengths, AreAnExplicitMask) {
  const Lengths q_lengths{70, 1, 33, 70}, kv_lengths{67, 67, 40, 1};
  const Tensor mask = mask_of(q_lengths, kv_lengths, 70, 67);
  manual_seed(4);
  const Tensors qkv{randn({4, 4, 70, 8}), randn({4, 2, 67, 8}), randn({4, 2, 67, 8})};
  const Tensor dy = randn({4, 4, 70, 8});
  for (const DType dtype : {DType::f64, DType::f32})
    for (const double dropout : {0.0, 0.3})
      for (const bool causal : {false, true}) {
        const Tensors moved{qkv[0].to(dtype), qkv[1].to(dtype), qkv[2].to(dtype)};
        SdpaOptions options{.is_causal = causal, .dropout = dropout};
        manual_seed(5);
        const Tensors masked = results(moved, dy.to(dtype), mask, options);
        options.q_lengths = tensor_of(q_lengths).to(DType::i32);
        options.kv_lengths = tensor_of(kv_lengths);
        manual_seed(5);
        const Tensors padded = results(moved, dy.to(dtype), {}, options);
        for (std::size_t i = 0; i < masked.size(); ++i) {
          const std::vector<double> a = padded[i].to_vector<double>(), b = masked[i].to_vector<double>();
          double largest = 1, furthest = 0;
          for (std::size_t e = 0; e < a.size(); ++e) {
            largest = std::max(largest, std::abs(b[e]));
            furthest = std::max(furthest, std::isnan(a[e]) ? 1e30 : std::abs(a[e] - b[e]));
          }
          // Keys and values gather from two heads of 70 queries.
          EXPECT_LE(furthest, 4 * epsilon(dtype) * std::sqrt(140.0) * largest) << to_text(dtype) << ", result " << i;
        }
      }
}

TEST(AttentionLengths, OfPackedAndOfSeparateOperandsHaveTheSameBits) {
  manual_seed(6);
  const Tensor lengths = tensor_of({9, 0, 4}), qkv = randn({3, 9, 2 * 3 * 8});
  const auto part = [&](std::int64_t i) { return narrow(qkv, 2, i * 16, 16).reshape({3, 9, 2, 8}).transpose(1, 2); };
  const Tensor separate = scaled_dot_product_attention(
      part(0), part(1), part(2), {}, {.is_causal = true, .q_lengths = lengths, .kv_lengths = lengths});
  const Tensor packed = packed_self_attention(qkv, 2, {.is_causal = true, .lengths = lengths});
  expect_same_bits(packed.reshape({3, 9, 2, 8}).transpose(1, 2), separate, "packed");
}

TEST(AttentionLengths, OutOfRangeAreNamed) {
  const Tensor x = ones({3, 1, 5, 4}), keys = ones({3, 1, 7, 4}), qkv = ones({3, 5, 12});
  const auto attend = [&](SdpaOptions options) { scaled_dot_product_attention(x, keys, keys, {}, options); };
  expect_error(
      [&] {
        attend({.q_lengths = tensor_of({5, 6, 1})});
      },
      "scaled_dot_product_attention: q_lengths must be in [0, 5]: sequence 1 has 6");
  expect_error(
      [&] {
        attend({.kv_lengths = tensor_of({5, 6, -1}).to(DType::i32)});
      },
      "scaled_dot_product_attention: kv_lengths must be in [0, 7]: sequence 2 has -1");
  expect_error(
      [&] {
        packed_self_attention(qkv, 1, {.lengths = tensor_of({8, 5, 0})});
      },
      "packed_self_attention: lengths must be in [0, 5]: sequence 0 has 8");
  expect_error([&] { packed_self_attention(qkv, 1, {.lengths = ones({3})}); },
               "packed_self_attention: lengths must be i32 or i64, got f32");
  expect_error(
      [&] {
        attend({.q_lengths = tensor_of({5, 5})});
      },
      "scaled_dot_product_attention: q_lengths must be [3], one for each sequence, got [2]");
  expect_error(
      [&] {
        attend({.kv_lengths = tensor_of({5, 5, 5, 5})});
      },
      "scaled_dot_product_attention: kv_lengths must be [3], one for each sequence, got [4]");
  expect_error(
      [&] {
        attend({.q_lengths = tensor_of({5, 5, 5}).reshape({3, 1})});
      },
      "scaled_dot_product_attention: q_lengths must be [3], one for each sequence, got [3, 1]");
  expect_error([&] { packed_self_attention(qkv, 1, {.lengths = ones({3}).to(DType::boolean)}); },
               "packed_self_attention: lengths must be i32 or i64, got bool");
}

// A row of which a backend reads the logsumexp all the same has no probabilities.
TEST(AttentionLengths, RowsBeyondHaveAnInfiniteLogsumexp) {
  const Tensor x = ones({2, 1, 3, 4}), o = empty({2, 1, 3, 4}), lse = empty({2, 1, 3});
  const Tensor lengths = tensor_of({2, 0}).to(DType::i32);
  kernel::attention(x, x, x, {}, o, lse, {.state = {}, .q_lengths = lengths, .kv_lengths = lengths});
  const std::vector<double> values = lse.to_vector<double>();
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(std::isinf(values[i]) && values[i] > 0, i >= 2) << i;
}

}  // namespace

}  // namespace binade::test
