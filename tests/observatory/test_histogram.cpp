// The statistics kernels against plain loops, and what a histogram says about formats against rounding every value.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>

#include "binade/core/amp/exponent_histogram.h"
#include "binade/core/base/random.h"

namespace {

using namespace binade;
using amp::exponent_histogram;
using amp::ExponentHistogram;

constexpr double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();

// Values of every binade a dtype has, subnormals, zeros of both signs, infinities and NaNs among them.
Tensor all_sorts(Shape shape, DType dtype) {
  manual_seed(3);
  const std::vector<double> mantissa = randn(shape, {.dtype = DType::f64}).to_vector<double>();
  const std::vector<double> exponent = rand(shape, {.dtype = DType::f64}).to_vector<double>();
  const int low = std::ilogb(smallest_subnormal(dtype)) - 2, high = std::ilogb(largest(dtype)) + 1;
  std::vector<double> values(mantissa.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = std::ldexp(mantissa[i], low + static_cast<int>(exponent[i] * (high - low + 1)));
    if (i % 101 == 5) values[i] = i % 2 ? 0.0 : -0.0;
    if (i % 997 == 7) values[i] = i % 2 ? inf : -inf;
    if (i % 1009 == 11) values[i] = nan;
    if (i % 503 == 13) values[i] = smallest_subnormal(dtype);
  }
  return from_vector(values, shape).to(dtype);
}

ExponentHistogram by_loop(const Tensor& x, double factor) {
  ExponentHistogram h;
  for (const double value : x.to_vector<double>()) {
    const double v = factor * value;
    if (std::isnan(v)) ++h.nans;
    else if (std::isinf(v)) ++h.infs;
    else if (v == 0) ++h.zeros;
    else {
      int e = 0;
      std::frexp(v, &e);  // v = m 2^e with m in [1/2, 1)
      const auto bin = static_cast<std::size_t>(std::min(std::max(e - 1, -149), 127) + 149);
      ++h.counts[bin];
      h.squares[bin] += v * v;
      h.amax = std::max(h.amax, std::fabs(v));
      h.amin = h.amin == 0 ? std::fabs(v) : std::min(h.amin, std::fabs(v));
    }
  }
  return h;
}

void expect_same(const ExponentHistogram& got, const ExponentHistogram& expected, const std::string& what) {
  EXPECT_EQ(got.counts, expected.counts) << what;
  EXPECT_EQ(got.zeros, expected.zeros) << what;
  EXPECT_EQ(got.infs, expected.infs) << what;
  EXPECT_EQ(got.nans, expected.nans) << what;
  EXPECT_EQ(got.amax, expected.amax) << what;
  EXPECT_EQ(got.amin, expected.amin) << what;
  for (std::size_t i = 0; i < got.squares.size(); ++i) {  // positive terms in another order: n roundings at most
    const double allowed = static_cast<double>(expected.counts[i]) * 0x1p-53 * expected.squares[i];
    if (got.squares[i] == expected.squares[i]) continue;  // infinite too, where f64 overflows
    EXPECT_LE(std::abs(got.squares[i] - expected.squares[i]), allowed) << what << " binade " << i;
  }
}

constexpr DType dtypes[] = {DType::f64, DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2};

TEST(ExponentHistogram, AgainstALoop) {
  for (const DType dtype : dtypes)
    for (const Shape& shape : {Shape{0}, Shape{}, Shape{1}, Shape{1025}, Shape{3, 70001}}) {
      const Tensor x = all_sorts(shape, dtype);
      const ExponentHistogram expected = by_loop(x, 1);
      expect_same(exponent_histogram(x), expected, to_text(dtype) + " " + to_text(shape));
      if (shape.size() == 2) {  // the loop is worth something only when it saw everything
        EXPECT_GT(expected.nonzero(), 150000);
        EXPECT_GT(expected.nans, 100);
        EXPECT_GT(expected.counts[static_cast<std::size_t>(std::max(-149, std::ilogb(smallest_subnormal(dtype))) + 149)], 100);
        EXPECT_EQ(expected.total(), x.numel());
      }
    }
}

TEST(ExponentHistogram, ExtremesWhereverTheyLie) {
  for (const std::int64_t at : {0, 70000, 199999}) {
    Tensor x = ones({200000});
    x.set(at, 0x1p-140);
    x.set((at + 100000) % 200000, -0x1p100);
    const ExponentHistogram h = exponent_histogram(x);
    EXPECT_EQ(h.amin, 0x1p-140) << at;
    EXPECT_EQ(h.amax, 0x1p100) << at;
  }
}

TEST(ExponentHistogram, StridedAndBroadcast) {
  for (const DType dtype : dtypes) {
    const Tensor x = all_sorts({90, 7, 300}, dtype);
    for (const Tensor& view : {x.transpose(0, 2), x.slice(0, 3, 80, 7), x.select(2, 5), x.slice(2, 1, 300, 3),
                               x.select(0, 0).unsqueeze(0).expand({5, 7, 300})})
      expect_same(exponent_histogram(view), by_loop(view, 1), to_text(dtype) + " " + to_text(view.shape()));
  }
}

TEST(ExponentHistogram, Factor) {
  const Tensor x = all_sorts({5000}, DType::f16);
  for (const double factor : {0x1p-16, 3.0, 1 / 65535.0})
    expect_same(exponent_histogram(x, factor), by_loop(x, factor), to_text(factor));
}

TEST(ExponentHistogram, SameBitsForAnyNumberOfThreads) {
  const Tensor x = all_sorts({300001}, DType::f32);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const ExponentHistogram one = exponent_histogram(x);
  omp_set_num_threads(3);
  const ExponentHistogram three = exponent_histogram(x);
  omp_set_num_threads(threads);
  EXPECT_EQ(one.counts, three.counts);
  EXPECT_EQ(one.squares, three.squares);
}

TEST(ExponentHistogram, AddIsTheHistogramOfBoth) {
  const Tensor x = all_sorts({4000}, DType::f32);
  ExponentHistogram sum = exponent_histogram(x.narrow(0, 0, 1000));
  sum.add(ExponentHistogram{});
  sum.add(exponent_histogram(x.narrow(0, 1000, 3000)));
  expect_same(sum, by_loop(x, 1), "sum");
  EXPECT_NEAR(sum.dynamic_range(), std::log2(sum.amax / 0x1p-100) + std::log2(0x1p-100 / sum.amin), 1e-9);
}

TEST(ExponentHistogram, RangeWithoutTheSmallest) {
  std::vector<float> values(1000, 1.5F);  // 980 in one binade, 15 at 2^-10, 5 at 2^-30
  std::fill_n(values.begin(), 15, 0x1p-10F);
  std::fill_n(values.begin() + 15, 5, 0x1p-30F);
  const ExponentHistogram h = exponent_histogram(from_vector(values, {1000}));
  EXPECT_EQ(h.range_without(0.001), 31);
  EXPECT_EQ(h.range_without(0.006), 11);
  EXPECT_EQ(h.range_without(0.03), 1);
}

// Rounds every value and counts.
struct Rounded {
  double to_zero = 0, below_normal = 0, above = 0, lost = 0;
};
Rounded round_all(const std::vector<double>& values, DType format, int k) {
  Rounded out;
  double nonzero = 0, norm = 0;
  const Tensor scaled = from_vector(values, {static_cast<std::int64_t>(values.size())});
  std::vector<double> v = scaled.to_vector<double>();
  for (double& x : v) x = std::ldexp(x, k);
  const std::vector<double> stored = from_vector(v, scaled.shape()).to(format).to_vector<double>();
  for (std::size_t i = 0; i < v.size(); ++i) {
    if (v[i] == 0) continue;
    ++nonzero;
    norm += values[i] * values[i];
    out.to_zero += stored[i] == 0;
    out.below_normal += std::fabs(v[i]) < smallest_normal(format);
    out.above += std::fabs(v[i]) > largest(format);
    if (stored[i] == 0) out.lost += values[i] * values[i];
  }
  return {out.to_zero / nonzero, out.below_normal / nonzero, out.above / nonzero, out.lost / norm};
}

std::vector<double> spread(std::size_t count, double binades) {  // log-uniform, no value at a rounding tie
  manual_seed(11);
  const auto n = static_cast<std::int64_t>(count);
  std::vector<double> u = rand({n}, {.dtype = DType::f64}).to_vector<double>();
  for (double& x : u) x = std::exp2((x - 0.5) * binades) * 1.000001;
  return u;
}

TEST(FormatShares, AgainstRoundingEveryValue) {
  const std::vector<double> values = spread(4000, 70);
  const ExponentHistogram h = exponent_histogram(from_vector(values, {4000}));
  for (const DType format : {DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2}) {
    for (int k = -140; k <= 140; k += 7) {
      const Rounded expected = round_all(values, format, k);
      const amp::FormatShares got = h.shares(format, k);
      EXPECT_EQ(got.to_zero, expected.to_zero) << to_text(format) << " 2^" << k;
      EXPECT_EQ(got.below_normal, expected.below_normal) << to_text(format) << " 2^" << k;
      EXPECT_NEAR(h.lost_squared_norm(format, k), expected.lost, 1e-12) << to_text(format) << " 2^" << k;
      EXPECT_NEAR(got.above_largest, expected.above, 0.02) << to_text(format) << " 2^" << k;  // a binade holds 1/70
    }
  }
}

TEST(FormatShares, TheLargestValuesOwnBinade) {  // E4M3 ends at 448, inside of [256, 512)
  const auto above = [](float x) { return exponent_histogram(from_vector<float>({1, x}, {2})).shares(DType::f8e4m3).above_largest; };
  EXPECT_EQ(above(448), 0);
  EXPECT_EQ(above(449), 0.5);
  EXPECT_EQ(above(512), 0.5);
}

TEST(FormatRange, OverflowIsWhereRoundingStopsBeingFinite) {
  for (const DType format : {DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2}) {
    const amp::FormatRange range(format);
    const auto finite = [&](double x) {
      return std::isfinite(from_vector<double>({x}, {1}).to(format).to_vector<double>()[0]);
    };
    EXPECT_FALSE(finite(range.overflow)) << to_text(format);
    EXPECT_TRUE(finite(std::nextafter(range.overflow, 0))) << to_text(format);
  }
  EXPECT_EQ(amp::FormatRange(DType::f16).overflow, 65520);
  EXPECT_THROW(amp::FormatRange{DType::f32}, Error);
}

std::vector<double> summary_of(const Tensor& x) {
  const Tensor out = empty({4}, {.dtype = DType::f64});
  kernel::finite_summary(x, out);
  return out.to_vector<double>();
}

TEST(FiniteSummary, AgainstALoop) {
  for (const DType dtype : dtypes) {
    const Tensor whole = all_sorts({60, 3001}, dtype);
    for (const Tensor& x : {whole, whole.transpose(0, 1), whole.slice(1, 0, 3001, 9), whole.narrow(0, 0, 0)}) {
      const ExponentHistogram h = by_loop(x, 1);
      double positive = 0;
      for (const double v : x.to_vector<double>()) positive += v == inf;
      const std::vector<double> expected{positive, static_cast<double>(h.infs) - positive, static_cast<double>(h.nans), h.amax};
      EXPECT_EQ(summary_of(x), expected) << to_text(dtype) << " " << to_text(x.shape());
    }
  }
}

TEST(QuantizationError, AgainstALoop) {
  for (const DType format : {DType::f8e4m3, DType::f8e5m2, DType::f16, DType::bf16})
    for (const DType dtype : {DType::f32, DType::f16}) {
      const Tensor x = all_sorts({70, 1000}, dtype).transpose(0, 1);
      const double scale = 1.7 * largest(format) / largest(DType::f16);
      double squares = 0, zeros = 0, saturated = 0;
      for (const double v : x.to_vector<double>()) {
        if (!std::isfinite(v)) continue;
        const bool over = std::fabs(v * scale) > largest(format);
        const double kept = over ? std::copysign(largest(format), v) : v * scale;
        const double stored = from_vector<double>({kept}, {1}).to(format).at(0);
        squares += std::pow(v - stored / scale, 2);
        zeros += v != 0 && stored == 0;
        saturated += over;
      }
      const Tensor out = empty({3}, {.dtype = DType::f64});
      kernel::quantization_error(x, scale, format, out);
      const std::vector<double> got = out.to_vector<double>();
      EXPECT_NEAR(got[0], squares, 70000 * 0x1p-53 * squares) << to_text(format);
      EXPECT_EQ(got[1], zeros) << to_text(format);
      EXPECT_EQ(got[2], saturated) << to_text(format);
      if (size_of(format) == 1) {
        EXPECT_GT(zeros, 0) << to_text(format) << " " << to_text(dtype);
      }
      EXPECT_GT(saturated, 0) << to_text(format) << " " << to_text(dtype);
    }
}

}  // namespace
