// The kernels that read all gradients: no element may be passed over, wherever it lies in its vector.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "binade/core/backend/kernels.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/test_device.h"

namespace {

using namespace binade;
using binade::test::test_device;

// Less than a vector of any processor, whole ones, and both.
const std::vector<std::int64_t> lengths = {1, 7, 32, 45, 131};

struct Found {
  float by_unscale, by_inspection, with_norm;
  double norm;
};
Found inspect(const std::vector<double>& values, DType dtype) {
  const auto tensor = [&](const Shape& shape, DType of) { return zeros(shape, {.dtype = of, .device = test_device()}); };
  const Tensor given = from_vector(values, {static_cast<std::int64_t>(values.size())}).to(dtype).to(test_device());
  const Tensor scale = full({1}, 4, {.device = test_device()});
  const Tensor found = tensor({1}, DType::f32), alone = tensor({1}, DType::f32), beside = tensor({1}, DType::f32);
  const Tensor norm = tensor({1}, dtype == DType::f64 ? DType::f64 : DType::f32);
  const std::vector<kernel::GradItem> items = {{given}};
  kernel::inspect_gradients(items, {}, {}, alone);
  kernel::inspect_gradients(items, scale, norm, beside);
  kernel::unscale(items, scale, found);  // changes them
  return {static_cast<float>(found.at(0)), static_cast<float>(alone.at(0)), static_cast<float>(beside.at(0)), norm.at(0)};
}

TEST(GradientKernels, OneElementThatIsNotFiniteIsFoundAnywhere) {
  const double bad[] = {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                        std::numeric_limits<double>::quiet_NaN()};
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    for (const std::int64_t n : lengths) {
      for (std::int64_t i = 0; i < n; ++i) {
        std::vector<double> values(static_cast<std::size_t>(n), 1.5);
        values[static_cast<std::size_t>(i)] = bad[i % 3];
        const Found f = inspect(values, dtype);
        ASSERT_EQ(f.by_unscale, 1) << to_text(dtype) << ", element " << i << " of " << n;
        ASSERT_EQ(f.by_inspection, 1) << to_text(dtype) << ", element " << i << " of " << n;
        ASSERT_EQ(f.with_norm, 1) << to_text(dtype) << ", element " << i << " of " << n;
        ASSERT_FALSE(std::isfinite(f.norm)) << to_text(dtype) << ", element " << i << " of " << n;
      }
    }
  }
}

// Whose squares, or whose sum of squares, are not.
TEST(GradientKernels, LargeElementsAreFinite) {
  for (const auto& [dtype, large] : {std::pair(DType::f32, 3e38), std::pair(DType::bf16, -3e38), std::pair(DType::f64, 1e300)}) {
    for (const std::int64_t n : lengths) {
      const Found f = inspect(std::vector<double>(static_cast<std::size_t>(n), large), dtype);
      EXPECT_EQ(f.by_unscale, 0) << to_text(dtype) << ", " << n;
      EXPECT_EQ(f.by_inspection, 0) << to_text(dtype) << ", " << n;
      EXPECT_EQ(f.with_norm, 0) << to_text(dtype) << ", " << n;
    }
  }
}

// Squares and their sum are exact in double, whichever order they are added in.
TEST(GradientKernels, EveryElementCountsOnceInTheNorm) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    for (const std::int64_t n : lengths) {
      for (std::int64_t i = 0; i < n; ++i) {
        std::vector<double> values(static_cast<std::size_t>(n), 1);
        values[static_cast<std::size_t>(i)] = 64;
        const Found f = inspect(values, dtype);
        const double exact = std::sqrt(static_cast<double>(n - 1) + 4096) / 4;
        // the root, and its rounding to the norm's dtype
        ASSERT_NEAR(f.norm, exact, exact * (dtype == DType::f64 ? 0x1p-52 : 0x1p-23)) << to_text(dtype) << ", " << i << " of " << n;
        ASSERT_EQ(f.by_unscale, 0);
        ASSERT_EQ(f.by_inspection, 0);
        ASSERT_EQ(f.with_norm, 0);
      }
    }
  }
}

}  // namespace
