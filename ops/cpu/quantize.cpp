// FP8 codes from f32 without branches, vectorised by the compiler for every instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "binade/ops/cpu/quantize.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <bit>

#include "binade/ops/cpu/quantize.h"

HWY_BEFORE_NAMESPACE();
namespace binade::cpu::HWY_NAMESPACE {
namespace {

constexpr std::uint32_t float_bits(float x) { return std::bit_cast<std::uint32_t>(x); }

// With u the unit in the last place of |x| in the format, |x| + 2^23 u is rounded by the adder to a multiple of u, and
// its low mantissa bits are that multiple: the code, less what the exponent contributes.
template <int Mantissa, class F8>
std::uint32_t quantize(const float* x, F8* y, std::size_t count, float scale, std::uint32_t amax, float largest,
                       float smallest_normal, std::uint32_t nan) {
  const std::uint32_t limit = float_bits(largest), lowest = float_bits(smallest_normal);
  for (std::size_t i = 0; i < count; ++i) {
    amax = std::max(amax, float_bits(x[i]) & 0x7fffffffU);
    const std::uint32_t scaled = float_bits(x[i] * scale), magnitude = scaled & 0x7fffffffU;
    const std::uint32_t clamped = std::min(magnitude, limit);
    const std::uint32_t exponent = std::max(clamped & 0x7f800000U, lowest);
    const float unit_2_23 = std::bit_cast<float>(exponent + (static_cast<std::uint32_t>(23 - Mantissa) << 23));
    const std::uint32_t multiple = float_bits(std::bit_cast<float>(clamped) + unit_2_23) & 0xffU;
    const std::uint32_t code = ((exponent - lowest) >> (23 - Mantissa)) + multiple;
    y[i].bits = static_cast<std::uint8_t>((magnitude > 0x7f800000U ? nan : code) | ((scaled >> 24) & 0x80U));
  }
  return amax;
}
std::uint32_t quantize_e4m3(const float* x, Float8E4M3* y, std::size_t count, float scale, std::uint32_t amax) {
  return quantize<3>(x, y, count, scale, amax, 448.0F, 0x1p-6F, 0x7fU);
}
std::uint32_t quantize_e5m2(const float* x, Float8E5M2* y, std::size_t count, float scale, std::uint32_t amax) {
  return quantize<2>(x, y, count, scale, amax, 57344.0F, 0x1p-14F, 0x7eU);
}
std::uint32_t largest_magnitude(const float* x, std::size_t count, std::uint32_t amax) {
  for (std::size_t i = 0; i < count; ++i) amax = std::max(amax, float_bits(x[i]) & 0x7fffffffU);
  return amax;
}

}  // namespace
}  // namespace binade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace binade::cpu {

HWY_EXPORT(quantize_e4m3);
HWY_EXPORT(quantize_e5m2);
HWY_EXPORT(largest_magnitude);

std::uint32_t quantize_run(const float* x, Float8E4M3* y, std::int64_t count, float scale, std::uint32_t amax) {
  return HWY_DYNAMIC_DISPATCH(quantize_e4m3)(x, y, static_cast<std::size_t>(count), scale, amax);
}
std::uint32_t quantize_run(const float* x, Float8E5M2* y, std::int64_t count, float scale, std::uint32_t amax) {
  return HWY_DYNAMIC_DISPATCH(quantize_e5m2)(x, y, static_cast<std::size_t>(count), scale, amax);
}
std::uint32_t absmax_run(const float* x, std::int64_t count, std::uint32_t amax) {
  return HWY_DYNAMIC_DISPATCH(largest_magnitude)(x, static_cast<std::size_t>(count), amax);
}

namespace {
template <class F8>
constexpr std::array<float, 256> make_values() {
  std::array<float, 256> values{};
  for (std::uint32_t bits = 0; bits < 256; ++bits) {
    F8 x;
    x.bits = static_cast<std::uint8_t>(bits);
    values[bits] = static_cast<float>(x);
  }
  return values;
}
}  // namespace

template <class F8, class T>
void dequantize_run(const F8* x, T* y, std::int64_t count, float scale) {
  static constexpr std::array<float, 256> values = make_values<F8>();
  for (std::int64_t i = 0; i < count; ++i) y[i] = convert<T>(values[x[i].bits] * scale);
}
template void dequantize_run(const Float8E4M3*, double*, std::int64_t, float);
template void dequantize_run(const Float8E4M3*, float*, std::int64_t, float);
template void dequantize_run(const Float8E4M3*, BFloat16*, std::int64_t, float);
template void dequantize_run(const Float8E5M2*, double*, std::int64_t, float);
template void dequantize_run(const Float8E5M2*, float*, std::int64_t, float);
template void dequantize_run(const Float8E5M2*, BFloat16*, std::int64_t, float);

}  // namespace binade::cpu
#endif
