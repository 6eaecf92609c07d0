// The judge of conversions: a format by its parameters, and rounding to it in double arithmetic.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "binade/core/base/scalar.h"

namespace binade::test {

struct Format {
  int mantissa, min_exponent;
  double max;
  bool infinity;
};
inline constexpr Format tf32_format{10, -126, 0x1.ffcp127, true};

template <class T>
Format format_of() {
  if constexpr (std::is_same_v<T, Half>)
    return {10, -14, 65504, true};
  else if constexpr (std::is_same_v<T, BFloat16>)
    return {7, -126, 0x1.fep127, true};
  else if constexpr (std::is_same_v<T, Float8E4M3>)
    return {3, -6, 448, false};
  else
    return {2, -14, 57344, true};
}

inline double round_to(const Format& format, double x) {
  constexpr double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  if (std::isnan(x) || x == 0) return x;
  if (std::isinf(x)) return format.infinity ? x : nan;
  int exponent = 0;
  std::frexp(x, &exponent);
  const int unit = std::max(exponent - 1, format.min_exponent) - format.mantissa;
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit);
  if (std::abs(rounded) > format.max) return format.infinity ? std::copysign(inf, x) : nan;
  return std::copysign(rounded, x);
}
// The saturating conversion: what is too large, infinities too, becomes the largest finite value.
inline double round_to_saturated(const Format& format, double x) {
  return std::isnan(x) ? x : round_to(format, std::fmin(std::fmax(x, -format.max), format.max));
}

inline bool same_value(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

}  // namespace binade::test
