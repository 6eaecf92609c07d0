// simd::Float: a vector of floats over Highway, with load, store, exp, log, tanh, erf, for every target it is included for.
//
// Use: a file that Highway compiles once per target (foreach_target.h) includes this header, opens
// HWY_BEFORE_NAMESPACE(); namespace binade::cpu::HWY_NAMESPACE, and writes `using namespace simd::HWY_NAMESPACE`.
// Put no lambdas around vector code: clang does not give them the target's instructions.
#if defined(BINADE_SIMD_TOGGLE) == defined(HWY_TARGET_TOGGLE)
#ifdef HWY_TARGET_TOGGLE
#undef BINADE_SIMD_TOGGLE
#else
#define BINADE_SIMD_TOGGLE
#endif
#include <hwy/highway.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "binade/core/base/scalar.h"

HWY_BEFORE_NAMESPACE();
namespace binade::simd::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32Tag = hn::ScalableTag<float>;
using U32Tag = hn::RebindToUnsigned<F32Tag>;
using I32Tag = hn::RebindToSigned<F32Tag>;
using U16Tag = hn::Rebind<std::uint16_t, F32Tag>;

inline constexpr std::size_t max_lanes = HWY_MAX_BYTES / sizeof(float);
HWY_INLINE std::size_t lanes() { return hn::Lanes(F32Tag()); }

struct Float {
  hn::Vec<F32Tag> v;
  HWY_INLINE Float() : v(hn::Zero(F32Tag())) {}
  HWY_INLINE Float(hn::Vec<F32Tag> x) : v(x) {}
  HWY_INLINE explicit Float(double c) : v(hn::Set(F32Tag(), static_cast<float>(c))) {}
  HWY_INLINE explicit Float(float c) : v(hn::Set(F32Tag(), c)) {}
};
struct Mask {
  hn::Mask<F32Tag> m;
};

HWY_INLINE Float operator+(Float a, Float b) { return hn::Add(a.v, b.v); }
HWY_INLINE Float operator-(Float a, Float b) { return hn::Sub(a.v, b.v); }
HWY_INLINE Float operator*(Float a, Float b) { return hn::Mul(a.v, b.v); }
HWY_INLINE Float operator/(Float a, Float b) { return hn::Div(a.v, b.v); }
HWY_INLINE Float operator-(Float a) { return hn::Neg(a.v); }
HWY_INLINE Float& operator+=(Float& a, Float b) { return a = a + b; }
HWY_INLINE Float& operator*=(Float& a, Float b) { return a = a * b; }
HWY_INLINE Mask operator<(Float a, Float b) { return {hn::Lt(a.v, b.v)}; }
HWY_INLINE Mask operator>(Float a, Float b) { return {hn::Gt(a.v, b.v)}; }
HWY_INLINE Mask operator<=(Float a, Float b) { return {hn::Le(a.v, b.v)}; }
HWY_INLINE Mask operator>=(Float a, Float b) { return {hn::Ge(a.v, b.v)}; }
HWY_INLINE Mask operator==(Float a, Float b) { return {hn::Eq(a.v, b.v)}; }
HWY_INLINE Mask operator!=(Float a, Float b) { return {hn::Not(hn::Eq(a.v, b.v))}; }  // hn::Ne is false for NaN
HWY_INLINE Mask operator&(Mask a, Mask b) { return {hn::And(a.m, b.m)}; }
HWY_INLINE Mask operator|(Mask a, Mask b) { return {hn::Or(a.m, b.m)}; }
HWY_INLINE Mask operator!(Mask a) { return {hn::Not(a.m)}; }
HWY_INLINE bool any(Mask a) { return !hn::AllFalse(F32Tag(), a.m); }
HWY_INLINE Float select(Mask m, Float yes, Float no) { return hn::IfThenElse(m.m, yes.v, no.v); }
HWY_INLINE Mask is_nan(Float x) { return {hn::IsNaN(x.v)}; }

