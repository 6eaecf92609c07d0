// Runs of elements between memory of any dtype and buffers of the type arithmetic is done in.
#pragma once
#include <cstdint>

#include "binade/core/base/scalar.h"

namespace binade::cpu {

// Contiguous, vectorised, rounding to nearest even.
void widen(const BFloat16* x, float* y, std::int64_t count);
void widen(const Half* x, float* y, std::int64_t count);
void widen(const Float8E4M3* x, float* y, std::int64_t count);
void widen(const Float8E5M2* x, float* y, std::int64_t count);
void narrow(const float* x, BFloat16* y, std::int64_t count);
void narrow(const float* x, Half* y, std::int64_t count);
void round_to_tf32(const float* x, float* y, std::int64_t count);  // y may be x

// y[i] = p[i * stride] in type C: float, double or std::int64_t.
template <class C>
void read_run(const std::byte* p, DType dtype, std::int64_t stride, std::int64_t count, C* y);
// p[i * stride] = x[i], rounded to `dtype`.
template <class C>
void write_run(const C* x, std::byte* p, DType dtype, std::int64_t stride, std::int64_t count);

}  // namespace binade::cpu
