// The narrow formats: every bit pattern widens exactly, every rounding is to nearest even. The judge is a rounding in
// double arithmetic written here. Scalars and the copy kernel must agree bit for bit.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "binade/core/tensor/tensor.h"
#include "binade/tests/core/rounding.h"

namespace binade::test {

namespace {

template <class T>
T from_bits(std::uint32_t bits) {
  T value;
  value.bits = static_cast<decltype(value.bits)>(bits);
  return value;
}

template <class T>
constexpr std::uint32_t patterns = sizeof(T) == 2 ? 65536 : 256;

// What a pattern means, from its fields.
template <class T>
double meaning(std::uint32_t bits) {
  const Format format = format_of<T>();
  const std::uint32_t width = 8 * sizeof(T), sign = bits >> (width - 1);
  const std::uint32_t magnitude = bits & ((1U << (width - 1)) - 1);
  const auto exponent = static_cast<int>(magnitude >> format.mantissa);
  const std::uint32_t fraction = magnitude & ((1U << format.mantissa) - 1);
  const int top = (1 << (static_cast<int>(width) - 1 - format.mantissa)) - 1;
  double value = 0;
  if (format.infinity && exponent == top) {
    value = fraction ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  } else if (!format.infinity && magnitude == (1U << (width - 1)) - 1) {
    value = std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(fraction, format.min_exponent - format.mantissa);
  } else {
    value = std::ldexp(fraction + (1U << format.mantissa), exponent - 1 + format.min_exponent - format.mantissa);
  }
  return sign ? -value : value;
}

// Inputs that matter for rounding: both values of every pair of neighbours, the midpoint, and one unit on either side
// of it; thresholds of overflow; specials.
template <class T, class From>
std::vector<From> interesting() {
  const Format format = format_of<T>();
  std::vector<double> positive;
  for (std::uint32_t bits = 0; bits < patterns<T> / 2; ++bits)
    if (const double v = meaning<T>(bits); std::isfinite(v)) positive.push_back(v);
  const double last_step = positive.back() - positive[positive.size() - 2];
  positive.push_back(positive.back() + last_step);  // the first value that is out of range
  std::vector<From> values;
  constexpr From inf = std::numeric_limits<From>::infinity(), zero = 0;
  for (std::size_t i = 0; i + 1 < positive.size(); ++i) {
    const auto middle = static_cast<From>(positive[i] + (positive[i + 1] - positive[i]) / 2);
    for (const From v :
         {static_cast<From>(positive[i]), middle, std::nextafter(middle, inf), std::nextafter(middle, zero)}) {
      values.push_back(v);
      values.push_back(-v);
    }
  }
  for (const From v : {inf, std::numeric_limits<From>::max(), std::numeric_limits<From>::min(),
                       std::numeric_limits<From>::denorm_min(), static_cast<From>(format.max * 1.5),
                       std::numeric_limits<From>::quiet_NaN(), zero}) {
    values.push_back(v);
    values.push_back(-v);
  }
  return values;
}

template <class T>
class Formats : public ::testing::Test {};
using NarrowFormats = ::testing::Types<Half, BFloat16, Float8E4M3, Float8E5M2>;
TYPED_TEST_SUITE(Formats, NarrowFormats);

template <class T>
Tensor all_patterns() {
  Tensor x = empty({static_cast<std::int64_t>(patterns<T>)}, {.dtype = dtype_of<T>});
  const std::span<T> values = x.data<T>();
  for (std::uint32_t bits = 0; bits < patterns<T>; ++bits) values[bits] = from_bits<T>(bits);
  return x;
}

TYPED_TEST(Formats, EveryPatternWidensExactly) {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < patterns<TypeParam> && wrong < 5; ++bits) {
    const TypeParam value = from_bits<TypeParam>(bits);
    const double expected = meaning<TypeParam>(bits);
    if (!same_value(static_cast<double>(static_cast<float>(value)), expected) ||
        !same_value(static_cast<double>(value), expected)) {
      ++wrong;
      ADD_FAILURE() << "pattern " << bits << " is " << static_cast<double>(value) << ", means " << expected;
    }
  }
}

TYPED_TEST(Formats, EveryPatternSurvivesTheRoundTrip) {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < patterns<TypeParam> && wrong < 5; ++bits) {
    const TypeParam value = from_bits<TypeParam>(bits);
    const TypeParam through_float(static_cast<float>(value)), through_double(static_cast<double>(value));
    const bool nan = std::isnan(meaning<TypeParam>(bits));
    const bool fine =
        nan ? std::isnan(static_cast<float>(through_float)) && std::isnan(static_cast<float>(through_double))
            : through_float.bits == bits && through_double.bits == bits;
    if (!fine) {
      ++wrong;
      ADD_FAILURE() << "pattern " << bits << " became " << static_cast<unsigned>(through_float.bits) << " and "
                    << static_cast<unsigned>(through_double.bits);
    }
  }
}