HWY_INLINE Float mul_add(Float a, Float b, Float c) { return hn::MulAdd(a.v, b.v, c.v); }          // a b + c
HWY_INLINE Float neg_mul_add(Float a, Float b, Float c) { return hn::NegMulAdd(a.v, b.v, c.v); }  // c - a b
HWY_INLINE Float abs(Float x) { return hn::Abs(x.v); }
HWY_INLINE Float sqrt(Float x) { return hn::Sqrt(x.v); }
HWY_INLINE Float copysign(Float magnitude, Float sign) { return hn::CopySign(magnitude.v, sign.v); }
// NaN in either operand propagates.
HWY_INLINE Float max(Float a, Float b) { return select((a > b) | is_nan(a), a, b); }
HWY_INLINE Float min(Float a, Float b) { return select((a < b) | is_nan(a), a, b); }
HWY_INLINE float sum(Float x) { return hn::GetLane(hn::SumOfLanes(F32Tag(), x.v)); }
HWY_INLINE float max_lane(Float x) { return hn::GetLane(hn::MaxOfLanes(F32Tag(), x.v)); }  // no NaN lanes
HWY_INLINE float min_lane(Float x) { return hn::GetLane(hn::MinOfLanes(F32Tag(), x.v)); }

// ---- memory: lanes() elements of f32, bf16 or f16, unaligned; rounding to nearest even, NaN stays NaN --------------
HWY_INLINE Float load(const float* p) { return hn::LoadU(F32Tag(), p); }
HWY_INLINE void store(Float x, float* p) { hn::StoreU(x.v, F32Tag(), p); }

HWY_INLINE Float load(const BFloat16* p) {
  const auto upper = hn::LoadU(U16Tag(), reinterpret_cast<const std::uint16_t*>(p));
  return hn::BitCast(F32Tag(), hn::ShiftLeft<16>(hn::PromoteTo(U32Tag(), upper)));
}
HWY_INLINE void store(Float x, BFloat16* p) {
  const U32Tag d;
  const auto bits = hn::BitCast(d, x.v);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(upper, hn::Set(d, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7fff))));
  const auto nan = hn::RebindMask(d, hn::IsNaN(x.v));
  const auto result = hn::IfThenElse(nan, hn::Or(upper, hn::Set(d, 0x40)), rounded);
  hn::StoreU(hn::DemoteTo(U16Tag(), hn::BitCast(I32Tag(), result)), U16Tag(), reinterpret_cast<std::uint16_t*>(p));
}

#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2) || HWY_ARCH_ARM_A64  // the processor's own conversions
using F16Tag = hn::Rebind<hwy::float16_t, F32Tag>;
HWY_INLINE Float load(const Half* p) {
  return hn::PromoteTo(F32Tag(), hn::LoadU(F16Tag(), reinterpret_cast<const hwy::float16_t*>(p)));
}
HWY_INLINE void store(Float x, Half* p) {
  hn::StoreU(hn::DemoteTo(F16Tag(), x.v), F16Tag(), reinterpret_cast<hwy::float16_t*>(p));
}
#else  // Highway's own know no infinity, NaN or subnormal
HWY_INLINE Float load(const Half* p) {
  const U32Tag d;
  const auto bits = hn::PromoteTo(d, hn::LoadU(U16Tag(), reinterpret_cast<const std::uint16_t*>(p)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(d, 0x7fff)));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(d, 0x8000)));
  // exact also where the magnitude is subnormal
  const auto finite = hn::Mul(hn::BitCast(F32Tag(), magnitude), hn::Set(F32Tag(), 0x1p112F));
  const auto special = hn::BitCast(F32Tag(), hn::Or(magnitude, hn::Set(d, 0x7f800000)));
  const auto is_special = hn::Ge(finite, hn::Set(F32Tag(), 0x1p16F));
  return hn::Or(hn::IfThenElse(is_special, special, finite), hn::BitCast(F32Tag(), sign));
}
HWY_INLINE void store(Float x, Half* p) {
  const I32Tag d;
  const auto bits = hn::BitCast(d, x.v), magnitude = hn::And(bits, hn::Set(d, 0x7fffffff));
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 0x8000));
  // What is below 2^-14 is added to 1/2, whose last bits count 2^-24 as f16's subnormals do.
  const auto half = hn::Set(F32Tag(), 0.5F);
  const auto small = hn::Sub(hn::BitCast(d, hn::Add(hn::BitCast(F32Tag(), magnitude), half)), hn::BitCast(d, half));
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(d, 1));
  const auto rebiased = hn::Sub(magnitude, hn::Set(d, (127 - 15) << 23));
  const auto normal = hn::ShiftRight<13>(hn::Add(rebiased, hn::Add(odd, hn::Set(d, 0xfff))));
  const auto finite = hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, (127 - 14) << 23)), small, normal);
  const auto nan = hn::Gt(magnitude, hn::Set(d, 0x7f800000));
  const auto special = hn::IfThenElse(nan, hn::Set(d, 0x7e00), hn::Set(d, 0x7c00));
  const auto result = hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, (127 + 16) << 23)), finite, special);
  hn::StoreU(hn::DemoteTo(U16Tag(), hn::Or(result, sign)), U16Tag(), reinterpret_cast<std::uint16_t*>(p));
}
#endif

