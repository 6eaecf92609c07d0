// Conversions between f32 and the 16-bit formats and from FP8 with SIMD, between all others one by one.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "binade/ops/cpu/convert.cpp"
#include <hwy/foreach_target.h>  // must come before simd.h
#include <algorithm>

#include "binade/ops/cpu/convert.h"
#include "binade/ops/cpu/quantize.h"
#include "binade/ops/cpu/simd.h"

HWY_BEFORE_NAMESPACE();
namespace binade::cpu::HWY_NAMESPACE {
namespace simd = binade::simd::HWY_NAMESPACE;

template <class From, class To>
void convert_run(const From* x, To* y, std::size_t count) {
  const std::size_t step = simd::lanes();
  std::size_t i = 0;
  for (; i + step <= count; i += step) simd::store(simd::load(x + i), y + i);
  if (i < count) simd::store_n(simd::load_n(x + i, count - i), y + i, count - i);
}
void widen_bf16(const BFloat16* x, float* y, std::size_t count) { convert_run(x, y, count); }
void widen_f16(const Half* x, float* y, std::size_t count) { convert_run(x, y, count); }
void narrow_bf16(const float* x, BFloat16* y, std::size_t count) { convert_run(x, y, count); }
void narrow_f16(const float* x, Half* y, std::size_t count) { convert_run(x, y, count); }
void round_tf32(const float* x, float* y, std::size_t count) {  // vectorised by the compiler
  for (std::size_t i = 0; i < count; ++i) y[i] = binade::round_to_tf32(x[i]);
}

}  // namespace binade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace binade::cpu {

HWY_EXPORT(widen_bf16);
HWY_EXPORT(widen_f16);
HWY_EXPORT(narrow_bf16);
HWY_EXPORT(narrow_f16);
HWY_EXPORT(round_tf32);

void widen(const BFloat16* x, float* y, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(widen_bf16)(x, y, static_cast<std::size_t>(count));
}
void widen(const Half* x, float* y, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(widen_f16)(x, y, static_cast<std::size_t>(count));
}
void widen(const Float8E4M3* x, float* y, std::int64_t count) { dequantize_run(x, y, count, 1.0F); }
void widen(const Float8E5M2* x, float* y, std::int64_t count) { dequantize_run(x, y, count, 1.0F); }
void narrow(const float* x, BFloat16* y, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(narrow_bf16)(x, y, static_cast<std::size_t>(count));
}
void narrow(const float* x, Half* y, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(narrow_f16)(x, y, static_cast<std::size_t>(count));
}
void round_to_tf32(const float* x, float* y, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(round_tf32)(x, y, static_cast<std::size_t>(count));
}

namespace {
template <class T, class C>
constexpr bool narrows = std::is_same_v<C, float> && (std::is_same_v<T, BFloat16> || std::is_same_v<T, Half>);
template <class T, class C>
constexpr bool widens = narrows<T, C> || (std::is_same_v<C, float> &&
                                          (std::is_same_v<T, Float8E4M3> || std::is_same_v<T, Float8E5M2>));
}

template <class C>
void read_run(const std::byte* p, DType dtype, std::int64_t stride, std::int64_t count, C* y) {
  with_type(dtype, [&]<class T>() {
    const T* x = reinterpret_cast<const T*>(p);
    if (stride == 0 && count > 0) {
      std::fill_n(y, count, convert<C>(x[0]));
      return;
    }
    if constexpr (widens<T, C>) {
      if (stride == 1) return widen(x, y, count);
    }
    if (stride == 1) {
      for (std::int64_t i = 0; i < count; ++i) y[i] = convert<C>(x[i]);
    } else {
      for (std::int64_t i = 0; i < count; ++i) y[i] = convert<C>(x[i * stride]);
    }
  });
}

template <class C>
void write_run(const C* x, std::byte* p, DType dtype, std::int64_t stride, std::int64_t count) {
  with_type(dtype, [&]<class T>() {
    T* y = reinterpret_cast<T*>(p);
    if constexpr (narrows<T, C>) {
      if (stride == 1) return narrow(x, y, count);
    }
    if (stride == 1) {
      for (std::int64_t i = 0; i < count; ++i) y[i] = convert<T>(x[i]);
    } else {
      for (std::int64_t i = 0; i < count; ++i) y[i * stride] = convert<T>(x[i]);
    }
  });
}

template void read_run(const std::byte*, DType, std::int64_t, std::int64_t, float*);
template void read_run(const std::byte*, DType, std::int64_t, std::int64_t, double*);
template void read_run(const std::byte*, DType, std::int64_t, std::int64_t, std::int64_t*);
template void write_run(const float*, std::byte*, DType, std::int64_t, std::int64_t);
template void write_run(const double*, std::byte*, DType, std::int64_t, std::int64_t);
template void write_run(const std::int64_t*, std::byte*, DType, std::int64_t, std::int64_t);

}  // namespace binade::cpu
#endif
