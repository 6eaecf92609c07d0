// FP8 on the CPU: quantisation, scales, and products emulated exactly. An FP8 number is exact in bf16 and in f32, a
// product of two is exact in f32, and sums are f32: what is multiplied and summed is what FP8 hardware multiplies.
#include <bit>
#include <cmath>
#include <optional>

#include "binade/core/backend/fp8_kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/ops/cpu/convert.h"
#include "binade/ops/cpu/matmul.h"
#include "binade/ops/cpu/quantize.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {

namespace {

template <class Body>
void with_fp8(DType dtype, std::string_view what, const Body& body) {
  if (dtype == DType::f8e4m3) return body.template operator()<Float8E4M3>();
  check(dtype == DType::f8e5m2, what, ": expected f8e4m3 or f8e5m2, got ", dtype);
  body.template operator()<Float8E5M2>();
}

std::int64_t rows_per_task(std::int64_t n) { return std::max<std::int64_t>(1, elementwise_grain / std::max<std::int64_t>(n, 1)); }

// ---- quantisation ---------------------------------------------------------------------------------------------------

// body(float values, offset, count, amax so far) -> amax, over blocks of a contiguous x. Returns the bits of the largest
// |x|; the maximum does not depend on the order.
template <class Body>
float each_block(const TensorView& x, const Body& body) {
  const std::int64_t count = x.numel();
  const Scratch partial(static_cast<std::size_t>(chunk_count(count, elementwise_grain) + 1) * sizeof(std::uint32_t),
                        Device{});
  parallel_for(count, elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t block = 1024;
    float buffer[block];
    std::uint32_t amax = 0;
    for (std::int64_t i = begin; i < end; i += block) {
      const std::int64_t n = std::min(block, end - i);
      const float* values = x.as<float>() + i;
      if (x.dtype != DType::f32) {
        read_run(x.data + i * size_of(x.dtype), x.dtype, 1, n, buffer);
        values = buffer;
      }
      amax = body(values, i, n, amax);
    }
    partial.as<std::uint32_t>()[begin / elementwise_grain] = amax;
  });
  std::uint32_t amax = 0;
  for (std::int64_t c = 0; c < chunk_count(count, elementwise_grain); ++c)
    amax = std::max(amax, partial.as<std::uint32_t>()[c]);
  return std::bit_cast<float>(amax);
}

void absmax(TensorView x, TensorView amax) {
  amax.as<float>()[0] = each_block(x, [](const float* values, std::int64_t, std::int64_t count, std::uint32_t so_far) {
    return absmax_run(values, count, so_far);
  });
}

void quantize_fp8(TensorView x, TensorView y, TensorView scale, TensorView inverse, TensorView amax) {
  const float factor = scale.as<float>()[0];
  float largest = 0;
  with_fp8(y.dtype, "quantize_fp8", [&]<class F8> {
    largest = each_block(x, [&](const float* values, std::int64_t at, std::int64_t count, std::uint32_t so_far) {
      return quantize_run(values, y.as<F8>() + at, count, factor, so_far);
    });
  });
  inverse.as<float>()[0] = 1 / factor;
  if (!amax) return;
  float& known = amax.as<float>()[0];
  if (!(largest <= known) && !std::isnan(known)) known = largest;
}

// ---- scales ---------------------------------------------------------------------------------------------------------

float scale_for(float amax, const kernel::Fp8ScaleOptions& options) {
  const float scale = std::ldexp(static_cast<float>(options.largest) / amax, -options.margin);
  return std::fmin(std::fmax(scale, 0x1p-126F), 0x1p126F);
}

void fp8_current_scale(TensorView amax, TensorView scale, kernel::Fp8ScaleOptions options) {
  const float value = amax.as<float>()[0];
  float& result = scale.as<float>()[0];
  if (!std::isfinite(value))
    result = std::numeric_limits<float>::quiet_NaN();
  else
    result = value == 0 ? 1 : scale_for(value, options);
}

void fp8_delayed_scale(TensorView history, TensorView scale, TensorView count, kernel::Fp8ScaleOptions options) {
  float* const amaxes = history.as<float>();
  const std::int64_t length = history.numel(), considered = options.most_recent ? 1 : length;
  if (++count.as<std::int64_t>()[0] % options.interval == 0) {
    float amax = 0;
    for (std::int64_t i = 0; i < considered; ++i)
      if (std::isfinite(amaxes[i])) amax = std::fmax(amax, amaxes[i]);
    if (amax > 0) scale.as<float>()[0] = scale_for(amax, options);
  }
  std::copy_backward(amaxes, amaxes + length - 1, amaxes + length);
  amaxes[0] = 0;
}

// ---- blocks ---------------------------------------------------------------------------------------------------------

constexpr int e8m0_bias = 127;
constexpr std::uint8_t e8m0_nan = 255;

float e8m0_value(std::uint8_t code) {
  return code == e8m0_nan ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0F, code - e8m0_bias);
}