// The first `count` < lanes() elements; the other lanes of a load hold `rest`.
template <class T>
HWY_INLINE Float load_n(const T* p, std::size_t count, float rest = 0) {
  T values[max_lanes];
  for (std::size_t i = 0; i < lanes(); ++i) values[i] = i < count ? p[i] : T(rest);
  return load(values);
}
template <class T>
HWY_INLINE void store_n(Float x, T* p, std::size_t count) {
  T values[max_lanes];
  store(x, values);
  for (std::size_t i = 0; i < count; ++i) p[i] = values[i];
}

// body(i, k) for every vector of four runs of equal length, in turns: i its start, k its run. Returns where they end, less
// than four vectors before n. Four, because memory that is read from one place at a time comes slowly.
template <class Body>
HWY_INLINE std::size_t for_four_runs(std::size_t n, std::size_t step, const Body& body) {
  const std::size_t run = n / (4 * step) * step;
  for (std::size_t i = 0; i < run; i += step) {
    body(i, 0);
    body(run + i, 1);
    body(2 * run + i, 2);
    body(3 * run + i, 3);
  }
  return 4 * run;
}

// ---- functions: polynomials as in Cephes (single precision) -----------------------------------------------------------
HWY_INLINE Float polynomial(Float, double c) { return Float(c); }
template <class... Rest>  // highest power last: c0 + x (c1 + x (..))
HWY_INLINE Float polynomial(Float x, double c, Rest... rest) {
  return mul_add(x, polynomial(x, rest...), Float(c));
}

HWY_INLINE Float power_of_two(hn::Vec<I32Tag> n) {  // -126 <= n <= 127
  return hn::BitCast(F32Tag(), hn::ShiftLeft<23>(hn::Add(n, hn::Set(I32Tag(), 127))));
}

// exp(x - whole ln 2), whole an integer at most about a half from x / ln 2
HWY_INLINE Float exp_fraction(Float x, Float whole) {
  Float r = neg_mul_add(whole, Float(0.693359375), x);  // ln 2 in two parts: the first product is exact
  r = neg_mul_add(whole, Float(-2.12194440e-4), r);
  const Float p = polynomial(r, 5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3,
                             1.9875691500e-4);
  return mul_add(r * r, p, r) + Float(1.0);
}

// 1 ulp for x up to 88, such as a logit less the largest; what would be subnormal is 0.
HWY_INLINE Float exp_down(Float x) {
  const Float least(-87.3365447504), rounder(0x1.8p23);  // rounder + y holds y's nearest integer in its last bits
  const Float bounded = hn::Max(least.v, x.v);           // a NaN in the second operand stays
  const Float sum = mul_add(bounded, Float(1.44269504088896341), rounder);
  const Float y = exp_fraction(bounded, sum - rounder);
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(I32Tag(), sum.v));
  const Float scale = hn::BitCast(F32Tag(), hn::Add(exponent, hn::BitCast(I32Tag(), Float(1.0).v)));
  return select(x < least, Float(), y * scale);
}

// 1 ulp; overflows to inf, underflows through the subnormals to 0.
HWY_INLINE Float exp(Float x) {
  const Float bounded = hn::Min(hn::Max(x.v, hn::Set(F32Tag(), -105.0F)), hn::Set(F32Tag(), 89.0F));
  const Float whole = hn::Round((Float(bounded) * Float(1.44269504088896341)).v);
  const Float y = exp_fraction(bounded, whole);
  const auto n = hn::ConvertTo(I32Tag(), whole.v);
  const auto half = hn::ShiftRight<1>(n);  // 2^n in two factors, for n below -126 and above 127
  return select(is_nan(x), x, y * power_of_two(half) * power_of_two(hn::Sub(n, half)));
}

