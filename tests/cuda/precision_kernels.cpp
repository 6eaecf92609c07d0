// Kernels of the precision tools and of FP8 against the CPU's.
#include <gtest/gtest.h>

#include <limits>

#include "binade/core/backend/binary_cross_entropy_kernels.h"
#include "binade/core/backend/fp8_kernels.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/statistics_kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/fp8_linear.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/core/tensor_core_sums.h"
#include "binade/tests/cuda/simulated.h"

namespace binade::test {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();

using PrecisionKernels = CudaDevice;

// Values over many binades, with zeros and what is not finite at the end.
Tensor wide_range(std::int64_t n, DType dtype, bool finite = false) {
  Tensor x = mul(randn({n}), exp(randn({n}) * 12));
  x.set(0, 0.0);
  x.set(1, -0.0);
  if (!finite) {
    x.set(n - 1, nan);
    x.set(n - 2, infinity);
    x.set(n - 3, -infinity);
  }
  return x.to(dtype);
}

TEST_F(PrecisionKernels, Fp8CodesAndMaximaHaveTheCpusBits) {
  for (const DType format : {DType::f8e4m3, DType::f8e5m2})
    for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16})
      for (const auto& [length, start] : {std::pair<std::int64_t, std::int64_t>{3000, 0}, {3000, 1}, {5, 0}})
        for (const bool finite : {true, false}) {
          const Tensor all = wide_range(length, dtype, finite), part = all.narrow(0, start, length - start);
          const auto quantized = [&, first = start](Device device) {
            const Tensor x = all.to(device).narrow(0, first, part.numel());
            const Tensor codes = empty(x.shape(), {.dtype = format, .device = device});
            const Tensor inverse = empty({1}, {.device = device}), amax = full({1}, 2, {.device = device});
            kernel::quantize_fp8(x, codes, full({1}, 5, {.device = device}), inverse, amax);
            const Tensor largest = empty({1}, {.device = device});
            kernel::absmax(x, largest);
            return Tensors{codes, inverse, amax, largest};
          };
          const Tensors here = quantized({}), there = quantized(gpu);
          for (std::size_t i = 0; i < here.size(); ++i)
            expect_same_bits(cpu(there[i]), here[i], to_text(dtype) + " to " + to_text(format));
          EXPECT_EQ(std::isnan(there[2].at(0)), !finite);
        }
}

TEST_F(PrecisionKernels, Fp8ScalesHaveTheCpusBits) {
  for (const double amax : {0.0, 3.5, 1e-42, 3e38, infinity, nan}) {
    const Tensor here = empty({1}), there = empty({1}, {.device = gpu});
    kernel::fp8_current_scale(full({1}, amax), here, {.margin = 1});
    kernel::fp8_current_scale(full({1}, amax, {.device = gpu}), there, {.margin = 1});
    expect_same_bits(cpu(there), here, "current scale");
  }
  for (const std::int64_t length : {1, 4, 1000}) {
    Tensor history = rand({length}) + 0.5, there = history.to(gpu);
    const Tensor scale = ones({1}), scale_there = scale.to(gpu);
    const Tensor count = zeros({1}, {.dtype = DType::i64}), count_there = count.to(gpu);
    for (const double amax : {7.0, 0.25, infinity, 9.0, 0.0}) {
      history.set(0, amax);
      there.set(0, amax);
      for (const kernel::Fp8ScaleOptions options :
           {kernel::Fp8ScaleOptions{.interval = 2}, kernel::Fp8ScaleOptions{.largest = 57344, .most_recent = true}}) {
        kernel::fp8_delayed_scale(history, scale, count, options);
        kernel::fp8_delayed_scale(there, scale_there, count_there, options);
        expect_same_bits(cpu(there), history, "history");
        expect_same_bits(cpu(scale_there), scale, "delayed scale");
        expect_same_bits(cpu(count_there), count, "count");
      }
    }
  }
}

TEST_F(PrecisionKernels, BlocksHaveTheCpusBits) {
  for (const DType format : {DType::f8e4m3, DType::f8e5m2})
    for (const bool turned : {false, true}) {
      Tensor x = wide_range(7 * 100, DType::f32).reshape({7, 100});
      x.narrow(0, 3, 1).narrow(1, 0, 32).fill_(0);
      x.narrow(0, 4, 1).narrow(1, 0, 32).fill_(0x1p-149);
      x.narrow(0, 5, 1).narrow(1, 0, 32).fill_(3.4e38);
      const auto quantized = [&](Device device) {
        const Tensor on_device = x.to(device), source = turned ? on_device.t() : on_device;
        const Tensor codes = empty(source.shape(), {.dtype = format, .device = device});
        const Tensor scales = empty({source.size(0), (source.size(1) + 31) / 32}, {.dtype = DType::u8, .device = device});
        kernel::quantize_mx(source, codes, scales);
        return Tensors{codes, scales};
      };
      const Tensors here = quantized({}), there = quantized(gpu);
      expect_same_bits(cpu(there[0]), here[0], "codes");
      expect_same_bits(cpu(there[1]), here[1], "scales");
    }
}

