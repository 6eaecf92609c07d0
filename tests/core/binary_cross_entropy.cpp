// binary_cross_entropy beyond its samples: bounds, reductions, what it rejects. Banned under autocast: autocast.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "binade/ops/ops.h"
#include "binade/tests/core/expect_error.h"

namespace binade::test {

namespace {

// Where p is 0 or 1 a logarithm is -100 and p (1 - p) is 1e-12, as in torch.nn.functional.binary_cross_entropy.
TEST(BinaryCrossEntropy, IsFiniteAtTheBounds) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    const Tensor p = from_vector<float>({0, 0, 0, 1, 1, 1}, {6}).to(dtype).requires_grad_();
    const Tensor target = from_vector<float>({0, 0.5, 1, 0, 0.5, 1}, {6}).to(dtype).requires_grad_();
    const Tensor loss = binary_cross_entropy(p, target, Reduction::none);
    EXPECT_EQ(loss.to_vector<double>(), (std::vector<double>{0, 50, 100, 100, 50, 0}));
    loss.backward(from_vector<float>({1, 1, 1, 1, 2, 1}, {6}).to(dtype));
    // 1e-12 is rounded to the dtype, then the quotient is.
    const std::vector<double> dp = p.grad().to_vector<double>(), expected = {0, -0.5e12, -1e12, 1e12, 1e12, 0};
    for (std::size_t i = 0; i < dp.size(); ++i) EXPECT_NEAR(dp[i], expected[i], 2 * epsilon(dtype) * 1e12) << i;
    EXPECT_EQ(target.grad().to_vector<double>(), (std::vector<double>{100, 100, 100, -100, -200, -100}));
  }
}

TEST(BinaryCrossEntropy, Reductions) {
  const std::vector<double> p = {0.25, 0.5, 0.875}, target = {1, 0.25, 0};
  std::vector<double> each;
  double total = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    each.push_back(-target[i] * std::log(p[i]) - (1 - target[i]) * std::log(1 - p[i]));
    total += each.back();
  }
  const Tensor x = from_vector(p, {3}), t = from_vector(target, {3});
  const double allowed = 4 * epsilon(DType::f64) * total;
  const std::vector<double> none = binary_cross_entropy(x, t, Reduction::none).to_vector<double>();
  for (std::size_t i = 0; i < p.size(); ++i) EXPECT_NEAR(none[i], each[i], allowed);
  EXPECT_NEAR(binary_cross_entropy(x, t, Reduction::sum).item<double>(), total, allowed);
  EXPECT_NEAR(binary_cross_entropy(x, t).item<double>(), total / 3, allowed);
}

TEST(BinaryCrossEntropy, TargetsOfOtherDtypesArePromoted) {
  const Tensor p = full({2}, 0.5);
  EXPECT_EQ(binary_cross_entropy(p, ones({2}, {.dtype = DType::i64})).dtype(), DType::f32);
  EXPECT_EQ(binary_cross_entropy(p, ones({2}, {.dtype = DType::f64})).dtype(), DType::f64);
  EXPECT_EQ(binary_cross_entropy(p.to(DType::f16), ones({2}, {.dtype = DType::f16})).dtype(), DType::f16);
}

TEST(BinaryCrossEntropy, RejectsWhatIsNoProbability) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double wrong : {-0.5, 1.5, nan, std::numeric_limits<double>::infinity()})
    for (const std::int64_t at : {0, 40000}) {  // 40000: in another chunk of work
      Tensor p = full({50000}, 0.5);
      p.set(at, wrong);
      expect_error([&] { binary_cross_entropy(p, zeros({50000})); }, "binary_cross_entropy: p must be in [0, 1], got ",
                   to_text(wrong));
    }
}

TEST(BinaryCrossEntropy, RejectsBadInputs) {
  const Tensor p = full({2, 3}, 0.5), integers = ones({2, 3}, {.dtype = DType::i64});
  expect_error([&] { binary_cross_entropy(p, full({3}, 0.5)); }, "binary_cross_entropy: shapes differ: p is [2, 3]");
  expect_error([&] { binary_cross_entropy(integers, integers); }, "binary_cross_entropy: p must be f64, f32");
  expect_error([&] { binary_cross_entropy({}, p); }, "binary_cross_entropy: p is undefined");
  expect_error([&] { binary_cross_entropy(p, {}); }, "binary_cross_entropy: target is undefined");
}

}  // namespace

}  // namespace binade::test
