// linear_cross_entropy against cross_entropy(linear(..)): bits where one chunk holds all tokens, what it computes when,
// what it keeps, and gradients too small for f16.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "binade/core/amp/autocast.h"
#include "binade/core/autograd/checkpoint.h"
#include "binade/core/autograd/observer.h"
#include "binade/core/backend/memory.h"
#include "binade/core/base/random.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/kernel_calls.h"
#include "binade/tests/core/test_device.h"

namespace binade::test {

namespace {

struct Inputs3 {
  Tensor x, weight, bias, targets;
};

// Leaves of f32. Values are multiples of 1/16 up to 1: logits are sums that f32 holds exactly, whatever their order.
Inputs3 inputs(std::int64_t tokens, std::int64_t in, std::int64_t classes) {
  manual_seed(7);
  const auto leaf = [](Shape shape) {
    const Tensor grid = randint(-16, 17, shape).to(DType::f32) * 0.0625;
    return grid.to(test_device()).detach().clone().detach().requires_grad_();
  };
  return {leaf({tokens, in}), leaf({classes, in}), leaf({classes}), randint(0, classes, {tokens}).to(test_device())};
}
Tensor whole(const Inputs3& in, const LinearCrossEntropyLoss& o) {
  return cross_entropy(
      linear(in.x, in.weight, in.bias), in.targets,
      {.ignore_index = o.ignore_index, .label_smoothing = o.label_smoothing, .reduction = o.reduction});
}
Tensor chunked(const Inputs3& in, LinearCrossEntropyLoss o) {
  o.linear_bias = in.bias;
  return linear_cross_entropy(in.x, in.weight, in.targets, o);
}

using Values = std::vector<std::vector<float>>;
Values gradients(const Inputs3& in) {
  Values all;
  for (const Tensor& x : {in.x, in.weight, in.bias})
    if (x) all.push_back(x.grad() ? x.grad().to_vector<float>() : std::vector<float>());
  return all;
}
struct Outcome {
  std::vector<float> loss;
  Values gradients;
};
template <class Loss>
Outcome run_step(Inputs3 in, DType autocast_to, double dy, const Loss& loss_of) {
  Tensor loss;
  {
    const amp::Autocast autocast(autocast_to);
    loss = loss_of(in);
  }
  EXPECT_EQ(loss.dtype(), DType::f32);
  loss.backward(full(loss.shape(), dy, {.device = test_device()}));
  return {loss.to_vector<float>(), gradients(in)};
}

// dy / 8 is a power of two: where it is multiplied in, before or after the products, changes no bit.
TEST(LinearCrossEntropy, OneChunkHasTheBitsOfLinearThenCrossEntropy) {
  if (!tests_the_cpu()) GTEST_SKIP() << "the epilogues of another library";
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const Reduction reduction : {Reduction::mean, Reduction::sum, Reduction::none})
      for (const double smoothing : {0.0, 0.125}) {
        const LinearCrossEntropyLoss options{.ignore_index = 3, .label_smoothing = smoothing, .reduction = reduction};
        const auto make = [] {
          Inputs3 in = inputs(10, 16, 21);
          const std::vector<std::int64_t> targets = {3, 20, 0, 7, 7, 3, 1, 19, 2, 5};  // 8 count
          in.targets = from_vector(targets, {10}).to(test_device());
          return in;
        };
        const Outcome plain = run_step(make(), dtype, 16, [&](const Inputs3& in) { return whole(in, options); });
        const Outcome fused = run_step(make(), dtype, 16, [&](const Inputs3& in) { return chunked(in, options); });
        const std::string what = to_text(dtype) + std::string(" reduction ") +
                                 std::to_string(static_cast<int>(reduction)) + (smoothing > 0 ? " smoothed" : "");
        EXPECT_EQ(fused.loss, plain.loss) << what;
        EXPECT_EQ(fused.gradients, plain.gradients) << what;
      }
}

// Chunks of 10 and 9 tokens of 29. Logits are exact in f32, so that both round the same values; what differs is the
// order of the sums: dweight's over tokens, whose terms add up to at most max |x| <= 1 in a mean, and dx's over
// classes.
TEST(LinearCrossEntropy, ChunksChangeOnlyTheOrderOfSums) {
  constexpr std::int64_t tokens = 29, classes = 37;
  constexpr double unit = 0x1p-24;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Outcome plain =
        run_step(inputs(tokens, 16, classes), dtype, 1, [](const Inputs3& in) { return whole(in, {}); });
    const Outcome fused = run_step(inputs(tokens, 16, classes), dtype, 1,
                                   [](const Inputs3& in) { return chunked(in, {.batch_chunk_size = 10}); });
    EXPECT_NEAR(fused.loss[0], plain.loss[0], 2 * unit * plain.loss[0] + 1e-30) << to_text(dtype);
    // In 16 bits the logits' gradients are rounded with and without the factor 1/29 in them.
    const double rounding = dtype == DType::f32 ? 2 * unit : epsilon(dtype);
    const double terms[] = {2.0 / tokens, 1, 1};  // sums of absolute values: of dx, dweight, dbias
    const double lengths[] = {classes, tokens, tokens};
    for (std::size_t k = 0; k < 3; ++k)
      for (std::size_t i = 0; i < plain.gradients[k].size(); ++i)
        ASSERT_NEAR(fused.gradients[k][i], plain.gradients[k][i], terms[k] * (2 * lengths[k] * unit + rounding))
            << to_text(dtype) << ", gradient " << k << ", element " << i;
  }
}