struct Fp8Operand {
  Tensor codes, scales;
};
// x [rows, n] in FP8 on `device`, with a scale per tensor or per block of a row.
Fp8Operand fp8_operand(const Tensor& x, DType format, bool blocks, Device device) {
  Fp8Operand q{empty(x.shape(), {.dtype = format, .device = device}), {}};
  if (blocks) {
    q.scales = empty({x.size(0), (x.size(1) + 31) / 32}, {.dtype = DType::u8, .device = device});
    kernel::quantize_mx(x.to(device), q.codes, q.scales);
  } else {
    q.scales = empty({1}, {.device = device});
    kernel::quantize_fp8(x.to(device), q.codes, full({1}, 3, {.device = device}), q.scales, {});
  }
  return q;
}

// What hardware may lose of each element of the product of a [m, k] and b [n, k], codes with a scale per tensor.
std::vector<double> fp8_sum_errors(const Fp8Operand& a, const Fp8Operand& b) {
  const std::vector<double> x = a.codes.to_vector<double>(), w = b.codes.to_vector<double>();
  const double scale = a.scales.at(0) * b.scales.at(0);
  const auto k = static_cast<std::size_t>(a.codes.size(1));
  std::vector<double> errors, products(k);
  for (std::size_t i = 0; i < x.size(); i += k)
    for (std::size_t j = 0; j < w.size(); j += k) {
      for (std::size_t l = 0; l < k; ++l) products[l] = x[i + l] * w[j + l];
      errors.push_back(scale * fp8_sum_error(products));
    }
  return errors;
}

// |difference of two f32 sums of k products| <= 2 k u sum |a||b|, and each rounds once to c; bias and old value add
// two. A real GPU may lose more, where the product is the library's.
TEST_F(PrecisionKernels, Fp8ProductsAreTheCpus) {
  constexpr std::int64_t shapes[][3] = {{32, 48, 64}, {5, 9, 131}, {16, 16, 16}, {64, 17, 32}};
  for (const auto& [m, n, k] : shapes)
    for (const bool blocks : {false, true})
      for (const DType out : {DType::f32, DType::bf16, DType::f16, DType::f64})
        for (const DType bias_dtype : {DType::f32, out})
          for (const bool accumulate : {false, true}) {
            const Tensor x = randn({m, k}), w = randn({n, k}), bias = randn({n}).to(bias_dtype), old = randn({m, n}).to(out);
            const auto product = [&](Device device) {
              const Fp8Operand a = fp8_operand(x, DType::f8e5m2, blocks, device);
              const Fp8Operand b = fp8_operand(w, DType::f8e4m3, blocks, device);
              const Tensor c = old.to(device).clone();
              kernel::matmul_fp8(a.codes, b.codes.t(), a.scales, blocks ? b.scales.t() : b.scales, bias.to(device), c,
                                 {.accumulate = accumulate});
              return c;
            };
            const Tensor here = product({}), there = product(gpu);
            ASSERT_EQ(there.device(), gpu);
            std::vector<double> lost(static_cast<std::size_t>(m * n));
            if (!blocks && m % 16 == 0 && n % 16 == 0 && k % 16 == 0 && !find_simulator())
              lost = fp8_sum_errors(fp8_operand(x, DType::f8e5m2, false, {}), fp8_operand(w, DType::f8e4m3, false, {}));
            const double sums = 2 * static_cast<double>(k) * epsilon(DType::f32) * 4 * std::sqrt(static_cast<double>(k)) * 4;
            for (std::int64_t i = 0; i < here.numel(); ++i)
              ASSERT_NEAR(
                  there.at(i), here.at(i),
                  sums + lost[static_cast<std::size_t>(i)] + 2 * epsilon(out) * std::max(1.0, std::abs(here.at(i))))
                  << m << " x " << n << " x " << k << ", " << to_text(out) << (blocks ? ", blocks" : "");
          }
}

TEST_F(PrecisionKernels, Fp8OperandsOfEveryOrder) {  // integers: sums are exact, native products and emulated ones
  for (const std::int64_t k : {32, 30}) {
    const Tensor x = randint(-3, 3, {16, k}).to(DType::f32), w = randint(-3, 3, {k, 48}).to(DType::f32);
    const Tensor expected = matmul(x, w), one = ones({1}, {.device = gpu});
    for (const bool turn_a : {false, true})
      for (const bool turn_b : {false, true}) {
        const Tensor a = turn_a ? x.t().to(DType::f8e4m3).clone().to(gpu).t() : x.to(DType::f8e4m3).to(gpu);
        const Tensor b = turn_b ? w.t().to(DType::f8e5m2).clone().to(gpu).t() : w.to(DType::f8e5m2).to(gpu);
        const Tensor c = empty({16, 48}, {.device = gpu});
        kernel::matmul_fp8(a, b, one, one, {}, c, {});
        expect_same_bits(cpu(c), expected, turn_a ? "a turned" : "a");
      }
  }
}

