// FP8 codes from f32 and back, without branches.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "binade/ops/cpu/quantize.cpp"
#include <hwy/foreach_target.h>  // must come before simd.h

#include <algorithm>
#include <array>
#include <bit>

#include "binade/ops/cpu/quantize.h"
#include "binade/ops/cpu/simd.h"

HWY_BEFORE_NAMESPACE();
namespace binade::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = binade::simd::HWY_NAMESPACE;
using simd::Float;
using F32Tag = simd::F32Tag;
using U32Tag = simd::U32Tag;
using I32Tag = simd::I32Tag;
using U8Tag = hn::Rebind<std::uint8_t, F32Tag>;
using U32 = hn::Vec<U32Tag>;

struct E4M3 {
  static constexpr int mantissa = 3, bias = 7;
  static constexpr float largest = 448;
  static constexpr std::uint32_t nan = 0x7f, first_special = 0x7f;
};
struct E5M2 {
  static constexpr int mantissa = 2, bias = 15;
  static constexpr float largest = 57344;
  static constexpr std::uint32_t nan = 0x7e, first_special = 0x7c;  // infinity
};

HWY_INLINE U32 set(std::uint32_t bits) { return hn::Set(U32Tag(), bits); }
HWY_INLINE U32 magnitude_of(Float x) { return hn::And(hn::BitCast(U32Tag(), x.v), set(0x7fffffffU)); }
HWY_INLINE U32 above(U32 a, U32 b) {  // ones where a > b, both below 2^31: SSE and AVX2 compare signed numbers only
  const I32Tag d;
  return hn::BitCast(U32Tag(), hn::VecFromMask(d, hn::Gt(hn::BitCast(d, a), hn::BitCast(d, b))));
}

// With u the unit in the last place of |x| in the format, |x| + 2^23 u is rounded by the adder to a multiple of u, and
// its low mantissa bits are that multiple: the code, less what the exponent contributes.
template <class Format>
HWY_INLINE U32 encode(Float x) {
  constexpr int shift = 23 - Format::mantissa;
  const U32 lowest = set(std::uint32_t{128 - Format::bias} << 23);  // the smallest normal number
  const U32 bits = hn::BitCast(U32Tag(), x.v), magnitude = magnitude_of(x);
  const U32 clamped = hn::Min(magnitude, set(std::bit_cast<std::uint32_t>(Format::largest)));
  const U32 exponent = hn::Max(hn::And(clamped, set(0x7f800000U)), lowest);
  const U32 unit_2_23 = hn::Add(exponent, set(std::uint32_t{shift} << 23));
  const auto rounded = hn::Add(hn::BitCast(F32Tag(), clamped), hn::BitCast(F32Tag(), unit_2_23));
  const U32 multiple = hn::And(hn::BitCast(U32Tag(), rounded), set(0xffU));
  const U32 code = hn::Add(hn::ShiftRight<shift>(hn::Sub(exponent, lowest)), multiple);
  const U32 is_nan = above(magnitude, set(0x7f800000U));
  const U32 sign = hn::And(hn::ShiftRight<24>(bits), set(0x80U));
  return hn::Or(hn::Or(hn::And(is_nan, set(Format::nan)), hn::AndNot(is_nan, code)), sign);
}

template <class Format>
HWY_INLINE Float decode(U32 code) {
  constexpr int shift = 23 - Format::mantissa;
  const U32 magnitude = hn::And(code, set(0x7fU)), moved = hn::ShiftLeft<shift>(magnitude);
  const U32 normal = hn::Add(moved, set(std::uint32_t{127 - Format::bias} << 23));
  // A subnormal code is what stands behind the point of a number of the smallest normal exponent.
  const U32 lowest = set(std::uint32_t{128 - Format::bias} << 23);
  const auto subnormal = hn::Sub(hn::BitCast(F32Tag(), hn::Add(moved, lowest)), hn::BitCast(F32Tag(), lowest));
  const U32 is_normal = above(magnitude, set((1U << Format::mantissa) - 1)),
            is_special = above(magnitude, set(Format::first_special - 1));
  const U32 finite = hn::Or(hn::And(is_normal, normal), hn::AndNot(is_normal, hn::BitCast(U32Tag(), subnormal)));
  const U32 special = hn::And(is_special, set(Format::first_special == Format::nan ? 0x7fc00000U : 0x7f800000U));
  const U32 sign = hn::ShiftLeft<24>(hn::And(code, set(0x80U)));
  return hn::BitCast(F32Tag(), hn::Or(hn::Or(finite, special), sign));
}

// lanes() codes.
HWY_INLINE void store_codes(U32 codes, std::uint8_t* y) { hn::StoreU(hn::U8FromU32(codes), U8Tag(), y); }
HWY_INLINE U32 load_codes(const std::uint8_t* x) { return hn::PromoteTo(U32Tag(), hn::LoadU(U8Tag(), x)); }

template <class Format>
std::uint32_t quantize(const float* x, std::uint8_t* y, std::size_t count, float scale, std::uint32_t amax) {
  const std::size_t step = simd::lanes();
  const Float factor(scale);
  U32 largest = set(amax);
  std::size_t i = 0;
  for (; i + step <= count; i += step) {
    const Float values = simd::load(x + i);
    largest = hn::Max(largest, magnitude_of(values));
    store_codes(encode<Format>(values * factor), y + i);
  }
  if (i < count) {
    std::uint8_t rest[simd::max_lanes];
    const Float values = simd::load_n(x + i, count - i);
    largest = hn::Max(largest, magnitude_of(values));
    store_codes(encode<Format>(values * factor), rest);
    std::copy_n(rest, count - i, y + i);
  }
  return hn::GetLane(hn::MaxOfLanes(U32Tag(), largest));
}

