// Arithmetic on one contiguous row of float (SIMD, in row_math.cpp) or double (plain loops, here). Kernels widen
// 16-bit rows into a float row, work there, and round once on the way back. Sums run over the row in a fixed order.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "binade/core/base/scalar.h"
#include "binade/core/tensor/view.h"
#include "binade/ops/cpu/convert.h"

namespace binade::cpu {

// The row in its arithmetic type: itself, or widened into `room`.
inline const float* row_in(const float* x, std::int64_t, float*) { return x; }
inline const double* row_in(const double* x, std::int64_t, double*) { return x; }
template <class T>
const float* row_in(const T* x, std::int64_t n, float* room) {
  widen(x, room, n);
  return room;
}
// Where to compute a row of results: in place, or in `room`, from where row_out rounds it to its type.
inline float* row_for(float* y, float*) { return y; }
inline double* row_for(double* y, double*) { return y; }
template <class T>
float* row_for(T*, float* room) {
  return room;
}
inline void row_out(const float*, float*, std::int64_t) {}
inline void row_out(const double*, double*, std::int64_t) {}
template <class T>
void row_out(const float* row, T* y, std::int64_t n) {
  narrow(row, y, n);
}

// A view of one dim (any stride) or of any contiguous shape, as arithmetic values; empty for an absent view.
template <class C>
std::vector<C> values_of(const TensorView& x) {
  if (!x) return {};
  const std::int64_t n = x.numel(), stride = x.dim() == 1 ? x.stride(0) : 1;
  std::vector<C> values(static_cast<std::size_t>(n));
  with_float_type(x.dtype, "kernel", [&]<class T>() {
    for (std::int64_t i = 0; i < n; ++i) {
      values[static_cast<std::size_t>(i)] = static_cast<C>(static_cast<Compute<T>>(x.as<T>()[i * stride]));
    }
  });
  return values;
}
// Writes values, or adds them to what the contiguous `out` holds; nothing for an absent view.
template <class C>
void store_values(const C* values, const TensorView& out, bool accumulate) {
  if (!out) return;
  with_float_type(out.dtype, "kernel", [&]<class T>() {
    using A = Compute<T>;
    T* y = out.as<T>();
    for (std::int64_t i = 0, n = out.numel(); i < n; ++i) {
      const A value = static_cast<A>(values[i]);
      y[i] = static_cast<T>(accumulate ? static_cast<A>(y[i]) + value : value);
    }
  });
}

template <class C>
struct ExpSumsOf {
  C largest, sum;  // of the row; sum of exp(x - largest): 0 for a row of -inf alone, NaN where there is one
};
using ExpSums = ExpSumsOf<float>;

// ---- float: SIMD ----
float row_max(const float* x, std::int64_t n);  // -inf for an empty row; NaN if there is one
float row_sum(const float* x, std::int64_t n);
float row_dot(const float* x, const float* y, std::int64_t n);
float row_squares(const float* x, float mean, std::int64_t n);                             // sum (x - mean)^2
double row_squares_double(const float* x, float factor, std::int64_t n);  // sum (factor x)^2, products rounded, squares not
float row_exp(const float* x, float shift, float* y, std::int64_t n);                      // y = exp(x - shift); sum y
ExpSums row_max_exp_sum(const float* x, std::int64_t n);
void row_add(const float* a, const float* b, float* y, std::int64_t n);                    // y = a + b
void row_scale(const float* x, float a, float b, float* y, std::int64_t n);                // y = a x + b
void row_shift(const float* x, float a, float b, float* y, std::int64_t n);                // y = (x - a) - b
void row_affine(const float* x, float shift, float a, float b, float* y, std::int64_t n);  // y = (x - shift) a + b
void row_softmax_grad(const float* y, const float* dy, float dot, float* dx, std::int64_t n);      // y (dy - dot)
void row_log_softmax_grad(const float* y, const float* dy, float sum, float* dx, std::int64_t n);  // dy - exp(y) sum
void row_exp_scale(const float* x, float shift, float a, float b, float* y, std::int64_t n);  // a exp(x - shift) + b
// y = (x - mean) rstd weight + bias; weight and bias may be null
void row_normalize(const float* x, float mean, float rstd, const float* weight, const float* bias, float* y,
                   std::int64_t n);
struct NormSums {
  double g = 0, g_xhat = 0;
};
// With xhat = (x - mean) rstd and g = dy weight: the sums of g and g xhat, and dweight += dy xhat, dbias += dy; weight,
// dweight and dbias may be null.
NormSums row_norm_sums(const float* x, const float* dy, float mean, float rstd, const float* weight, float* dweight,
                       float* dbias, std::int64_t n);
// dx = scale (g - c1 - xhat c2), added to what dx holds if asked
void row_norm_grad(const float* x, const float* dy, float mean, float rstd, const float* weight, float c1, float c2,
                   float scale, bool add, float* dx, std::int64_t n);

// ---- double: the same, plainly ----
inline double row_max(const double* x, std::int64_t n) {
  double m = -HUGE_VAL;
  for (std::int64_t i = 0; i < n; ++i) m = (x[i] > m || std::isnan(x[i])) ? x[i] : m;
  return m;
}
inline double row_sum(const double* x, std::int64_t n) {
  double s = 0;
  for (std::int64_t i = 0; i < n; ++i) s += x[i];
  return s;
}
inline double row_dot(const double* x, const double* y, std::int64_t n) {
  double s = 0;
  for (std::int64_t i = 0; i < n; ++i) s += x[i] * y[i];
  return s;
}
inline double row_squares(const double* x, double mean, std::int64_t n) {
  double s = 0;
  for (std::int64_t i = 0; i < n; ++i) s += (x[i] - mean) * (x[i] - mean);
  return s;
}
inline double row_squares_double(const double* x, double factor, std::int64_t n) {
  double s = 0;
  for (std::int64_t i = 0; i < n; ++i) s += (factor * x[i]) * (factor * x[i]);
  return s;
}
inline double row_exp(const double* x, double shift, double* y, std::int64_t n) {
  double s = 0;
  for (std::int64_t i = 0; i < n; ++i) s += y[i] = std::exp(x[i] - shift);
  return s;
}
inline ExpSumsOf<double> row_max_exp_sum(const double* x, std::int64_t n) {
  const double largest = row_max(x, n);
  double s = 0;
  for (std::int64_t i = 0; i < n; ++i) s += std::exp(x[i] - largest);
  return {largest, largest == -HUGE_VAL ? 0 : s};
}
inline void row_add(const double* a, const double* b, double* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
}
inline void row_scale(const double* x, double a, double b, double* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = a * x[i] + b;
}
inline void row_shift(const double* x, double a, double b, double* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = (x[i] - a) - b;
}
inline void row_affine(const double* x, double shift, double a, double b, double* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = (x[i] - shift) * a + b;
}
inline void row_softmax_grad(const double* y, const double* dy, double dot, double* dx, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) dx[i] = y[i] * (dy[i] - dot);
}
inline void row_log_softmax_grad(const double* y, const double* dy, double sum, double* dx, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) dx[i] = dy[i] - std::exp(y[i]) * sum;
}
inline void row_exp_scale(const double* x, double shift, double a, double b, double* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = a * std::exp(x[i] - shift) + b;
}
inline void row_normalize(const double* x, double mean, double rstd, const double* weight, const double* bias,
                          double* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const double xhat = (x[i] - mean) * rstd;
    y[i] = (weight ? xhat * weight[i] : xhat) + (bias ? bias[i] : 0);
  }
}
inline NormSums row_norm_sums(const double* x, const double* dy, double mean, double rstd, const double* weight,
                              double* dweight, double* dbias, std::int64_t n) {
  NormSums sums;
  for (std::int64_t i = 0; i < n; ++i) {
    const double g = weight ? dy[i] * weight[i] : dy[i];
    sums.g += g;
    sums.g_xhat += g * (x[i] - mean) * rstd;
    if (dweight) dweight[i] += dy[i] * (x[i] - mean) * rstd;
    if (dbias) dbias[i] += dy[i];
  }
  return sums;
}
inline void row_norm_grad(const double* x, const double* dy, double mean, double rstd, const double* weight, double c1,
                          double c2, double scale, bool add, double* dx, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const double g = weight ? dy[i] * weight[i] : dy[i];
    dx[i] = (add ? dx[i] : 0) + scale * (g - c1 - (x[i] - mean) * rstd * c2);
  }
}

}  // namespace binade::cpu
