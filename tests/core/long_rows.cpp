// Softmax and cross-entropy of rows that the CPU reads in several blocks: wherever the largest element lies.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "binade/ops/ops.h"

namespace binade::test {
namespace {

constexpr std::int64_t n = 7001;
constexpr float infinity = std::numeric_limits<float>::infinity();

struct Row {
  const char* name;
  std::function<double(std::int64_t)> x;
};
const Row rows[] = {
    {"falling", [](std::int64_t i) { return -0.002 * static_cast<double>(i); }},
    {"rising", [](std::int64_t i) { return 0.02 * static_cast<double>(i); }},  // each block has a new largest element
    {"last", [](std::int64_t i) { return i == n - 1 ? 30.0 : 0.001 * static_cast<double>(i % 97); }},
    {"within", [](std::int64_t i) { return i == 4100 ? 30.0 : 0.001 * static_cast<double>(i % 97); }},
    {"after -inf", [](std::int64_t i) { return i < 5000 ? -INFINITY : 0.001 * static_cast<double>(i % 97); }},
    {"far below", [](std::int64_t i) { return i < 3000 ? -200.0 : 0.001 * static_cast<double>(i % 97); }},
};
Tensor row_of(const std::function<double(std::int64_t)>& x) {
  std::vector<float> values(n);
  for (std::int64_t i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = static_cast<float>(x(i));
  return from_vector<float>(values, {1, n});
}

// A sum of n terms in at least 16 partial ones: n / 16 + 8 roundings of 2^-24, and 2 for the exponential and the quotient.
constexpr double bound = (static_cast<double>(n) / 16 + 10) * 0x1p-24;

TEST(LongRows, Softmax) {
  for (const Row& row : rows) {
    const Tensor x = row_of(row.x);
    const auto y = softmax(x, -1).to_vector<float>();
    const auto expected = softmax(x.to(DType::f64), -1).to_vector<double>();
    for (std::size_t i = 0; i < y.size(); ++i)  // what would be subnormal may be 0
      ASSERT_NEAR(static_cast<double>(y[i]), expected[i], bound * expected[i] + 0x1p-126) << row.name << " " << i;
  }
}

TEST(LongRows, CrossEntropy) {
  for (const Row& row : rows) {
    const Tensor x = row_of(row.x);
    for (const std::int64_t target : {std::int64_t{5500}, n - 1}) {
      const Tensor t = from_vector<std::int64_t>({target}, {1});
      const double expected = cross_entropy(x.to(DType::f64), t).item<double>();
      // log(sum) has the sum's relative error as an absolute one; then log and two differences round.
      EXPECT_NEAR(cross_entropy(x, t).item<double>(), expected, bound + 4 * 0x1p-24 * (std::abs(expected) + 10)) << row.name;
    }
  }
}

TEST(LongRows, InvalidValuesReachTheResult) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity}) {
    for (const std::int64_t at : {std::int64_t{3}, std::int64_t{4100}, n - 1}) {
      const Tensor x = row_of([&](std::int64_t i) { return i == at ? static_cast<double>(bad) : 0.0; });
      EXPECT_TRUE(std::isnan(cross_entropy(x, from_vector<std::int64_t>({0}, {1})).item<double>())) << bad << " at " << at;
      EXPECT_TRUE(std::isnan(softmax(x, -1).to_vector<float>()[static_cast<std::size_t>(at)])) << bad << " at " << at;
    }
  }
}

}  // namespace
}  // namespace binade::test