template <class F8>
std::uint8_t quantize_mx_block(const float* x, F8* y, std::int64_t count) {
  constexpr int emax = std::is_same_v<F8, Float8E4M3> ? 8 : 15;
  const float amax = std::bit_cast<float>(absmax_run(x, count, 0));
  if (!std::isfinite(amax)) {
    std::fill_n(y, count, F8(std::numeric_limits<float>::quiet_NaN()));
    return e8m0_nan;
  }
  const int exponent = amax == 0 ? -e8m0_bias : std::max(std::ilogb(amax) - emax, -e8m0_bias);
  quantize_run(x, y, count, std::ldexp(1.0F, -exponent), 0);
  return static_cast<std::uint8_t>(exponent + e8m0_bias);
}

void quantize_mx(TensorView x, TensorView y, TensorView scales) {
  const std::int64_t rows = x.size(0), n = x.size(1), blocks = scales.size(1);
  std::optional<Scratch> memory;
  TensorView source = x;
  if (x.stride(1) != 1 && x.numel() > 0) {  // blocks lie across the rows in memory: turned once
    source.dtype = DType::f32;
    source.strides = contiguous_strides(x.shape);
    memory.emplace(static_cast<std::size_t>(x.numel()) * sizeof(float), Device{});
    source.data = memory->as<std::byte>();
    kernel::copy(x, source);
  }
  with_fp8(y.dtype, "quantize_mx", [&]<class F8> {
    parallel_for(rows, rows_per_task(n), [&](std::int64_t begin, std::int64_t end) {
      float values[kernel::mx_block];
      for (std::int64_t row = begin; row < end; ++row)
        for (std::int64_t block = 0; block < blocks; ++block) {
          const std::int64_t start = block * kernel::mx_block, count = std::min(kernel::mx_block, n - start);
          read_run(source.data + (row * source.stride(0) + start) * size_of(source.dtype), source.dtype, 1, count,
                   values);
          scales.as<std::uint8_t>()[row * blocks + block] =
              quantize_mx_block(values, y.as<F8>() + row * n + start, count);
        }
    });
  });
}

// ---- products -------------------------------------------------------------------------------------------------------

// x [rows, k] of FP8 numbers, k contiguous, as T [rows, k], each times the scale of its block along k.
template <class T>
class Dequantized {
 public:
  Dequantized(const TensorView& x, const TensorView& scales)
      : view(x), memory_(static_cast<std::size_t>(x.numel()) * sizeof(T), Device{}) {
    check(x.stride(1) == 1 || x.size(1) <= 1, "matmul_fp8: operands with block scales must be contiguous along k");
    view.data = memory_.template as<std::byte>();
    view.dtype = dtype_of<T>;
    view.strides = contiguous_strides(x.shape);
    const std::int64_t k = x.size(1);
    with_fp8(x.dtype, "matmul_fp8", [&]<class F8> {
      parallel_for(x.size(0), rows_per_task(k), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row)
          for (std::int64_t start = 0; start < k; start += kernel::mx_block) {
            const std::int64_t block = start / kernel::mx_block;
            const std::uint8_t scale = scales.as<std::uint8_t>()[row * scales.stride(0) + block * scales.stride(1)];
            dequantize_run(x.as<F8>() + row * x.stride(0) + start, view.as<T>() + row * k + start,
                           std::min(kernel::mx_block, k - start), e8m0_value(scale));
          }
      });
    });
  }
  TensorView view;

 private:
  Scratch memory_;
};

template <class T>
void matmul_mx(const TensorView& a, const TensorView& b, const TensorView& scale_a, const TensorView& scale_b,
               const TensorView& bias, const TensorView& c, const kernel::MatmulOptions& options) {
  const Dequantized<T> left(a, scale_a), right(transposed(b), transposed(scale_b));
  scaled_matmul(left.view, transposed(right.view), bias, c, options, 1);
}

void matmul_fp8(TensorView a, TensorView b, TensorView scale_a, TensorView scale_b, TensorView bias, TensorView c,
                kernel::Fp8MatmulOptions options) {
  const bool blocks = scale_a.dtype == DType::u8;
  check(blocks == (scale_b.dtype == DType::u8), "matmul_fp8: scales must be both per tensor or both of blocks");
  if (c.numel() == 0) return;
  const kernel::MatmulOptions exact{.accumulate = options.accumulate, .precision = MatmulPrecision::highest};
  if (!blocks) {
    const double factor = static_cast<double>(scale_a.as<float>()[0]) * static_cast<double>(scale_b.as<float>()[0]);
    scaled_matmul(a, b, bias, c, exact, factor);
  } else if (c.dtype == DType::f64) {
    matmul_mx<double>(a, b, scale_a, scale_b, bias, c, exact);
  } else {  // block scales reach f32's subnormals, which native bf16 products may flush
    matmul_mx<float>(a, b, scale_a, scale_b, bias, c, exact);
  }
}

}  // namespace

void provide_fp8() {
  kernel::absmax.provide(DeviceType::cpu, absmax);
  kernel::quantize_fp8.provide(DeviceType::cpu, quantize_fp8);
  kernel::fp8_current_scale.provide(DeviceType::cpu, fp8_current_scale);
  kernel::fp8_delayed_scale.provide(DeviceType::cpu, fp8_delayed_scale);
  kernel::quantize_mx.provide(DeviceType::cpu, quantize_mx);
  kernel::matmul_fp8.provide(DeviceType::cpu, matmul_fp8);
}

}  // namespace binade::cpu