// 1 ulp; log(0) = -inf, negative numbers give NaN.
HWY_INLINE Float log(Float x) {
  const Mask tiny = x < Float(std::numeric_limits<float>::min());
  const Float scaled = select(tiny, x * Float(0x1p25), x);
  // 2^e m with m in [sqrt(1/2), sqrt(2)): subtracting the bits of sqrt(1/2) carries into the exponent at the right place
  const auto root = hn::Set(I32Tag(), 0x3f3504f3);
  const auto offset = hn::Sub(hn::BitCast(I32Tag(), scaled.v), root);
  const auto e_bits = hn::ShiftRight<23>(offset);
  const auto mantissa = hn::Add(hn::And(offset, hn::Set(I32Tag(), 0x007fffff)), root);
  const Float m = hn::BitCast(F32Tag(), mantissa);
  const Float e = Float(hn::ConvertTo(F32Tag(), e_bits)) - select(tiny, Float(25.0), Float(0.0));
  const Float f = m - Float(1.0);
  const Float z = f * f;
  Float y = f * z * polynomial(f, 3.3333331174e-1, -2.4999993993e-1, 2.0000714765e-1, -1.6668057665e-1,
                               1.4249322787e-1, -1.2420140846e-1, 1.1676998740e-1, -1.1514610310e-1, 7.0376836292e-2);
  y = mul_add(e, Float(-2.12194440e-4), y);
  y = neg_mul_add(z, Float(0.5), y);
  Float result = mul_add(e, Float(0.693359375), f + y);
  const Float infinity(std::numeric_limits<float>::infinity());
  result = select(x == infinity, x, result);
  result = select(x == Float(0.0), -infinity, result);
  return select((x < Float(0.0)) | is_nan(x), Float(std::numeric_limits<float>::quiet_NaN()), result);
}

// log(1 + x) for x >= 0, also accurate for small x: what 1 + x rounds away is added back.
HWY_INLINE Float log1p(Float x) {
  const Float u = Float(1.0) + x;
  return select(u == x, log(x), log(u) + (x - (u - Float(1.0))) / u);
}

// 2 ulp
HWY_INLINE Float tanh(Float x) {
  const Float a = abs(x);
  const Float z = x * x;
  const Float small = mul_add(x * z, polynomial(z, -3.33332819422e-1, 1.33314422036e-1, -5.37397155531e-2,
                                                2.06390887954e-2, -5.70498872745e-3), x);
  const Float large = Float(1.0) - Float(2.0) / (exp(a + a) + Float(1.0));
  return select(a < Float(0.625), small, copysign(large, x));
}

// exp(-x^2) with the rounding error of the square put back (where the target has a fused multiply-add).
HWY_INLINE Float exp_minus_square(Float x) {
  const Float square = x * x;
  const Float rest = hn::MulSub(x.v, x.v, square.v);
  const Float y = exp(-square);
  return neg_mul_add(y, rest, y);
}

// erfc(x) / exp(-x^2) for 0 <= x as t P(t), t = 1 / (1 + 0.4 x): Chebyshev fit, 2e-8 relative up to x = 10.1.
HWY_INLINE Float erfc_positive(Float x) {
  const Float t = Float(1.0) / mul_add(x, Float(0.4), Float(1.0));
  const Float p = polynomial(t, 0.225716030275, 0.224764058117, 0.216567109369, 0.121605208669, 0.296465859525,
                             -0.331625807832, 0.606249071348, -0.544277689828, 0.217876094883, -0.0333399331292);
  return select(x > Float(10.1), Float(0.0), exp_minus_square(x) * t * p);  // and no inf * 0 for huge x
}

// erf: 3 ulp. erfc: 6 ulp of its own size, also in the tail (without fused multiply-add 70 ulp there).
HWY_INLINE Float erf(Float x) {
  const Float a = abs(x);
  const Float z = x * x;
  const Float small = x * polynomial(z, 1.128379165726710, -3.761262582423300e-1, 1.128358514861418e-1,
                                     -2.685381193529856e-2, 5.188327685732524e-3, -8.010193625184903e-4,
                                     7.853861353153693e-5);
  return select(a < Float(1.0), small, copysign(Float(1.0) - erfc_positive(a), x));
}
HWY_INLINE Float erfc(Float x) {
  const Float y = erfc_positive(abs(x));
  return select(x < Float(0.0), Float(2.0) - y, y);
}

// Lane by lane through the scalar library: correct everywhere, for rare use.
HWY_INLINE Float pow(Float a, Float b) {
  HWY_ALIGN float x[max_lanes];
  HWY_ALIGN float y[max_lanes];
  store(a, x);
  store(b, y);
  for (std::size_t i = 0; i < lanes(); ++i) x[i] = std::pow(x[i], y[i]);
  return load(x);
}

}  // namespace binade::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
