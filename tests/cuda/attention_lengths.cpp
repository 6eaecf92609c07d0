// Attention of padded sequences on a CUDA device: our kernels against each sequence alone, both roads against the CPU
// in f64, and lengths that are out of range.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "binade/core/backend/kernels.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/cuda/cudnn.h"

namespace binade::test {

namespace {

using Lengths = std::vector<std::int64_t>;

Tensor lengths_on(const Lengths& lengths, Device device, DType dtype = DType::i64) {
  return from_vector(lengths, {static_cast<std::int64_t>(lengths.size())}).to(dtype).to(device);
}
Function attention_of(const Lengths& q, const Lengths& kv, const SdpaOptions& options = {}, const Tensor& mask = {}) {
  return [=](const Tensors& in) {
    SdpaOptions with = options;
    with.q_lengths = lengths_on(q, in[0].device());
    with.kv_lengths = lengths_on(kv, in[0].device(), DType::i32);
    return scaled_dot_product_attention(in[0], in[1], in[2], mask ? mask.to(in[0].device()) : mask, with);
  };
}
// Whole tiles, parts of one, one row, and sequences of which one side is empty.
const Lengths q_lengths{70, 65, 1, 64, 0, 5}, kv_lengths{67, 64, 66, 1, 9, 0};
Tensors padded_inputs(std::int64_t heads, std::int64_t kv_heads, std::int64_t d) {
  return {randn({6, heads, 70, d}), randn({6, kv_heads, 67, d}), randn({6, kv_heads, 67, d})};
}
constexpr double terms = 2 * 70;  // a key's gradient gathers from two heads of queries

class AttentionLengthsKernels : public CudaDevice {
  const OwnKernelsOnly own_;
};

TEST_F(AttentionLengthsKernels, OfEveryWidth) {
  struct Case {
    std::int64_t d;
    DType dtype;
    bool causal;
  };
  for (const auto& [d, dtype, causal] : {Case{3, DType::f64, true},
                                         {16, DType::f32, false},
                                         {16, DType::f16, true},
                                         {72, DType::bf16, false},
                                         {136, DType::f32, true}}) {
    manual_seed(1);
    expect_close(attention_of(q_lengths, kv_lengths, {.is_causal = causal}), padded_inputs(2, 1, d), dtype,
                 std::max(terms, static_cast<double>(d)), "d " + std::to_string(d) + " " + to_text(dtype), gpu);
  }
}

TEST_F(AttentionLengthsKernels, WithDropoutAndMasks) {
  manual_seed(2);
  const Tensors inputs = padded_inputs(2, 1, 8);
  expect_close(attention_of(q_lengths, kv_lengths, {.dropout = 0.3}), inputs, DType::f32, terms, "dropout", gpu);
  const Tensor added = randn({6, 1, 1, 67});
  expect_close(attention_of(q_lengths, kv_lengths, {}, added), inputs, DType::f32, terms, "mask", gpu);
}

// Whatever lies beyond the lengths, and whoever else is in the batch.
TEST_F(AttentionLengthsKernels, EachSequenceAloneHasTheSameBits) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16})
    for (const bool causal : {false, true}) {
      manual_seed(3);
      Tensors inputs = padded_inputs(2, 1, 24);
      inputs.push_back(randn({6, 2, 70, 24}));  // the gradient of o
      const auto part = [](const Tensor& x, std::size_t b, std::int64_t from, std::int64_t to) {
        return narrow(narrow(x, 0, static_cast<std::int64_t>(b), 1), 2, from, to - from);
      };
      const auto results = [&](const Tensors& in, const SdpaOptions& options) {
        Tensors there;
        for (const Tensor& x : in) there.push_back(x.to(dtype).to(gpu));
        for (std::size_t i = 0; i < 3; ++i) there[i].requires_grad_();
        const Tensor o = scaled_dot_product_attention(there[0], there[1], there[2], {}, options);
        o.backward(there[3]);
        return Tensors{cpu(o.detach()), cpu(there[0].grad()), cpu(there[1].grad()), cpu(there[2].grad())};
      };
      for (std::size_t i = 0; i < inputs.size(); ++i)
        for (std::size_t b = 0; b < q_lengths.size(); ++b) {
          const Tensor& x = inputs[i];
          part(x, b, i == 1 || i == 2 ? kv_lengths[b] : q_lengths[b], x.size(2))
              .fill_(std::numeric_limits<double>::quiet_NaN());
        }
      const Tensors padded = results(
          inputs,
          {.is_causal = causal, .q_lengths = lengths_on(q_lengths, gpu), .kv_lengths = lengths_on(kv_lengths, gpu)});
      for (std::size_t b = 0; b < q_lengths.size(); ++b) {
        const bool empty = q_lengths[b] == 0 || kv_lengths[b] == 0;
        const std::int64_t queries = empty ? 0 : q_lengths[b], keys = empty ? 0 : kv_lengths[b];
        const Tensors alone = results({part(inputs[0], b, 0, queries), part(inputs[1], b, 0, keys),
                                       part(inputs[2], b, 0, keys), part(inputs[3], b, 0, queries)},
                                      {.is_causal = causal});
        for (std::size_t i = 0; i < padded.size(); ++i) {
          const std::string what = to_text(dtype) + " sequence " + std::to_string(b) + " result " + std::to_string(i);
          const std::int64_t length = i < 2 ? queries : keys;
          expect_same_bits(part(padded[i], b, 0, length), alone[i], what);
          for (const double x : part(padded[i], b, length, padded[i].size(2)).to_vector<double>())
            ASSERT_EQ(x, 0) << what;
        }
      }
    }
}