TYPED_TEST(Formats, KernelWidensEveryPattern) {
  const Tensor x = all_patterns<TypeParam>();
  for (const DType wide : {DType::f32, DType::f64}) {
    const std::vector<double> got = x.to(wide).template to_vector<double>();
    int wrong = 0;
    for (std::uint32_t bits = 0; bits < patterns<TypeParam> && wrong < 5; ++bits) {
      if (same_value(got[bits], meaning<TypeParam>(bits))) continue;
      ++wrong;
      ADD_FAILURE() << to_text(wide) << ": pattern " << bits << " became " << got[bits] << ", means "
                    << meaning<TypeParam>(bits);
    }
  }
}

template <class T, class From>
void expect_rounding() {
  const std::vector<From> values = interesting<T, From>();
  const Format format = format_of<T>();
  const Tensor by_kernel = from_vector(values, {static_cast<std::int64_t>(values.size())}).to(dtype_of<T>);
  const std::span<T> kernel = by_kernel.data<T>();
  int wrong = 0;
  for (std::size_t i = 0; i < values.size() && wrong < 5; ++i) {
    const T scalar(values[i]);
    const double expected = round_to(format, static_cast<double>(values[i]));
    const double got = static_cast<double>(scalar);
    const bool kernel_agrees =
        std::isnan(got) ? std::isnan(static_cast<double>(kernel[i])) : kernel[i].bits == scalar.bits;
    if (same_value(got, expected) && kernel_agrees) continue;
    ++wrong;
    ADD_FAILURE() << std::hexfloat << static_cast<double>(values[i]) << " rounds to " << expected << ", scalar " << got
                  << ", kernel " << static_cast<double>(kernel[i]);
  }
}

TYPED_TEST(Formats, FloatRoundsToNearestEven) { expect_rounding<TypeParam, float>(); }
TYPED_TEST(Formats, DoubleRoundsOnceToNearestEven) { expect_rounding<TypeParam, double>(); }

TYPED_TEST(Formats, LimitsAgreeWithTheFormat) {
  const Format format = format_of<TypeParam>();
  const DType dtype = dtype_of<TypeParam>;
  EXPECT_EQ(largest(dtype), format.max);
  EXPECT_EQ(epsilon(dtype), std::ldexp(1, -format.mantissa));
  EXPECT_EQ(smallest_normal(dtype), std::ldexp(1, format.min_exponent));
  EXPECT_EQ(smallest_subnormal(dtype), std::ldexp(1, format.min_exponent - format.mantissa));
}

TYPED_TEST(Formats, StridedAndShortTensorsRoundTheSame) {
  const std::vector<float> values = interesting<TypeParam, float>();
  for (const std::int64_t count : {1, 3, 7, 8, 15, 17, 33}) {
    const Tensor x = from_vector(std::vector<float>(values.begin() + 64, values.begin() + 64 + 2 * count), {count, 2});
    const Tensor y = x.select(1, 1).to(dtype_of<TypeParam>);
    for (std::int64_t i = 0; i < count; ++i)
      EXPECT_EQ(y.data<TypeParam>()[static_cast<std::size_t>(i)].bits,
                TypeParam(values[static_cast<std::size_t>(64 + 2 * i + 1)]).bits);
  }
}

TEST(Conversions, FloatsToIntegersTruncate) {
  const Tensor x = from_vector<float>({-1.9F, -0.5F, 0, 0.5F, 1.9F, 300.7F}, {6});
  EXPECT_EQ(x.to(DType::i64).to_vector<std::int64_t>(), (std::vector<std::int64_t>{-1, 0, 0, 0, 1, 300}));
  EXPECT_EQ(x.to(DType::i32).to_vector<std::int32_t>(), (std::vector<std::int32_t>{-1, 0, 0, 0, 1, 300}));
  EXPECT_EQ(x.to(DType::boolean).to_vector<bool>(), (std::vector<bool>{true, true, false, true, true, true}));
}

TEST(Conversions, LargeIntegersKeepTheirValue) {
  const std::vector<std::int64_t> values{(1LL << 53) + 1, -(1LL << 62) - 3, 0x7fffffffffffffffLL};
  const Tensor x = from_vector(values, {3});
  EXPECT_EQ(x.to_vector<std::int64_t>(), values);
  EXPECT_EQ(x.clone().to_vector<std::int64_t>(), values);
}

TEST(Conversions, DoubleToFloatRoundsToNearestEven) {
  const std::vector<double> values{1 + 0x1p-24, 1 + 0x1.8p-23, 1 + 0x1p-24 + 0x1p-52, 1e300, -1e-300,
                                   0x1p-149,    0x1p-150};
  const std::vector<float> got = from_vector(values, {7}).to(DType::f32).to_vector<float>();
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(got[i], static_cast<float>(values[i])) << values[i];
}

}  // namespace

}  // namespace binade::test
