// FP8 codes and MX blocks from the vectorised kernels, bit by bit against scalars, and the vectorised f16 and bf16
// conversions on long random runs.
#include <gtest/gtest.h>

#include <random>

#include "binade/core/backend/fp8_kernels.h"
#include "binade/core/tensor/tensor.h"
#include "binade/ops/cpu/convert.h"
#include "binade/ops/cpu/quantize.h"
#include "binade/tests/core/rounding.h"
#include "binade/tests/core/test_device.h"

namespace binade::test {

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Every finite value of the format, the midpoints to the next and their neighbours; limits; specials; both signs.
template <class T>
std::vector<float> around_every_value() {
  std::vector<float> positive{0, infinity, std::numeric_limits<float>::max(), std::numeric_limits<float>::min(),
                              std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::quiet_NaN()};
  double last = 0;
  for (std::uint32_t code = 1; code < (1U << (8 * sizeof(T) - 1)); ++code) {
    T x;
    x.bits = static_cast<decltype(x.bits)>(code);
    const auto value = static_cast<double>(x);
    if (!std::isfinite(value)) continue;
    const auto middle = static_cast<float>((last + value) / 2);
    for (const float v : {static_cast<float>(value), middle}) {
      positive.push_back(v);
      positive.push_back(std::nextafter(v, infinity));
      positive.push_back(std::nextafter(v, 0.0F));
    }
    last = value;
  }
  for (const double factor : {1 + 0x1p-5, 1.0625, 1.125, 1.25, 2.0}) {  // around the largest: overflow by rounding
    const auto v = static_cast<float>(last * factor);
    for (const float x : {v, std::nextafter(v, infinity), std::nextafter(v, 0.0F)}) positive.push_back(x);
  }
  std::vector<float> values;
  for (const float v : positive)
    for (const float signed_v : {v, -v}) values.push_back(signed_v);
  return values;
}

std::vector<float> random_bits(std::size_t count) {
  std::mt19937 generator(17);
  std::vector<float> values(count);
  for (float& v : values) v = std::bit_cast<float>(static_cast<std::uint32_t>(generator()));
  return values;
}
// Within and around the range of FP8, where random bit patterns seldom fall.
std::vector<float> random_small(std::size_t count) {
  std::vector<float> values = random_bits(count);
  for (float& v : values) {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(v);
    v = std::bit_cast<float>((u & 0x807fffffU) | ((u >> 23 & 63U) + 100U) << 23);  // 2^-27 to 2^36
  }
  return values;
}

struct Quantized {
  Tensor codes;
  float inverse, amax;
};
Quantized quantize(const Tensor& x, DType format, float scale, float amax = 0) {
  const Device device = test_device();
  const Tensor y = empty(x.shape(), {.dtype = format, .device = device}), inverse = empty({1}, {.device = device});
  const Tensor s = full({1}, scale, {.device = device}), known = full({1}, amax, {.device = device});
  kernel::quantize_fp8(x.to(device), y, s, inverse, known);
  return {y.to(Device{}), inverse.item<float>(), known.item<float>()};
}

template <class T>
class Fp8Conversion : public ::testing::Test {};
using Fp8Formats = ::testing::Types<Float8E4M3, Float8E5M2>;
TYPED_TEST_SUITE(Fp8Conversion, Fp8Formats);

template <class T>
void expect_codes(const std::vector<float>& x, float scale) {
  const Tensor codes = quantize(from_vector(x, {static_cast<std::int64_t>(x.size())}), dtype_of<T>, scale).codes;
  const std::span<T> got = codes.data<T>();
  int wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = round_to_saturated(format_of<T>(), static_cast<double>(x[i] * scale));
    const auto value = static_cast<double>(got[i]);
    if (same_value(value, expected) && (std::isnan(value) || got[i].bits == T(expected).bits)) continue;
    if (++wrong <= 5) ADD_FAILURE() << std::hexfloat << x[i] << " * " << scale << " became " << value << ", expected " << expected;
  }
  EXPECT_EQ(wrong, 0);
}