TEST_F(AttentionLengthsKernels, OutOfRangeAreNamedAtTheNextSynchronisation) {
  manual_seed(4);
  const Tensors inputs{randn({3, 1, 5, 8}).to(gpu), randn({3, 1, 7, 8}).to(gpu), randn({3, 1, 7, 8}).to(gpu)};
  const Tensor qkv = randn({2, 5, 24}).to(gpu);
  Tensor noted;
  const auto attend = [&](const Lengths& q, const Lengths& kv) {
    noted = attention_of(q, kv)(inputs);
    synchronize(gpu);
  };
  const std::string operation = "scaled_dot_product_attention: ", found = " (found on the device";
  expect_error(
      [&] {
        attend({5, 6, 4}, {7, 1, 7});
      },
      operation + "q_lengths must be in [0, 5]: sequence 1 has 6" + found);
  expect_error(
      [&] {
        attend({5, 0, 4}, {7, 1, -3});
      },
      operation + "kv_lengths must be in [0, 7]: sequence 2 has -3" + found);
  expect_error(
      [&] {
        packed_self_attention(qkv, 1, {.lengths = lengths_on({5, 8}, gpu)}), synchronize(gpu);
      },
      "packed_self_attention: lengths must be in [0, 5]: sequence 1 has 8" + found);
  expect_error([&] { attend({9, -1, 4}, {8, 1, 9}); }, operation, "lengths must be in [0, ");
  const Tensor clamped = noted;
  attend({5, 0, 4}, {7, 1, 7});
  expect_same_bits(cpu(clamped), cpu(noted), "clamped meanwhile");
}

// Zeros times what overflowed elsewhere in the sequence would be NaN.
TEST_F(AttentionLengthsKernels, InfinitiesOfASequenceDoNotReachItsPadding) {
  const auto infinite = [&] { return full({1, 1, 5, 8}, std::numeric_limits<double>::infinity(), {.device = gpu}); };
  const Tensor q = infinite().requires_grad_(), k = infinite().requires_grad_(), v = infinite().requires_grad_();
  const Tensor lengths = lengths_on({3}, gpu);
  const Tensor o = scaled_dot_product_attention(q, k, v, {}, {.q_lengths = lengths, .kv_lengths = lengths});
  o.backward(infinite());
  for (const Tensor& x : {o, q.grad(), k.grad(), v.grad()}) {
    const std::vector<double> values = x.to_vector<double>();
    for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i] == 0, i >= 24) << i << " is " << values[i];
  }
}