// Two classes whose logits are 0 and -20: the gradient of the second, 2^-28.9, is 0 in f16 before the mean of 1024
// tokens divides it any further. That of the first is lost in f32 already: the exponentials add up to 1.
TEST(LinearCrossEntropy, GradientsTooSmallForF16AreKeptWithoutALossScale) {
  constexpr std::int64_t tokens = 1024;
  const auto make = [] {
    Inputs3 in;
    in.x = ones({tokens, 1}, {.device = test_device(), .requires_grad = true});
    const std::vector<float> logits = {0, -20};
    in.weight = from_vector(logits, {2, 1}).to(test_device()).detach().requires_grad_();
    in.targets = zeros({tokens}, {.dtype = DType::i64, .device = test_device()});
    return in;
  };
  const auto step = [&](auto loss_of) { return run_step(make(), DType::f16, 1, loss_of); };
  const Outcome plain = step([](const Inputs3& in) { return whole(in, {}); });
  const Outcome fused = step([](const Inputs3& in) { return chunked(in, {.batch_chunk_size = 300}); });
  EXPECT_EQ(plain.gradients[1], (std::vector<float>{0, 0}));
  EXPECT_EQ(plain.gradients[0], std::vector<float>(tokens, 0));
  // Relative: one rounding to f16, a sum of the tokens in f32, and an exponential.
  const double other = std::exp(-20.0), allowed = 0x1p-11 + tokens * 0x1p-24 + 0x1p-20;
  EXPECT_NEAR(fused.gradients[1][0], -other, 0x1p-23);
  EXPECT_NEAR(fused.gradients[1][1], other, other * allowed);
  for (const float dx : fused.gradients[0]) ASSERT_NEAR(dx, -20 * other / tokens, 20 * other / tokens * allowed);
}

// The largest gradient of a logit there is, -1, stays finite in f16, and loss scales multiply afterwards.
TEST(LinearCrossEntropy, NoLogitGradientOverflows) {
  const Tensor x = ones({4, 1}, {.device = test_device(), .requires_grad = true});
  const std::vector<float> logits = {0, 60000};
  const Tensor weight = from_vector(logits, {2, 1}).to(test_device()).detach().requires_grad_();
  const Tensor targets = zeros({4}, {.dtype = DType::i64, .device = test_device()});
  {
    const amp::Autocast autocast(DType::f16);
    linear_cross_entropy(x, weight, targets).backward(full({}, 0x1p20, {.device = test_device()}));
  }
  EXPECT_EQ(weight.grad().to_vector<float>(), (std::vector<float>{-0x1p20, 0x1p20}));
}

// 12 tokens in chunks of 4, 4 and 4: three products a chunk in all, fewer where less is wanted.
TEST(LinearCrossEntropy, ComputesWhatIsWantedAndOnlyThat) {
  const Inputs3 in = inputs(12, 8, 5);
  const LinearCrossEntropyLoss options{.batch_chunk_size = 5};
  KernelCalls counted;
  const auto products = [&] { return std::exchange(counted.calls, {})["matmul"]; };
  const auto count = [&](const Tensor& x, const Tensor& weight, Reduction reduction, int forward, int backward) {
    LinearCrossEntropyLoss o = options;
    o.reduction = reduction;
    const Tensor loss = linear_cross_entropy(x, weight, in.targets, o);
    EXPECT_EQ(products(), forward);
    if (loss.requires_grad()) loss.backward(ones_like(loss));
    EXPECT_EQ(products(), backward);
  };
  for (const Reduction reduction : {Reduction::mean, Reduction::sum}) {
    count(in.x, in.weight, reduction, 9, 0);
    count(in.x, in.weight.detach(), reduction, 6, 0);
    count(in.x.detach(), in.weight, reduction, 6, 0);
    count(in.x.detach(), in.weight.detach(), reduction, 3, 0);
  }
  count(in.x, in.weight, Reduction::none, 3, 9);
  count(in.x, in.weight.detach(), Reduction::none, 3, 6);
  {
    const NoGrad guard;
    count(in.x, in.weight, Reduction::mean, 3, 0);
  }
  const Tensor recomputed =
      checkpoint([&](const Tensors& x) { return linear_cross_entropy(x[0], in.weight, in.targets, options); }, {in.x});
  EXPECT_EQ(products(), 3);
  recomputed.backward();
  EXPECT_EQ(products(), 9);
}

