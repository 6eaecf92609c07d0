// Stochastic rounding to the 16-bit formats: up with the probability of the part that is cut off, so that the mean over
// many roundings is the value itself (Gupta et al., "Deep Learning with Limited Numerical Precision", ICML 2015).
// 32 random bits decide; exact values, infinities and NaN stay; a finite value never becomes infinite.
#pragma once
#include "binade/core/base/scalar.h"

namespace binade {

constexpr BFloat16 round_stochastic(float x, std::uint32_t random, BFloat16) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  BFloat16 y;
  if ((bits & 0x7f800000U) == 0x7f800000U) return BFloat16(x);
  std::uint32_t rounded = ((bits & 0x7fffffffU) + (random >> 16)) >> 16;
  if (rounded > 0x7f7fU) rounded = 0x7f7fU;
  y.bits = static_cast<std::uint16_t>(bits >> 31 << 15 | rounded);
  return y;
}

constexpr Half round_stochastic(float x, std::uint32_t random, Half) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  Half y;
  if (magnitude >= 0x7f800000U) return Half(x);
  const int exponent = static_cast<int>(magnitude >> 23) - 112;  // biased as half's
  std::uint32_t rounded = 0;
  if (exponent >= 1) {
    rounded = ((magnitude - (112U << 23)) + (random >> 19)) >> 13;
  } else {  // to a multiple of 2^-24: the significand, shifted by up to 13 + 112 places
    const std::uint32_t significand = magnitude >> 23 == 0 ? magnitude : (magnitude & 0x7fffffU) | 0x800000U;
    const int drop = magnitude >> 23 == 0 ? 125 : 14 - exponent;
    if (drop < 32)
      rounded = static_cast<std::uint32_t>((std::uint64_t{significand} + (random >> (32 - drop))) >> drop);
    else if (drop < 56)
      rounded = random < significand >> (drop - 32) ? 1 : 0;
  }
  if (rounded > 0x7bffU) rounded = 0x7bffU;
  y.bits = static_cast<std::uint16_t>(bits >> 31 << 15 | rounded);
  return y;
}

}  // namespace binade