template <class Format, class T>
void dequantize(const std::uint8_t* x, T* y, std::size_t count, float scale) {
  const std::size_t step = simd::lanes();
  const Float factor(scale);
  std::size_t i = 0;
  for (; i + step <= count; i += step) simd::store(decode<Format>(load_codes(x + i)) * factor, y + i);
  if (i < count) {
    std::uint8_t rest[simd::max_lanes] = {};
    std::copy_n(x + i, count - i, rest);
    simd::store_n(decode<Format>(load_codes(rest)) * factor, y + i, count - i);
  }
}

std::uint32_t quantize_e4m3(const float* x, std::uint8_t* y, std::size_t count, float scale, std::uint32_t amax) {
  return quantize<E4M3>(x, y, count, scale, amax);
}
std::uint32_t quantize_e5m2(const float* x, std::uint8_t* y, std::size_t count, float scale, std::uint32_t amax) {
  return quantize<E5M2>(x, y, count, scale, amax);
}
void float_of_e4m3(const std::uint8_t* x, float* y, std::size_t n, float scale) { dequantize<E4M3>(x, y, n, scale); }
void float_of_e5m2(const std::uint8_t* x, float* y, std::size_t n, float scale) { dequantize<E5M2>(x, y, n, scale); }
void bf16_of_e4m3(const std::uint8_t* x, BFloat16* y, std::size_t n, float scale) { dequantize<E4M3>(x, y, n, scale); }
void bf16_of_e5m2(const std::uint8_t* x, BFloat16* y, std::size_t n, float scale) { dequantize<E5M2>(x, y, n, scale); }

std::uint32_t largest_magnitude(const float* x, std::size_t count, std::uint32_t amax) {
  for (std::size_t i = 0; i < count; ++i) amax = std::max(amax, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffU);
  return amax;
}

}  // namespace
}  // namespace binade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace binade::cpu {

HWY_EXPORT(quantize_e4m3);
HWY_EXPORT(quantize_e5m2);
HWY_EXPORT(float_of_e4m3);
HWY_EXPORT(float_of_e5m2);
HWY_EXPORT(bf16_of_e4m3);
HWY_EXPORT(bf16_of_e5m2);
HWY_EXPORT(largest_magnitude);

static_assert(sizeof(Float8E4M3) == 1 && sizeof(Float8E5M2) == 1);
namespace {
template <class F8>  // of nothing, the address may be null
std::uint8_t* codes(F8* x) { return reinterpret_cast<std::uint8_t*>(x); }
template <class F8>
const std::uint8_t* codes(const F8* x) { return reinterpret_cast<const std::uint8_t*>(x); }
}  // namespace

std::uint32_t quantize_run(const float* x, Float8E4M3* y, std::int64_t count, float scale, std::uint32_t amax) {
  return HWY_DYNAMIC_DISPATCH(quantize_e4m3)(x, codes(y), static_cast<std::size_t>(count), scale, amax);
}
std::uint32_t quantize_run(const float* x, Float8E5M2* y, std::int64_t count, float scale, std::uint32_t amax) {
  return HWY_DYNAMIC_DISPATCH(quantize_e5m2)(x, codes(y), static_cast<std::size_t>(count), scale, amax);
}
std::uint32_t absmax_run(const float* x, std::int64_t count, std::uint32_t amax) {
  return HWY_DYNAMIC_DISPATCH(largest_magnitude)(x, static_cast<std::size_t>(count), amax);
}

template <class F8, class T>
void dequantize_run(const F8* x, T* y, std::int64_t count, float scale) {
  constexpr bool e4m3 = std::is_same_v<F8, Float8E4M3>;
  const auto n = static_cast<std::size_t>(count);
  if constexpr (std::is_same_v<T, double>) {
    for (std::size_t i = 0; i < n; ++i) y[i] = static_cast<double>(static_cast<float>(x[i]) * scale);
  } else if constexpr (std::is_same_v<T, float>) {
    e4m3 ? HWY_DYNAMIC_DISPATCH(float_of_e4m3)(codes(x), y, n, scale)
         : HWY_DYNAMIC_DISPATCH(float_of_e5m2)(codes(x), y, n, scale);
  } else {
    e4m3 ? HWY_DYNAMIC_DISPATCH(bf16_of_e4m3)(codes(x), y, n, scale)
         : HWY_DYNAMIC_DISPATCH(bf16_of_e5m2)(codes(x), y, n, scale);
  }
}
template void dequantize_run(const Float8E4M3*, double*, std::int64_t, float);
template void dequantize_run(const Float8E4M3*, float*, std::int64_t, float);
template void dequantize_run(const Float8E4M3*, BFloat16*, std::int64_t, float);
template void dequantize_run(const Float8E5M2*, double*, std::int64_t, float);
template void dequantize_run(const Float8E5M2*, float*, std::int64_t, float);
template void dequantize_run(const Float8E5M2*, BFloat16*, std::int64_t, float);

}  // namespace binade::cpu
#endif
