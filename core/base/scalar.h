// The 16- and 8-bit floating formats as scalars, rounding to nearest even; and the map DType <-> C++ type.
// Half: IEEE 754 binary16. BFloat16: the upper half of binary32. Float8E4M3, Float8E5M2: OCP OFP8 (2023),
// E4M3 without infinities (overflow gives NaN), E5M2 IEEE-like.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "binade/core/base/dtype.h"
#include "binade/core/base/error.h"

namespace binade {

namespace detail {

// Rounds a binary32 value to a format of `mantissa` stored bits and exponent bias `bias`, nearest even, with gradual
// underflow. Returns sign, exponent and mantissa packed; overflow returns `overflow` (an infinity or NaN pattern).
constexpr std::uint32_t narrow(float x, int exponent_bits, int mantissa, std::uint32_t largest_finite,
                               std::uint32_t overflow, std::uint32_t nan) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (u >> 31) << (exponent_bits + mantissa);
  const std::uint32_t magnitude = u & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return sign | nan;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(magnitude >> 23) - 127 + bias;  // in the target's biased scale
  std::uint32_t bits = 0;
  if (magnitude == 0x7f800000U) {
    bits = overflow;
  } else if (exponent >= 1) {
    const int drop = 23 - mantissa;
    const std::uint32_t rebased = magnitude - (static_cast<std::uint32_t>(127 - bias) << 23);
    bits = (rebased + ((1U << (drop - 1)) - 1) + ((rebased >> drop) & 1)) >> drop;
    if (bits > largest_finite) bits = overflow;
  } else {
    const int drop = 23 - mantissa + 1 - exponent;  // subnormal: shift the full significand further
    if (drop <= 24) {                              // below that it is less than half of the smallest subnormal
      const std::uint32_t significand = (magnitude & 0x7fffffU) | 0x800000U;
      bits = (significand + ((1U << (drop - 1)) - 1) + ((significand >> drop) & 1)) >> drop;
    }
  }
  return sign | bits;
}

constexpr float widen(std::uint32_t bits, int exponent_bits, int mantissa, bool has_infinity) {
  const std::uint32_t sign = (bits >> (exponent_bits + mantissa)) << 31;
  const std::uint32_t exponent = (bits >> mantissa) & ((1U << exponent_bits) - 1);
  const std::uint32_t fraction = bits & ((1U << mantissa) - 1);
  const std::uint32_t top = (1U << exponent_bits) - 1;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  if (exponent == top && (has_infinity || fraction == (1U << mantissa) - 1)) {
    return std::bit_cast<float>(sign | 0x7f800000U | (has_infinity ? fraction << (23 - mantissa) : 0x400000U));
  }
  if (exponent == 0) {  // subnormal: fraction * 2^(1 - bias - mantissa), exact in binary32
    const float unit = std::bit_cast<float>(static_cast<std::uint32_t>(127 + 1 - bias - mantissa) << 23);
    const float value = static_cast<float>(fraction) * unit;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
  }
  return std::bit_cast<float>(sign | ((exponent + static_cast<std::uint32_t>(127 - bias)) << 23) |
                              (fraction << (23 - mantissa)));
}

// binary64 -> binary32 rounded to odd, so that a second rounding to fewer bits equals one rounding.
constexpr float to_odd(double x) {
  const auto y = static_cast<float>(x);
  const auto back = static_cast<double>(y);
  if (back == x || x != x) return y;
  auto u = std::bit_cast<std::uint32_t>(y);
  if (u & 1U) return y;
  if (y > 3.4e38F || y < -3.4e38F) return y;  // overflowed: stays infinite
  const bool away = (back > x) == (x > 0);    // rounded away from zero: step back to the odd neighbour
  u = away ? u - 1 : u + 1;
  return std::bit_cast<float>(u);
}

}  // namespace detail

struct Half {
  std::uint16_t bits = 0;
  constexpr Half() = default;
  constexpr explicit Half(float x)
      : bits(static_cast<std::uint16_t>(detail::narrow(x, 5, 10, 0x7bff, 0x7c00, 0x7e00))) {}
  constexpr explicit Half(double x) : Half(detail::to_odd(x)) {}
  constexpr explicit operator float() const { return detail::widen(bits, 5, 10, true); }
  constexpr explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};

