// Stochastic rounding: between the two neighbours, without bias, exact values unmoved; and against plain arithmetic in
// double.
#include "binade/core/base/stochastic.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "binade/core/base/random.h"

namespace {

using namespace binade;

// The value of `mantissa` stored bits and smallest normal exponent `lowest` below |x|, and the step to the next.
struct Grid {
  int mantissa, lowest;
  double largest;
};
constexpr Grid bf16_grid{7, -126, 0x1.fep127}, f16_grid{10, -14, 65504};

// Rounds up where random / 2^32 is below the part of a step that is cut off, in double.
double reference(double x, std::uint32_t random, Grid grid) {
  if (!std::isfinite(x) || x == 0) return x;
  const double magnitude = std::abs(x);
  const double step = std::ldexp(1.0, std::max(std::ilogb(magnitude), grid.lowest) - grid.mantissa);
  const double down = std::floor(magnitude / step) * step, part = (magnitude - down) / step;
  // The kernels decide with as many of the upper random bits as are cut off.
  const int cut = std::max(0, 23 - grid.mantissa + (std::ilogb(magnitude) < grid.lowest ? grid.lowest - std::max(std::ilogb(magnitude), -126) : 0));
  const double threshold = std::ldexp(static_cast<double>(cut < 32 ? random >> (32 - cut) : random), cut < 32 ? -cut : -32);
  const double up = part > 0 && part + threshold >= 1 ? down + step : down;
  const double tiny_up = cut >= 32 ? (static_cast<double>(random) < std::floor(std::ldexp(part, 32)) ? step : 0.0) : up;
  return std::copysign(std::min(tiny_up, grid.largest), x);
}

template <class T>
void compare(float x, std::uint32_t random, Grid grid) {
  const double got = static_cast<double>(static_cast<float>(round_stochastic(x, random, T())));
  ASSERT_EQ(got, reference(static_cast<double>(x), random, grid)) << std::hexfloat << x << " random " << random;
}

TEST(StochasticRounding, AgreesWithDoubleArithmetic) {
  std::mt19937 random(7);
  for (int i = 0; i < 60000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random());
    const float x = std::bit_cast<float>(bits);
    if (!std::isfinite(x)) continue;
    const std::uint32_t words[] = {static_cast<std::uint32_t>(random()), 0U, ~0U};
    for (const std::uint32_t word : words) {
      compare<BFloat16>(x, word, bf16_grid);
      compare<Half>(x, word, f16_grid);
    }
  }
  // Half's range, its edges and subnormals more often than all floats meet them.
  for (int i = 0; i < 60000; ++i) {
    const float x = std::ldexp(1 + std::ldexp(static_cast<float>(random() >> 9), -23), static_cast<int>(random() % 46) - 28);
    compare<Half>(x, static_cast<std::uint32_t>(random()), f16_grid);
    compare<Half>(-x, static_cast<std::uint32_t>(random()), f16_grid);
  }
}

TEST(StochasticRounding, ExactValuesDoNotMove) {
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    for (const std::uint32_t word : {0U, 0x7fffffffU, ~0U}) {
      BFloat16 b;
      b.bits = static_cast<std::uint16_t>(bits);
      Half h;
      h.bits = static_cast<std::uint16_t>(bits);
      const bool numbers = !std::isnan(static_cast<float>(b)) && !std::isnan(static_cast<float>(h));
      if (!numbers) continue;
      ASSERT_EQ(round_stochastic(static_cast<float>(b), word, BFloat16()).bits, b.bits);
      ASSERT_EQ(round_stochastic(static_cast<float>(h), word, Half()).bits, h.bits);
    }
  }
}

TEST(StochasticRounding, EdgesStayFiniteAndSpecialValuesStay) {
  for (const float x : {3.4e38F, -3.4e38F}) EXPECT_TRUE(std::isfinite(static_cast<float>(round_stochastic(x, ~0U, BFloat16()))));
  for (const float x : {65519.0F, 65535.0F, 1e30F, -1e30F})
    EXPECT_EQ(std::abs(static_cast<float>(round_stochastic(x, ~0U, Half()))), 65504);
  EXPECT_TRUE(std::isinf(static_cast<float>(round_stochastic(HUGE_VALF, 1U, BFloat16()))));
  EXPECT_TRUE(std::isnan(static_cast<float>(round_stochastic(std::nanf(""), ~0U, Half()))));
  EXPECT_TRUE(std::signbit(static_cast<float>(round_stochastic(-0.0F, ~0U, Half()))));
}

// The mean of n roundings of x lies within 5 standard deviations, step sqrt(p (1 - p) / n), of x.
template <class T>
void unbiased(float x, double step) {
  constexpr int n = 1 << 16;
  const PhiloxState draw{99, static_cast<std::uint64_t>(std::bit_cast<std::uint32_t>(x))};
  double sum = 0;
  for (std::uint64_t i = 0; i < n; ++i)
    sum += static_cast<double>(static_cast<float>(round_stochastic(x, philox_word(draw, i), T())));
  const double down = std::floor(static_cast<double>(x) / step) * step, p = (static_cast<double>(x) - down) / step;
  EXPECT_NEAR(sum / n, static_cast<double>(x), 5 * step * std::sqrt(p * (1 - p) / n)) << x;
}
TEST(StochasticRounding, MeanIsTheValue) {
  for (const float part : {0.01F, 0.3F, 0.5F, 0.9F}) {
    unbiased<BFloat16>(1 + part / 128, 0x1p-7);
    unbiased<BFloat16>(-1 - part / 128, 0x1p-7);
    unbiased<BFloat16>((3 + part) * 0x1p-133F, 0x1p-133);
    unbiased<Half>(1 + part / 1024, 0x1p-10);
    unbiased<Half>((5 + part) * 0x1p-24F, 0x1p-24);
    unbiased<Half>(part * 0x1p-24F, 0x1p-24);
  }
}

}  // namespace
