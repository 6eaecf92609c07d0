// Runs of f32 values to and from FP8 codes.
#pragma once
#include <cstdint>

#include "binade/core/base/scalar.h"

namespace binade::cpu {

// y = x * scale rounded to nearest even, saturated, NaN kept. Returns the largest of `amax` and the bits of all |x|;
// bits compare as the numbers do, and NaN is above all.
std::uint32_t quantize_run(const float* x, Float8E4M3* y, std::int64_t count, float scale, std::uint32_t amax);
std::uint32_t quantize_run(const float* x, Float8E5M2* y, std::int64_t count, float scale, std::uint32_t amax);
std::uint32_t absmax_run(const float* x, std::int64_t count, std::uint32_t amax);

// y = x * scale, exact unless it leaves T's range. T: double, float, BFloat16.
template <class F8, class T>
void dequantize_run(const F8* x, T* y, std::int64_t count, float scale);

}  // namespace binade::cpu