TEST_F(AttentionLengthsKernels, RowsBeyondHaveAnInfiniteLogsumexp) {
  const Tensor x = ones({2, 1, 3, 8}).to(gpu), o = x.clone(), lse = ones({2, 1, 3}).to(gpu);
  const Tensor lengths = lengths_on({2, 0}, gpu, DType::i32);
  kernel::attention(x, x, x, {}, o, lse, {.state = {}, .q_lengths = lengths, .kv_lengths = lengths});
  const std::vector<double> values = lse.to_vector<double>();
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(std::isinf(values[i]) && values[i] > 0, i >= 2) << i;
}

class AttentionLengthsPlans : public CudnnTest {};

TEST_F(AttentionLengthsPlans, AttentionAndItsGradientsAsPlans) {
  for (const bool causal : {false, true})
    for (const std::int64_t d : {8, 64}) {
      manual_seed(5);
      const Tensors inputs = padded_inputs(4, 2, d);
      const Function function = attention_of(q_lengths, kv_lengths, {.is_causal = causal});
      EXPECT_EQ(library_calls(function, inputs), 2U);
      for (const DType dtype : {DType::f16, DType::bf16})
        expect_close(function, inputs, dtype, std::max(terms, static_cast<double>(d)), "plan " + to_text(dtype), gpu);
    }
}

TEST_F(AttentionLengthsPlans, LengthsOfOneSideAndPackedOperands) {
  manual_seed(6);
  const Tensors separate{randn({3, 2, 9, 8}), randn({3, 2, 11, 8}), randn({3, 2, 11, 8})}, packed{randn({3, 21, 72})};
  const Function of_keys = [](const Tensors& in) {
    return scaled_dot_product_attention(in[0], in[1], in[2], {},
                                        {.kv_lengths = lengths_on({11, 3, 0}, in[0].device())});
  };
  const Function of_queries = [](const Tensors& in) {
    return scaled_dot_product_attention(in[0], in[1], in[2], {}, {.q_lengths = lengths_on({9, 3, 0}, in[0].device())});
  };
  const Function self = [](const Tensors& in) {
    return packed_self_attention(in[0], 3, {.is_causal = true, .lengths = lengths_on({21, 1, 16}, in[0].device())});
  };
  for (const auto& [function, inputs] : {std::pair(&of_keys, &separate), {&of_queries, &separate}, {&self, &packed}}) {
    EXPECT_EQ(library_calls(*function, *inputs), 2U);
    expect_close(*function, *inputs, DType::bf16, 42, "plan", gpu);
  }
}

TEST_F(AttentionLengthsPlans, ForwardAndBackwardMayTakeDifferentRoads) {
  manual_seed(7);
  expect_different_roads(attention_of(q_lengths, kv_lengths, {.is_causal = true}), padded_inputs(4, 2, 16), DType::bf16,
                         terms);
}

TEST_F(AttentionLengthsPlans, LengthsAreOfTheCallNotOfThePlan) {
  manual_seed(8);
  const Tensors inputs = padded_inputs(2, 2, 8);
  Tensors there;
  for (const Tensor& x : inputs) there.push_back(x.to(DType::f16).to(gpu));
  attention_of(q_lengths, kv_lengths)(there);
  const std::string lines = traced([&] { attention_of({1, 2, 3, 4, 5, 6}, {6, 5, 4, 3, 2, 1})(there); });
  EXPECT_FALSE(contains(lines, "cuDNN plan")) << "the plan is remembered: " << lines;
  EXPECT_TRUE(contains(lines, "attention on cuda:0: cuDNN: ")) << lines;
}

// A plan never sees a length that is out of range; the simulated library would report it.
TEST_F(AttentionLengthsPlans, BadLengthsAreClampedForTheLibrary) {
  const Tensor x = ones({2, 1, 5, 8}).to(DType::f16).to(gpu);
  const std::uint64_t before = simulator->counters().library_launches;
  expect_error([&] { attention_of({5, 6}, {-1, 5})({x, x, x}), synchronize(gpu); }, "scaled_dot_product_attention: ");
  EXPECT_EQ(simulator->counters().library_launches - before, 1U);
}

}  // namespace

}  // namespace binade::test