TEST(LinearCrossEntropy, LossesAreTheSameWithAndWithoutGradients) {
  const Inputs3 in = inputs(12, 8, 5);
  for (const Reduction reduction : {Reduction::mean, Reduction::sum, Reduction::none}) {
    const LinearCrossEntropyLoss options{.reduction = reduction, .batch_chunk_size = 5};
    const std::vector<float> recorded = chunked(in, options).to_vector<float>();
    const NoGrad guard;
    EXPECT_EQ(chunked(in, options).to_vector<float>(), recorded);
  }
}

TEST(LinearCrossEntropy, BackwardCanRunAgain) {
  for (const Reduction reduction : {Reduction::mean, Reduction::none}) {
    const Inputs3 in = inputs(12, 8, 5);
    const Tensor loss = chunked(in, {.reduction = reduction, .batch_chunk_size = 5});
    const Tensor dy = full(loss.shape(), 0.5, {.device = test_device()});
    Values once, twice;
    const auto expect_twice = [&] {
      // A mean adds its whole contribution, which is exact; `none` adds the 12 tokens' terms, each at most 1, to the
      // sum.
      const double allowed = reduction == Reduction::mean ? 0 : 24 * 24 * 0x1p-24;
      const Values got = gradients(in);
      for (std::size_t k = 0; k < 3; ++k)
        for (std::size_t i = 0; i < twice[k].size(); ++i) ASSERT_NEAR(got[k][i], twice[k][i], allowed);
    };
    loss.backward(dy, {.retain_graph = true});
    once = twice = gradients(in);
    for (auto& values : twice)
      for (float& v : values) v += v;
    loss.backward(dy, {.retain_graph = true});
    expect_twice();
    for (Tensor x : {in.x, in.weight, in.bias}) x.zero_grad();
    loss.backward(dy, {.retain_graph = true});
    EXPECT_EQ(gradients(in), once);
    loss.backward(dy);
    expect_twice();
  }
}

// Two losses share a weight, and the second adds to what the first left.
TEST(LinearCrossEntropy, GradientsOfTwoUsesAddUp) {
  constexpr std::int64_t in_size = 40, classes = 110;
  manual_seed(3);
  const Tensor weight = (rand({classes, in_size}) * 0.0625).to(test_device()).detach().requires_grad_();
  const Tensor a = rand({3, in_size}, {.device = {}}).to(test_device()), b = rand({2, in_size}).to(test_device());
  const Tensor targets_a = randint(0, classes, {3}).to(test_device()),
               targets_b = randint(0, classes, {2}).to(test_device());
  const auto gradient = [&](bool first, bool second) {
    Tensor(weight).zero_grad();
    if (first) linear_cross_entropy(a, weight, targets_a, {.batch_chunk_size = 2}).backward();
    if (second) linear_cross_entropy(b, weight, targets_b).backward();
    return weight.grad().to_vector<float>();
  };
  const std::vector<float> one = gradient(true, false), two = gradient(false, true), both = gradient(true, true);
  std::size_t wrong = 0, used = 0;
  for (std::size_t i = 0; i < both.size(); ++i) {
    wrong += both[i] != one[i] + two[i] ? 1 : 0;
    used += one[i] != 0 && two[i] != 0 ? 1 : 0;
  }
  EXPECT_EQ(wrong, 0U);
  EXPECT_GT(used, both.size() / 2);
}

// The classifier is the embedding: both contribute to one gradient.
TEST(LinearCrossEntropy, ATiedWeightGetsBothGradients) {
  if (!tests_the_cpu()) GTEST_SKIP() << "bits of another library";
  const auto step = [](bool fused) {
    const Inputs3 in = inputs(8, 16, 21);
    const Tensor x = embedding(in.weight, in.targets);
    (fused ? linear_cross_entropy(x, in.weight, in.targets) : cross_entropy(linear(x, in.weight), in.targets))
        .backward();
    return in.weight.grad().to_vector<float>();
  };
  EXPECT_EQ(step(true), step(false));
}

TEST(LinearCrossEntropy, WhereEveryTargetIsIgnoredTheMeanIsNaNAndGradientsAreZero) {
  Inputs3 in = inputs(6, 4, 5);
  in.targets = full({6}, -100, {.dtype = DType::i64, .device = test_device()});
  const Tensor loss = chunked(in, {.batch_chunk_size = 4});
  EXPECT_TRUE(std::isnan(loss.item<float>()));
  loss.backward();
  for (const auto& values : gradients(in)) EXPECT_EQ(values, std::vector<float>(values.size(), 0));
}

