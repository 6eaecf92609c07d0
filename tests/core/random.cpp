// Philox against the known answers of Random123; draws of tensors: which word belongs to which element, moments,
// independence of the number of threads.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "binade/core/base/random.h"
#include "binade/ops/ops.h"

namespace binade::test {

namespace {

void expect_words(PhiloxState state, std::uint64_t block, std::vector<std::uint32_t> expected) {
  const Philox4 got = philox(state, block);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(got.x[i], expected[i]) << "word " << i;
}

TEST(Philox, KnownAnswers) {
  expect_words({0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr std::uint64_t ones = ~std::uint64_t{0};
  expect_words({ones, ones}, ones, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  expect_words({0x299f31d0a4093822, 0x0370734413198a2e}, 0x85a308d3243f6a88,
               {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST(Random, UniformUsesWordIForElementI) {
  for (const std::int64_t count : {1, 3, 4, 5, 1000, 40001}) {
    manual_seed(7);
    const PhiloxState state = random_state();
    const std::vector<float> got = rand({count}).to_vector<float>();
    for (std::size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], uniform_from_word(philox_word(state, i))) << i;
  }
}

TEST(Random, NormalUsesWordsTwoIForElementI) {
  manual_seed(8);
  const PhiloxState state = random_state();
  const std::vector<float> got = randn({5, 201}).to_vector<float>();
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double expected = normal_from_words(philox_word(state, 2 * i), philox_word(state, 2 * i + 1));
    ASSERT_NEAR(got[i], expected, 4 * 0x1p-23 * std::max(1.0, std::abs(expected))) << i;
  }
}

TEST(Random, LayoutDoesNotChangeTheValues) {
  manual_seed(9);
  const Tensor plain = empty({6, 10}).uniform_(-1, 2);
  manual_seed(9);
  Tensor memory = zeros({10, 6});
  const Tensor strided = memory.t().uniform_(-1, 2);
  EXPECT_EQ(plain.to_vector<float>(), strided.to_vector<float>());
}

TEST(Random, SeedsRepeatAndDrawsDiffer) {
  manual_seed(1);
  const std::vector<float> a = randn({100}).to_vector<float>(), b = randn({100}).to_vector<float>();
  manual_seed(1);
  EXPECT_EQ(randn({100}).to_vector<float>(), a);
  const PhiloxState saved = random_state();
  EXPECT_EQ(randn({100}).to_vector<float>(), b);
  set_random_state(saved);
  EXPECT_EQ(randn({100}).to_vector<float>(), b);
  EXPECT_NE(a, b);
  manual_seed(2);
  EXPECT_NE(randn({100}).to_vector<float>(), a);
}

TEST(Random, SameBitsForOneAndTwoThreads) {
  const int threads = omp_get_max_threads();
  const auto draw = [](int count) {
    omp_set_num_threads(count);
    manual_seed(3);
    std::vector<float> all = rand({300001}).to_vector<float>();
    for (const float v : randn({300001}).to_vector<float>()) all.push_back(v);
    for (const float v : dropout(ones({300001}), 0.3).to_vector<float>()) all.push_back(v);
    for (const auto v : randint(0, 1000, {100001}).to_vector<std::int64_t>()) all.push_back(static_cast<float>(v));
    return all;
  };
  EXPECT_EQ(draw(1), draw(2));
  omp_set_num_threads(threads);
}

TEST(Random, MomentsAreRight) {
  manual_seed(4);
  constexpr std::int64_t count = 200000;
  const auto moments = [](const std::vector<double>& values) {
    double mean = 0, square = 0;
    for (const double v : values) mean += v;
    mean /= static_cast<double>(values.size());
    for (const double v : values) square += (v - mean) * (v - mean);
    return std::pair{mean, square / static_cast<double>(values.size())};
  };
  // Five standard errors.
  const auto [uniform_mean, uniform_variance] = moments(rand({count}).to_vector<double>());
  EXPECT_NEAR(uniform_mean, 0.5, 5 * std::sqrt(1.0 / 12 / count));
  EXPECT_NEAR(uniform_variance, 1.0 / 12, 0.001);
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    const auto [mean, variance] = moments(randn({count}, {.dtype = dtype}).to_vector<double>());
    EXPECT_NEAR(mean, 0, 5 / std::sqrt(count)) << name(dtype);
    EXPECT_NEAR(variance, 1, 5 * std::sqrt(2.0 / count)) << name(dtype);
  }
}

TEST(Random, IntegersCoverTheirRange) {
  manual_seed(5);
  std::vector<int> counts(7);
  for (const auto v : randint(-3, 4, {70000}).to_vector<std::int64_t>()) {
    ASSERT_GE(v, -3);
    ASSERT_LT(v, 4);
    ++counts[static_cast<std::size_t>(v + 3)];
  }
  for (const int c : counts) EXPECT_NEAR(c, 10000, 500);
}

TEST(Random, LowPrecisionUniformStaysBelowTheUpperEnd) {
  manual_seed(6);
  for (const DType dtype : {DType::f16, DType::bf16})
    for (const double v : rand({100000}, {.dtype = dtype}).to_vector<double>()) {
      ASSERT_GE(v, 0);
      ASSERT_LE(v, 1);  // [0, 1) before rounding to the format
    }
}

}  // namespace

}  // namespace binade::test
