// Emulated products: exactly the rounded operands are multiplied, and summed in f32. Judged by the float64 product of
// operands rounded here; on data whose sums are exact, bit by bit. A real GPU may do two things otherwise: not round to
// TF32, and sum FP8 products with fewer bits.
#include <gtest/gtest.h>

#include <functional>
#include <iomanip>
#include <random>
#include <sstream>

#include "binade/core/backend/fp8_kernels.h"
#include "binade/core/tensor/tensor.h"
#include "binade/tests/core/rounding.h"
#include "binade/tests/core/tensor_core_sums.h"
#include "binade/tests/cuda/find_simulator.h"

namespace binade::test {

namespace {

struct Matrix {  // row-major
  std::int64_t rows, columns;
  std::vector<double> values;
  double operator()(std::int64_t i, std::int64_t j) const { return values[static_cast<std::size_t>(i * columns + j)]; }
  Matrix turned() const {
    Matrix t{columns, rows, {}};
    for (std::int64_t j = 0; j < columns; ++j)
      for (std::int64_t i = 0; i < rows; ++i) t.values.push_back((*this)(i, j));
    return t;
  }
  template <class F>
  Matrix map(const F& f) const {
    Matrix y = *this;
    for (double& v : y.values) v = f(v);
    return y;
  }
};

enum class Data { random, exact };
// random: f32 numbers over eight binades. exact: small integers times a power of two, exact in every format, whose sums
// are exact in f32 in any order.
Matrix draw(std::int64_t rows, std::int64_t columns, Data data, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> mantissa(1, 2);
  Matrix x{rows, columns, {}};
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    const double sign = generator() % 2 == 0 ? 1 : -1;
    if (data == Data::exact)
      x.values.push_back(sign * static_cast<double>(generator() % 8) / 4);
    else
      x.values.push_back(sign * std::ldexp(static_cast<double>(mantissa(generator)), -static_cast<int>(generator() % 8)));
  }
  return x;
}

// A tensor of x, or a transposed view of x's transpose.
Tensor tensor_of(const Matrix& x, bool transposed, DType dtype) {
  const TensorOptions options{.dtype = dtype, .device = test_device()};
  if (!transposed) return from_vector(x.values, {x.rows, x.columns}, options);
  return from_vector(x.turned().values, {x.columns, x.rows}, options).t();
}

struct Emulated {
  std::string name;
  Format a, b;  // what the operands are rounded to
  std::function<Matrix(const Matrix&, bool left)> operands;  // as they are multiplied
  std::function<void(const Matrix& a, bool ta, const Matrix& b, bool tb, const Tensor& bias, const Tensor& c,
                     bool accumulate)>
      run;
  bool transposes = true;
};

Emulated sixteen_bit(const char* name, Format format, DType dtype) {
  return {name, format, format,
          [format](const Matrix& x, bool) { return x.map([&](double v) { return round_to(format, v); }); },
          [dtype](const Matrix& a, bool ta, const Matrix& b, bool tb, const Tensor& bias, const Tensor& c, bool add) {
            kernel::matmul(tensor_of(a, ta, dtype), tensor_of(b, tb, dtype), bias, c,
                           {.accumulate = add, .precision = MatmulPrecision::high});
          }};
}

// Powers of two, so that the test's own operands stay exact.
constexpr float scale_a = 8, scale_b = 0x1p6F;

Emulated fp8(const char* name, Format format_a, DType a_dtype, Format format_b, DType b_dtype) {
  const auto quantized = [](const Matrix& x, bool transposed, DType dtype, float scale, const Tensor& inverse) {
    const Matrix stored = transposed ? x.turned() : x;
    const Tensor values = tensor_of(stored, false, DType::f32), codes = empty(values.shape(), {.dtype = dtype, .device = test_device()});
    kernel::quantize_fp8(values, codes, full({1}, scale, {.device = test_device()}), inverse, {});
    return transposed ? codes.t() : codes;
  };
  return {name, format_a, format_b,
          [=](const Matrix& x, bool left) {
            const double scale = left ? scale_a : scale_b;
            return x.map([&](double v) { return round_to_saturated(left ? format_a : format_b, v * scale) / scale; });
          },
          [=](const Matrix& a, bool ta, const Matrix& b, bool tb, const Tensor& bias, const Tensor& c, bool add) {
            const Tensor inverse_a = empty({1}, {.device = test_device()}), inverse_b = empty_like(inverse_a);
            const Tensor codes_a = quantized(a, ta, a_dtype, scale_a, inverse_a);
            const Tensor codes_b = quantized(b, tb, b_dtype, scale_b, inverse_b);
            kernel::matmul_fp8(codes_a, codes_b, inverse_a, inverse_b, bias, c, {.accumulate = add});
          }};
}

Emulated mx(const char* name, Format format_a, DType a_dtype, Format format_b, DType b_dtype) {
  const auto quantized = [](const Matrix& x, DType dtype) {
    const Tensor codes = empty({x.rows, x.columns}, {.dtype = dtype, .device = test_device()});
    const Tensor scales = empty({x.rows, (x.columns + 31) / 32}, {.dtype = DType::u8, .device = test_device()});
    kernel::quantize_mx(tensor_of(x, false, DType::f32), codes, scales);
    return std::pair(codes, scales);
  };
  const auto in_blocks = [](Matrix x, const Format& format) {  // along the rows
    const int emax = format.mantissa == 3 ? 8 : 15;
    for (std::int64_t row = 0; row < x.rows; ++row)
      for (std::int64_t start = 0; start < x.columns; start += 32) {
        const auto begin = x.values.begin() + row * x.columns + start;
        const auto end = begin + std::min<std::int64_t>(32, x.columns - start);
        double amax = 0;
        for (auto v = begin; v != end; ++v) amax = std::max(amax, std::abs(*v));
        const double scale = amax == 0 ? 1 : std::ldexp(1, static_cast<int>(std::floor(std::log2(amax))) - emax);
        for (auto v = begin; v != end; ++v) *v = round_to_saturated(format, *v / scale) * scale;
      }
    return x;
  };
  return {name, format_a, format_b,
          [=](const Matrix& x, bool left) {
            return left ? in_blocks(x, format_a) : in_blocks(x.turned(), format_b).turned();
          },
          [=](const Matrix& a, bool, const Matrix& b, bool, const Tensor& bias, const Tensor& c, bool add) {
            const auto [codes_a, scales_a] = quantized(a, a_dtype);
            const auto [codes_b, scales_b] = quantized(b.turned(), b_dtype);
            kernel::matmul_fp8(codes_a, codes_b.t(), scales_a, scales_b.t(), bias, c, {.accumulate = add});
          },
          false};  // k is contiguous in both by rule
}

std::vector<Emulated> all_emulated() {
  const Format e4m3 = format_of<Float8E4M3>(), e5m2 = format_of<Float8E5M2>();
  return {sixteen_bit("f16", format_of<Half>(), DType::f16),
          sixteen_bit("bf16", format_of<BFloat16>(), DType::bf16),
          sixteen_bit("tf32", tf32_format, DType::f32),
          fp8("e4m3_e4m3", e4m3, DType::f8e4m3, e4m3, DType::f8e4m3),
          fp8("e4m3_e5m2", e4m3, DType::f8e4m3, e5m2, DType::f8e5m2),
          fp8("e5m2_e4m3", e5m2, DType::f8e5m2, e4m3, DType::f8e4m3),
          mx("mx_e4m3_e4m3", e4m3, DType::f8e4m3, e4m3, DType::f8e4m3),
          mx("mx_e5m2_e4m3", e5m2, DType::f8e5m2, e4m3, DType::f8e4m3)};
}

class Products : public ::testing::TestWithParam<std::size_t> {
 protected:
  const Emulated emulated = all_emulated()[GetParam()];