TEST(LinearCrossEntropy, SixteenBitLeavesGetOneRoundingOfTheirSums) {
  for (const DType dtype : {DType::bf16, DType::f16})
    for (const Reduction reduction : {Reduction::sum, Reduction::none}) {
      const Inputs3 wide = inputs(12, 8, 5);
      const auto narrow = [&](const Tensor& x) {
        return x.detach().to(dtype).detach().clone().detach().requires_grad_();
      };
      const Inputs3 in{narrow(wide.x), narrow(wide.weight), narrow(wide.bias), wide.targets};
      const auto step = [&](const Inputs3& i) {
        const amp::Autocast autocast(dtype);  // the same operands; leaves of f32 get the f32 sums
        const Tensor loss = chunked(i, {.reduction = reduction, .batch_chunk_size = 5});
        loss.backward(ones_like(loss));
      };
      step(wide);
      step(in);
      for (const auto& [got, expected] : {std::pair(in.x, wide.x), {in.weight, wide.weight}, {in.bias, wide.bias}}) {
        EXPECT_EQ(got.grad().dtype(), dtype);
        EXPECT_EQ(got.grad().to_vector<float>(), expected.grad().to(dtype).to_vector<float>()) << to_text(dtype);
      }
    }
}

TEST(LinearCrossEntropy, ReadsNothingOnTheHost) {
  const Inputs3 in = inputs(12, 8, 5);
  const std::uint64_t before = host_reads();
  for (const Reduction reduction : {Reduction::mean, Reduction::sum, Reduction::none}) {
    const Tensor loss = chunked(in, {.reduction = reduction, .batch_chunk_size = 5});
    loss.backward(ones_like(loss));
  }
  EXPECT_EQ(host_reads(), before);
}

TEST(LinearCrossEntropy, IsOneOperationToObservers) {
  struct Seen final : Observer {
    std::vector<std::string> forward, backward;
    std::vector<std::size_t> delivered;
    void on_forward(const OpPtr& op, Inputs, const Tensor&) override { forward.emplace_back(op->name()); }
    void on_gradients(const BackwardCall& call) override {
      backward.emplace_back(call.op.name());
      for (const DeliveredGradient& g : call.gradients) delivered.push_back(g.input);
    }
  } seen;
  const Inputs3 in = inputs(12, 8, 5);
  {
    const ObserverScope scope(seen);
    chunked(in, {.batch_chunk_size = 5}).backward();
  }
  EXPECT_EQ(seen.forward, std::vector<std::string>{"linear_cross_entropy"});
  EXPECT_EQ(seen.backward, std::vector<std::string>{"linear_cross_entropy"});
  EXPECT_EQ(seen.delivered, (std::vector<std::size_t>{0, 1, 3}));
}

// What a step holds beyond its leaves and their gradients, against what the operations must keep; a block is at most an
// eighth larger than what was asked for.
TEST(LinearCrossEntropy, NeverHoldsTheLogits) {
  constexpr std::int64_t tokens = 512, in_size = 32, classes = 4096, chunk = 16;
  const auto peak = [&](bool fused, bool accumulate, MemoryTag tag) {
    const Inputs3 in = inputs(tokens, in_size, classes);
    for (Tensor x : {in.x, in.weight}) {
      x.set_grad(zeros_like(x));
      if (!accumulate) x.zero_grad();
    }
    reset_peak_memory(test_device());
    const auto at = static_cast<std::size_t>(tag);
    const std::size_t before = memory_stats(test_device()).current[at];
    const Tensor loss = fused ? linear_cross_entropy(in.x, in.weight, in.targets, {.batch_chunk_size = chunk})
                              : cross_entropy(linear(in.x, in.weight), in.targets);
    loss.backward();
    return memory_stats(test_device()).peak[at] - before;
  };
  constexpr std::size_t logits = tokens * classes * 4, of_chunk = chunk * classes * 4;
  constexpr std::size_t kept = (tokens + classes) * in_size * 4;   // dx and dweight
  constexpr std::size_t per_token = tokens * (4 + 4 + 8 + 4 + 4);  // losses, lse, targets and what counts them
  EXPECT_GE(peak(false, false, MemoryTag::activations), logits);
  EXPECT_EQ(peak(false, false, MemoryTag::gradients), 0U);
  for (const bool accumulate : {false, true}) {
    EXPECT_LE(peak(true, accumulate, MemoryTag::activations), (of_chunk + per_token) * 9 / 8 + 4096);
    EXPECT_GE(peak(true, accumulate, MemoryTag::gradients), kept);
    EXPECT_LE(peak(true, accumulate, MemoryTag::gradients), kept * 9 / 8 + 4096);
  }
}

}  // namespace

}  // namespace binade::test