struct BFloat16 {
  std::uint16_t bits = 0;
  constexpr BFloat16() = default;
  constexpr explicit BFloat16(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    const bool nan = (u & 0x7fffffffU) > 0x7f800000U;
    bits = static_cast<std::uint16_t>(nan ? (u >> 16) | 0x40U : (u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
  }
  constexpr explicit BFloat16(double x) : BFloat16(detail::to_odd(x)) {}
  constexpr explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
  constexpr explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};

struct Float8E4M3 {
  std::uint8_t bits = 0;
  constexpr Float8E4M3() = default;
  constexpr explicit Float8E4M3(float x)
      : bits(static_cast<std::uint8_t>(detail::narrow(x, 4, 3, 0x7e, 0x7f, 0x7f))) {}
  constexpr explicit Float8E4M3(double x) : Float8E4M3(detail::to_odd(x)) {}
  constexpr explicit operator float() const { return detail::widen(bits, 4, 3, false); }
  constexpr explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};

struct Float8E5M2 {
  std::uint8_t bits = 0;
  constexpr Float8E5M2() = default;
  constexpr explicit Float8E5M2(float x)
      : bits(static_cast<std::uint8_t>(detail::narrow(x, 5, 2, 0x7b, 0x7c, 0x7e))) {}
  constexpr explicit Float8E5M2(double x) : Float8E5M2(detail::to_odd(x)) {}
  constexpr explicit operator float() const { return detail::widen(bits, 5, 2, true); }
  constexpr explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};

// The nearest TF32 number, ties to even: f32's 8 exponent bits with 10 stored mantissa bits, the operands of f32 products
// on tensor cores. A rounding, not a storage format: TF32 numbers are f32 numbers whose low 13 bits are zero. Subnormals
// are kept, what rounds beyond the largest (2 - 2^-10) 2^127 is infinite; a NaN keeps sign and upper payload, made quiet.
constexpr float round_to_tf32(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const bool nan = (u & 0x7fffffffU) > 0x7f800000U;
  return std::bit_cast<float>((nan ? u | 0x400000U : u + 0xfffU + ((u >> 13) & 1U)) & ~0x1fffU);
}

template <class T>
inline constexpr bool is_narrow_float = std::is_same_v<T, Half> || std::is_same_v<T, BFloat16> ||
                                        std::is_same_v<T, Float8E4M3> || std::is_same_v<T, Float8E5M2>;

// Storage type -> the type its arithmetic is done in: float for the narrow formats, itself otherwise.
template <class T>
using Compute = std::conditional_t<is_narrow_float<T>, float, T>;

// C++ type -> DType. A type that is not an element type has no mapping and does not compile.
template <class T>
struct DTypeOf;
template <> struct DTypeOf<double> { static constexpr DType value = DType::f64; };
template <> struct DTypeOf<float> { static constexpr DType value = DType::f32; };
template <> struct DTypeOf<Half> { static constexpr DType value = DType::f16; };
template <> struct DTypeOf<BFloat16> { static constexpr DType value = DType::bf16; };
template <> struct DTypeOf<Float8E4M3> { static constexpr DType value = DType::f8e4m3; };
template <> struct DTypeOf<Float8E5M2> { static constexpr DType value = DType::f8e5m2; };
template <> struct DTypeOf<std::int64_t> { static constexpr DType value = DType::i64; };
template <> struct DTypeOf<long long> { static constexpr DType value = DType::i64; };
template <> struct DTypeOf<std::int32_t> { static constexpr DType value = DType::i32; };
template <> struct DTypeOf<std::uint8_t> { static constexpr DType value = DType::u8; };
template <> struct DTypeOf<bool> { static constexpr DType value = DType::boolean; };
template <class T>
inline constexpr DType dtype_of = DTypeOf<T>::value;

// with_type(dtype, [&]<class T>() { ... }) runs the body with the C++ type of `dtype`.
template <class F>
decltype(auto) with_type(DType dtype, F&& body) {
  switch (dtype) {
    case DType::f64: return body.template operator()<double>();
    case DType::f32: return body.template operator()<float>();
    case DType::f16: return body.template operator()<Half>();
    case DType::bf16: return body.template operator()<BFloat16>();
    case DType::f8e4m3: return body.template operator()<Float8E4M3>();
    case DType::f8e5m2: return body.template operator()<Float8E5M2>();
    case DType::i64: return body.template operator()<std::int64_t>();
    case DType::i32: return body.template operator()<std::int32_t>();
    case DType::u8: return body.template operator()<std::uint8_t>();
    case DType::boolean: return body.template operator()<bool>();
  }
  fail({"with_type: unknown dtype ", std::to_string(static_cast<int>(dtype))});
}

// The same for the four types arithmetic is defined for; other dtypes throw, naming `what`.
template <class F>
decltype(auto) with_float_type(DType dtype, std::string_view what, F&& body) {
  switch (dtype) {
    case DType::f64: return body.template operator()<double>();
    case DType::f32: return body.template operator()<float>();
    case DType::f16: return body.template operator()<Half>();
    case DType::bf16: return body.template operator()<BFloat16>();
    default: fail({std::string(what), ": expected f64, f32, f16 or bf16, got ", to_text(dtype)});
  }
}

// with_index_type: i64 or i32.
template <class F>
decltype(auto) with_index_type(DType dtype, std::string_view what, F&& body) {
  switch (dtype) {
    case DType::i64: return body.template operator()<std::int64_t>();
    case DType::i32: return body.template operator()<std::int32_t>();
    default: fail({std::string(what), ": expected indices as i64 or i32, got ", to_text(dtype)});
  }
}

// convert<To>(x): the value of `x` in another element type, rounded to nearest even; floats to integers truncate.
template <class To, class From>
constexpr To convert(From x) {
  if constexpr (std::is_same_v<To, From>) return x;
  else if constexpr (is_narrow_float<From>) return convert<To>(static_cast<float>(x));
  else if constexpr (std::is_same_v<To, bool>) return x != From(0);
  else if constexpr (is_narrow_float<To> && std::is_integral_v<From>) return To(static_cast<double>(x));
  else return static_cast<To>(x);
}

}  // namespace binade