  template <class Body>  // body(m, n, k, transpose a, transpose b)
  void each_case(const Body& body) const {
    constexpr std::int64_t sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {17, 33, 65}, {64, 48, 32}, {5, 9, 131}, {2, 3, 2100}};
    for (const auto& [m, n, k] : sizes)
      for (const bool ta : {false, true})
        for (const bool tb : {false, true})
          if (emulated.transposes || (!ta && !tb)) body(m, n, k, ta, tb);
  }
};

TEST_P(Products, StayWithinTheBoundOfF32Sums) {
  const bool real = tests_a_real_gpu(), tf32 = emulated.name == "tf32", fp8 = emulated.name.starts_with('e');
  each_case([&](std::int64_t m, std::int64_t n, std::int64_t k, bool ta, bool tb) {
    const Matrix a = draw(m, k, Data::random, 1), b = draw(k, n, Data::random, 2), before = draw(m, n, Data::random, 3);
    const Matrix bias = draw(1, n, Data::random, 4), left = emulated.operands(a, true), right = emulated.operands(b, false);
    const bool native_fp8 = real && fp8 && m % 16 == 0 && n % 16 == 0 && k % 16 == 0;
    for (const DType out : {DType::f32, DType::bf16, DType::f16})
      for (const bool accumulate : {false, true}) {
        if (out != DType::f32 && tf32) continue;
        if (is_floating(out) && out != DType::f32 && (emulated.name == "f16" || emulated.name == "bf16") &&
            emulated.name != to_text(out))
          continue;  // kernel::matmul writes the operands' dtype or f32
        const Tensor c = from_vector(before.values, {m, n}, {.dtype = out, .device = test_device()});
        const std::vector<double> old = c.to_vector<double>();
        emulated.run(a, ta, b, tb, from_vector(bias.values, {n}).to(test_device()), c, accumulate);
        const std::vector<double> got = c.to_vector<double>();
        // The first element that is not within the bound around the product of x and y, or nothing.
        const auto first_beyond = [&](const Matrix& x, const Matrix& y) -> std::string {
          for (std::int64_t i = 0; i < m; ++i)
            for (std::int64_t j = 0; j < n; ++j) {
              const auto at = static_cast<std::size_t>(i * n + j);
              double sum = bias(0, j) + (accumulate ? old[at] : 0),
                     magnitude = std::abs(bias(0, j)) + std::abs(old[at]);
              std::vector<double> products;
              for (std::int64_t l = 0; l < k; ++l) {
                products.push_back(x(i, l) * y(l, j));
                sum += products.back();
                magnitude += std::abs(products.back());
              }
              // k products, bias, old value and the scales: each addition and multiplication rounds once.
              const double unit = out == DType::f32 ? 0 : epsilon(out) / 2;
              const double sums =
                  static_cast<double>(k + 4) * 0x1p-24 * magnitude + (native_fp8 ? fp8_sum_error(products) : 0);
              const double allowed = sums + unit * (std::abs(sum) + (native_fp8 ? sums : 0)) * 1.001;
              if (std::abs(got[at] - sum) <= allowed) continue;
              std::ostringstream text;
              text << emulated.name << " m " << m << " n " << n << " k " << k << " " << ta << tb << " " << to_text(out)
                   << " accumulate " << accumulate << ": element " << at << " is " << std::setprecision(17) << got[at]
                   << ", expected " << sum << " within " << allowed << ", off by " << got[at] - sum;
              return text.str();
            }
          return {};
        };
        const std::string beyond = first_beyond(left, right);
        if (!beyond.empty() && tf32 && real && first_beyond(a, b).empty()) continue;  // an FP32 product
        ASSERT_EQ(beyond, "");
      }
  });
}

