// The elementwise steps of attention on one row of scores, for every instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "binade/ops/cpu/attention_rows.cpp"
#include <hwy/foreach_target.h>

#include "binade/ops/cpu/attention_rows.h"
#include "binade/ops/cpu/simd.h"

HWY_BEFORE_NAMESPACE();
namespace binade::cpu::HWY_NAMESPACE {
namespace {
using namespace simd::HWY_NAMESPACE;

void exp_row(float* x, std::int64_t count, float scale, float* max_out, float* sum_out) {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  const auto n = static_cast<std::size_t>(count);
  const std::size_t step = lanes(), whole = n / step * step;
  const Float factor(scale);
  Float top(lowest);
  for (std::size_t i = 0; i < whole; i += step) top = max(top, load(x + i) * factor);
  float highest = lowest;
  for (std::size_t i = whole; i < n; ++i) {
    const float value = x[i] * scale;
    highest = value > highest || value != value ? value : highest;
  }
  HWY_ALIGN float lane[max_lanes];
  store(top, lane);
  for (std::size_t i = 0; i < step; ++i) highest = lane[i] > highest || lane[i] != lane[i] ? lane[i] : highest;
  *max_out = highest;
  if (highest == lowest) {
    for (std::size_t i = 0; i < n; ++i) x[i] = 0;
    *sum_out = 0;
    return;
  }
  const Float shift(highest);
  Float total;
  for (std::size_t i = 0; i < whole; i += step) {
    const Float y = exp(load(x + i) * factor - shift);
    total += y;
    store(y, x + i);
  }
  float rest = 0;
  if (whole < n) {
    const Float y = exp(load_n(x + whole, n - whole) * factor - shift);
    store_n(y, x + whole, n - whole);
    for (std::size_t i = whole; i < n; ++i) rest += x[i];
  }
  *sum_out = sum(total) + rest;
}

void probability_row(float* x, std::int64_t count, float scale, float lse) {
  const auto n = static_cast<std::size_t>(count);
  const std::size_t step = lanes(), whole = n / step * step;
  const Float factor(scale), shift(lse);
  for (std::size_t i = 0; i < whole; i += step) store(exp(load(x + i) * factor - shift), x + i);
  if (whole < n) store_n(exp(load_n(x + whole, n - whole) * factor - shift), x + whole, n - whole);
}

void score_gradient_row(const float* p, float* dp, std::int64_t count, float delta, float scale) {
  const auto n = static_cast<std::size_t>(count);
  const std::size_t step = lanes(), whole = n / step * step;
  const Float factor(scale), shift(delta);
  for (std::size_t i = 0; i < whole; i += step) store(load(p + i) * (load(dp + i) - shift) * factor, dp + i);
  for (std::size_t i = whole; i < n; ++i) dp[i] = p[i] * (dp[i] - delta) * scale;
}

void scale_row(float* x, std::int64_t count, float by) {
  const auto n = static_cast<std::size_t>(count);
  const std::size_t step = lanes(), whole = n / step * step;
  const Float factor(by);
  for (std::size_t i = 0; i < whole; i += step) store(load(x + i) * factor, x + i);
  for (std::size_t i = whole; i < n; ++i) x[i] *= by;
}

float dot_row(const float* a, const float* b, std::int64_t count) {
  const auto n = static_cast<std::size_t>(count);
  const std::size_t step = lanes(), whole = n / step * step;
  Float total;
  for (std::size_t i = 0; i < whole; i += step) total = mul_add(load(a + i), load(b + i), total);
  float rest = 0;
  for (std::size_t i = whole; i < n; ++i) rest += a[i] * b[i];
  return sum(total) + rest;
}

}  // namespace
}  // namespace binade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <cmath>

namespace binade::cpu {

namespace {
HWY_EXPORT(exp_row);
HWY_EXPORT(probability_row);
HWY_EXPORT(score_gradient_row);
HWY_EXPORT(scale_row);
HWY_EXPORT(dot_row);
}  // namespace

RowSoftmax<float> exp_row(float* x, std::int64_t n, float scale) {
  RowSoftmax<float> result{};
  HWY_DYNAMIC_DISPATCH(exp_row)(x, n, scale, &result.max, &result.sum);
  return result;
}
void probability_row(float* x, std::int64_t n, float scale, float lse) {
  if (lse == -INFINITY) {
    std::fill_n(x, n, 0.0F);
    return;
  }
  HWY_DYNAMIC_DISPATCH(probability_row)(x, n, scale, lse);
}
void score_gradient_row(const float* p, float* dp, std::int64_t n, float delta, float scale) {
  HWY_DYNAMIC_DISPATCH(score_gradient_row)(p, dp, n, delta, scale);
}
void scale_row(float* x, std::int64_t n, float factor) { HWY_DYNAMIC_DISPATCH(scale_row)(x, n, factor); }
float dot_row(const float* a, const float* b, std::int64_t n) { return HWY_DYNAMIC_DISPATCH(dot_row)(a, b, n); }

RowSoftmax<double> exp_row(double* x, std::int64_t n, double scale) {
  double top = -INFINITY, sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    x[i] *= scale;
    if (x[i] > top || std::isnan(x[i])) top = x[i];
  }
  for (std::int64_t i = 0; i < n; ++i) sum += x[i] = top == -INFINITY ? 0 : std::exp(x[i] - top);
  return {top, sum};
}
void probability_row(double* x, std::int64_t n, double scale, double lse) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = lse == -INFINITY ? 0 : std::exp(scale * x[i] - lse);
}
void score_gradient_row(const double* p, double* dp, std::int64_t n, double delta, double scale) {
  for (std::int64_t i = 0; i < n; ++i) dp[i] = p[i] * (dp[i] - delta) * scale;
}
void scale_row(double* x, std::int64_t n, double factor) {
  for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}
double dot_row(const double* a, const double* b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace binade::cpu
#endif