TYPED_TEST(Fp8Conversion, KernelRoundsToNearestEvenAndSaturates) {
  for (const float scale : {1.0F, 0x1p-7F, 0x1p9F, 0.7F, 448.0F / 3.7F}) {
    expect_codes<TypeParam>(around_every_value<TypeParam>(), scale);
    expect_codes<TypeParam>(random_bits(300'000), scale);
    expect_codes<TypeParam>(random_small(300'000), scale);
  }
}

TYPED_TEST(Fp8Conversion, NamedValues) {
  const auto largest_value = static_cast<float>(largest(dtype_of<TypeParam>));
  const Tensor x = from_vector<float>({infinity, -infinity, 1e30F, -1e30F, NAN, 0.0F, -0.0F, 2 * largest_value}, {8});
  const Quantized q = quantize(x, dtype_of<TypeParam>, 1);
  const std::vector<float> y = q.codes.template to_vector<float>();
  EXPECT_EQ(y[0], largest_value);
  EXPECT_EQ(y[1], -largest_value);
  EXPECT_EQ(y[2], largest_value);
  EXPECT_EQ(y[3], -largest_value);
  EXPECT_TRUE(std::isnan(y[4]));
  EXPECT_EQ(q.codes.template data<TypeParam>()[5].bits, 0);
  EXPECT_EQ(q.codes.template data<TypeParam>()[6].bits, 0x80);
  EXPECT_EQ(y[7], largest_value);
}

TYPED_TEST(Fp8Conversion, SixteenBitAndShortInputs) {
  for (const DType dtype : {DType::bf16, DType::f16, DType::f64})
    for (const std::int64_t count : {0, 1, 3, 7, 15, 17, 33, 1025, 40000}) {
      std::vector<float> values = random_small(static_cast<std::size_t>(count));
      const Tensor x = from_vector(values, {count}, {.dtype = dtype});
      const Tensor same = x.to(DType::f32);
      const Quantized a = quantize(x, dtype_of<TypeParam>, 3), b = quantize(same, dtype_of<TypeParam>, 3);
      EXPECT_EQ(a.codes.template to_vector<float>(), b.codes.template to_vector<float>());
      EXPECT_EQ(a.amax, b.amax);
    }
}

template <class F8, class T>
void expect_decoded(float scale) {
  for (std::int64_t count = 0; count <= 40; ++count)  // every length of a rest
    for (std::uint32_t first = 0; first < 256; first += 16) {
      std::vector<F8> codes(static_cast<std::size_t>(count));
      for (std::size_t i = 0; i < codes.size(); ++i) codes[i].bits = static_cast<std::uint8_t>(first + i);
      std::vector<T> y(codes.size() + 1, T(-5.0F));
      cpu::dequantize_run(codes.data(), y.data(), count, scale);
      for (std::size_t i = 0; i < codes.size(); ++i) {
        const double expected = static_cast<double>(codes[i]) * scale, value = static_cast<double>(y[i]);
        ASSERT_TRUE(same_value(value, expected) && std::signbit(value) == std::signbit(expected))
            << "code " << int{codes[i].bits} << " became " << value << ", expected " << expected;
      }
      ASSERT_EQ(static_cast<float>(y.back()), -5.0F) << "written beyond the end";
    }
}

TYPED_TEST(Fp8Conversion, EveryCodeIsDecodedExactly) {
  for (const float scale : {1.0F, 0x1p-20F, 0x1p13F}) {
    expect_decoded<TypeParam, float>(scale);
    expect_decoded<TypeParam, double>(scale);
    expect_decoded<TypeParam, BFloat16>(scale);
  }
}

TEST(Fp8Quantize, AmaxIsTakenBeforeScalingAndKeepsTheLarger) {
  std::vector<float> x(50'000, 0.25F);
  x[31'234] = -3;
  const Tensor values = from_vector(x, {50'000});
  EXPECT_EQ(quantize(values, DType::f8e4m3, 100).amax, 3);
  EXPECT_EQ(quantize(values, DType::f8e4m3, 100, 2).amax, 3);
  EXPECT_EQ(quantize(values, DType::f8e4m3, 100, 4).amax, 4);
  EXPECT_EQ(quantize(values, DType::f8e4m3, 100).inverse, 1 / 100.0F);
  x[49'999] = -infinity;
  EXPECT_EQ(quantize(from_vector(x, {50'000}), DType::f8e5m2, 1).amax, infinity);
  x[7] = NAN;
  const Tensor with_nan = from_vector(x, {50'000});
  EXPECT_TRUE(std::isnan(quantize(with_nan, DType::f8e5m2, 1).amax));
  EXPECT_TRUE(std::isnan(quantize(values, DType::f8e5m2, 1, NAN).amax));
  const Tensor amax = empty({1}, {.device = test_device()});
  kernel::absmax(with_nan.to(test_device()), amax);
  EXPECT_TRUE(std::isnan(amax.item<float>()));
  kernel::absmax(values.to(test_device()), amax);
  EXPECT_EQ(amax.item<float>(), 3);
  kernel::absmax(empty({0}, {.device = test_device()}), amax);
  EXPECT_EQ(amax.item<float>(), 0);
}

// ---- blocks ---------------------------------------------------------------------------------------------------------

struct Blocks {
  Tensor codes, scales;
};
Blocks quantize_blocks(const Tensor& x, DType format) {
  const Blocks q{empty(x.shape(), {.dtype = format, .device = test_device()}),
                 empty({x.size(0), (x.size(1) + 31) / 32}, {.dtype = DType::u8, .device = test_device()})};
  kernel::quantize_mx(x.to(test_device()), q.codes, q.scales);
  return q;
}

template <class T>
void expect_blocks(const Tensor& x) {
  const Blocks q = quantize_blocks(x, dtype_of<T>);
  const std::vector<double> values = x.to_vector<double>();
  const std::vector<double> codes = q.codes.to_vector<double>();
  const std::int64_t n = x.size(1), blocks = (n + 31) / 32;
  const int emax = std::is_same_v<T, Float8E4M3> ? 8 : 15;
  for (std::int64_t row = 0; row < x.size(0); ++row)
    for (std::int64_t b = 0; b < blocks; ++b) {
      double amax = 0;
      bool finite = true;
      for (std::int64_t i = b * 32; i < std::min(n, b * 32 + 32); ++i) {
        const double v = values[static_cast<std::size_t>(row * n + i)];
        finite = finite && std::isfinite(v);
        amax = std::max(amax, std::abs(v));
      }
      int exponent = -127;
      if (amax > 0 && finite) exponent = std::max(-127, static_cast<int>(std::floor(std::log2(amax))) - emax);
      ASSERT_EQ(q.scales.at(row * blocks + b), finite ? exponent + 127 : 255) << "row " << row << " block " << b;
      for (std::int64_t i = b * 32; i < std::min(n, b * 32 + 32); ++i) {
        const auto at = static_cast<std::size_t>(row * n + i);
        const double expected =
            finite ? round_to_saturated(format_of<T>(), std::ldexp(values[at], -exponent)) : std::nan("");
        ASSERT_TRUE(same_value(codes[at], expected)) << values[at] << " became " << codes[at] << ", not " << expected;
      }
    }
}

TYPED_TEST(Fp8Conversion, BlocksHaveTheScaleOfTheirLargest) {
  std::vector<float> x = random_small(7 * 100);  // the last block of each row has 4 elements
  std::fill_n(x.begin() + 32, 32, 0.0F);         // a block of zeros, one of them negative
  x[40] = -0.0F;
  x[100 + 5] = NAN;                                            // row 1, block 0
  x[200 + 99] = -infinity;                                     // row 2, the tail
  for (int i = 0; i < 32; ++i) x[300 + static_cast<std::size_t>(i)] *= 0x1p-110F;  // scales at the lower limit
  for (int i = 0; i < 32; ++i) x[400 + static_cast<std::size_t>(i)] = 0x1.ffp-3F;  // saturates when rounded up
  x[500] = 0x1p-149F;
  std::fill_n(x.begin() + 501, 31, 0.0F);
  x[600] = std::numeric_limits<float>::max();
  const Tensor rows = from_vector(x, {7, 100});
  expect_blocks<TypeParam>(rows);
  expect_blocks<TypeParam>(from_vector(x, {100, 7}).t());  // blocks across the rows in memory
  expect_blocks<TypeParam>(rows.to(DType::bf16));
  expect_blocks<TypeParam>(from_vector(x, {1, 700}));
  expect_blocks<TypeParam>(from_vector(x, {700, 1}));
}

// ---- 16 bits: the vectorised kernels on long runs --------------------------------------------------------------------

template <class T>
class HalfConversion : public ::testing::Test {};
using HalfFormats = ::testing::Types<Half, BFloat16>;
TYPED_TEST_SUITE(HalfConversion, HalfFormats);

TYPED_TEST(HalfConversion, VectorisedNarrowingHasTheBitsOfScalars) {
  std::vector<float> x = around_every_value<TypeParam>();
  const std::vector<float> more = random_bits(2'000'000), small = random_small(500'000);
  x.insert(x.end(), more.begin(), more.end());
  x.insert(x.end(), small.begin(), small.end());
  std::vector<TypeParam> y(x.size());
  cpu::narrow(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
  int wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const TypeParam scalar(x[i]);
    const auto expected = static_cast<float>(round_to(format_of<TypeParam>(), static_cast<double>(x[i])));
    const bool fine = std::isnan(x[i]) ? std::isnan(static_cast<float>(y[i])) && std::isnan(static_cast<float>(scalar)) &&
                                             std::signbit(static_cast<float>(y[i])) == std::signbit(x[i])
                                       : y[i].bits == scalar.bits && static_cast<float>(y[i]) == expected;
    if (fine) continue;
    if (++wrong <= 5) ADD_FAILURE() << std::hexfloat << x[i] << " became " << static_cast<float>(y[i]) << ", expected " << expected;
  }
  EXPECT_EQ(wrong, 0);
}

TYPED_TEST(HalfConversion, VectorisedWideningHasTheBitsOfScalars) {
  std::vector<TypeParam> x(65536);
  for (std::size_t i = 0; i < x.size(); ++i) x[i].bits = static_cast<std::uint16_t>(i);
  std::vector<float> y(x.size());
  cpu::widen(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i)
    ASSERT_TRUE(same_value(static_cast<double>(y[i]), static_cast<double>(x[i]))) << i;
}

}  // namespace

}  // namespace binade::test