TEST_F(SimulatedDevice, Fp8ProductsAreTheLibrarysFromCapability89On) {
  const char* capability = std::getenv("BINADE_SIM_CAPABILITY");
  const Fp8Operand a = fp8_operand(randn({32, 64}), DType::f8e4m3, false, gpu);
  const Fp8Operand b = fp8_operand(randn({48, 64}), DType::f8e4m3, false, gpu);
  const Tensor c = empty({32, 48}, {.device = gpu});
  const std::uint64_t before = simulator->counters().launches;
  kernel::matmul_fp8(a.codes, b.codes.t(), a.scales, b.scales, {}, c, {});
  // One product; or two operands widened, the product of those, and the scales.
  EXPECT_EQ(simulator->counters().launches - before, capability && std::atoi(capability) < 89 ? 4U : 1U);
}

TEST_F(PrecisionKernels, AStateElsewhereIsRefused) {
  const Tensor x = ones({16, 16}, {.device = gpu});
  expect_error([&] { fp8_linear(x, x, {}, {.recipe = {}, .state = amp::make_fp8_state({})}); },
               "fp8_linear: the state must lie on x's device: x is on cuda:0, the state on cpu");
}

TEST_F(PrecisionKernels, Tf32RoundsItsOperands) {
  const Tensor a = full({16, 16}, 0x1.001p0),
               b = full({16, 16}, 1);  // a quarter from one TF32 number to the next: to 1
  set_float32_matmul_precision(MatmulPrecision::high);
  const double rounded = matmul(a.to(gpu), b.to(gpu)).at(0);
  set_float32_matmul_precision(MatmulPrecision::highest);
  EXPECT_EQ(rounded, 16);
  EXPECT_EQ(matmul(a.to(gpu), b.to(gpu)).at(0), 16 * 0x1.001p0);
}

TEST_F(PrecisionKernels, HistogramsAreTheCpus) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f8e5m2})
    for (const std::int64_t n : {0, 1000, 150'000})
      for (const double factor : {1.0, 3.0, 0x1p-140, 0x1p120}) {
        const Tensor x = n == 0 ? zeros({0}, {.dtype = dtype}) : wide_range(n, dtype);
        const auto histogram = [&](Device device) {
          const Tensor counts = empty({kernel::histogram_size}, {.dtype = DType::i64, .device = device});
          const Tensor squares = empty({kernel::binade_count}, {.dtype = DType::f64, .device = device});
          const Tensor extremes = empty({2}, {.dtype = DType::f64, .device = device});
          kernel::exponent_histogram(x.to(device), factor, counts, squares, extremes);
          return Tensors{counts, squares, extremes};
        };
        const Tensors here = histogram({}), there = histogram(gpu);
        expect_same_bits(cpu(there[0]), here[0], "counts");
        expect_same_bits(cpu(there[2]), here[2], "extremes");
        // The device sums integers of 2^-44 of the binade's smallest square, the CPU doubles in sequence.
        for (std::int64_t i = 0; i < kernel::binade_count; ++i)
          ASSERT_NEAR(there[1].at(i), here[1].at(i), here[1].at(i) * (0x1p-44 + static_cast<double>(n) * 0x1p-53)) << i;
      }
}

TEST_F(PrecisionKernels, SummariesAndQuantisationErrorsAreTheCpus) {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::f8e4m3})
    for (const std::int64_t n : {0, 1000, 150'000}) {
      const Tensor x = n == 0 ? zeros({0}, {.dtype = dtype}) : wide_range(n, dtype);
      const Tensor here = empty({4}, {.dtype = DType::f64}), there = empty({4}, {.dtype = DType::f64, .device = gpu});
      kernel::finite_summary(x, here);
      kernel::finite_summary(x.to(gpu), there);
      expect_same_bits(cpu(there), here, "summary");
      for (const DType format : {DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2}) {
        const Tensor errors = empty({3}, {.dtype = DType::f64}), on_device = errors.to(gpu);
        kernel::quantization_error(x, 4, format, errors);
        kernel::quantization_error(x.to(gpu), 4, format, on_device);
        EXPECT_EQ(on_device.at(1), errors.at(1));
        EXPECT_EQ(on_device.at(2), errors.at(2));
        EXPECT_NEAR(on_device.at(0), errors.at(0), errors.at(0) * static_cast<double>(n) * 0x1p-52);
      }
    }
}

TEST_F(PrecisionKernels, ProbabilitiesOutsideTheirRangeGiveNaN) {
  const Tensor p = from_vector<float>({0.5F, -0.1F, 1.1F, 0.0F}, {4}).to(gpu), loss = empty({4}, {.device = gpu});
  kernel::binary_cross_entropy(p, ones({4}, {.device = gpu}), loss);
  EXPECT_TRUE(std::isnan(loss.at(1)) && std::isnan(loss.at(2)));
  EXPECT_EQ(loss.at(3), 100);
}

}  // namespace

}  // namespace binade::test