TEST_P(Products, AreExactWhereSumsAre) {
  each_case([&](std::int64_t m, std::int64_t n, std::int64_t k, bool ta, bool tb) {
    const Matrix a = draw(m, k, Data::exact, 5), b = draw(k, n, Data::exact, 6), before = draw(m, n, Data::exact, 7);
    const Matrix bias = draw(1, n, Data::exact, 8);
    for (const bool accumulate : {false, true}) {
      const Tensor c = from_vector(before.values, {m, n}, {.dtype = DType::f32, .device = test_device()});
      emulated.run(a, ta, b, tb, from_vector(bias.values, {n}).to(test_device()), c, accumulate);
      const std::vector<double> got = c.to_vector<double>();
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < n; ++j) {
          double sum = bias(0, j) + (accumulate ? before(i, j) : 0);
          for (std::int64_t l = 0; l < k; ++l) sum += a(i, l) * b(l, j);
          ASSERT_EQ(got[static_cast<std::size_t>(i * n + j)], sum) << emulated.name << " k " << k << " " << ta << tb;
        }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Formats, Products, ::testing::Range<std::size_t>(0, 8),
                         [](const auto& param) { return all_emulated()[param.param].name; });

TEST(Fp8Products, ScalesMultiplyTheSumOnce) {
  // 3 * 5 products of 1 with a scale that has no short inverse: one rounding of sum * (scale_a * scale_b).
  const Tensor a = ones({1, 15}, {.dtype = DType::f8e4m3, .device = test_device()});
  const Tensor b = ones({15, 1}, {.dtype = DType::f8e5m2, .device = test_device()});
  const Tensor c = empty({1, 1}, {.device = test_device()});
  const float sa = 1 / 3.0F, sb = 1 / 7.0F;
  kernel::matmul_fp8(a, b, full({1}, sa, {.device = test_device()}), full({1}, sb, {.device = test_device()}), {}, c, {});
  EXPECT_EQ(c.item<float>(), static_cast<float>(15.0 * (static_cast<double>(sa) * static_cast<double>(sb))));
}

TEST(Fp8Products, ANaNScaleIsSeen) {
  Tensor x = ones({2, 64});
  x.set(70, INFINITY);
  const Tensor codes = empty({2, 64}, {.dtype = DType::f8e4m3}), scales = empty({2, 2}, {.dtype = DType::u8}), c = empty({2, 2});
  kernel::quantize_mx(x, codes, scales);
  kernel::matmul_fp8(codes, codes.t(), scales, scales.t(), {}, c, {});
  EXPECT_EQ(c.at(0), 64);
  for (const std::int64_t i : {1, 2, 3}) EXPECT_TRUE(std::isnan(c.at(i))) << i;
}

TEST(Fp8Products, EmptySumsAndOutputs) {
  const Tensor a = empty({2, 0}, {.dtype = DType::f8e4m3}), b = empty({0, 3}, {.dtype = DType::f8e4m3}), c = ones({2, 3});
  kernel::matmul_fp8(a, b, ones({1}), ones({1}), full({3}, 2), c, {.accumulate = true});
  EXPECT_EQ(c.to_vector<float>(), std::vector<float>(6, 3));
  const Tensor none = empty({0, 3});
  kernel::matmul_fp8(empty({0, 4}, {.dtype = DType::f8e4m3}), empty({4, 3}, {.dtype = DType::f8e4m3}), ones({1}), ones({1}),
                     {}, none, {});
  EXPECT_EQ(none.numel(), 0);
}

}  // namespace

}  // namespace binade::test
