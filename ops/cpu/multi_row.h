// The optimizers' and the scaler's arithmetic on one run of elements: float by SIMD (multi_row.cpp), double plainly.
#pragma once
#include <cmath>
#include <cstdint>

namespace binade::cpu {

struct AdamFactors {           // hyperparameters, folded in double once per step
  double keep = 1, decay = 0;  // p *= keep; g += decay * p
  double one_minus_beta1 = 0, beta2 = 0, one_minus_beta2 = 0;
  double step = 0, inverse_root = 1, eps = 0;  // lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
  double grad_scale = 1;
};
struct SgdFactors {
  double lr = 0, decay = 0, momentum = 0, one_minus_dampening = 1, nesterov = 0, grad_scale = 1;
};

// y = factor g, which may be g itself; whether every element of g was finite.
bool row_unscale(const float* g, float factor, float* y, std::int64_t n);
bool row_finite(const float* x, std::int64_t n);
void row_clip(float* g, float limit, std::int64_t n);  // to [-limit, limit]; NaN stays
// g *= grad_scale, in registers;  m += (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g g;  p -= step m / (sqrt(v) inverse_root + eps)
void row_adam(float* p, const float* g, float* m, float* v, const AdamFactors& f, std::int64_t n);
// d = grad_scale g + decay p;  m = momentum m + (1 - dampening) d (d itself when `first`);  p -= lr (nesterov: d + momentum m)
void row_sgd(float* p, const float* g, float* m, const SgdFactors& f, bool first, bool nesterov, std::int64_t n);

inline bool row_unscale(const double* g, double factor, double* y, std::int64_t n) {
  bool finite = true;
  for (std::int64_t i = 0; i < n; ++i) {
    finite = finite && std::isfinite(g[i]);
    y[i] = g[i] * factor;
  }
  return finite;
}
inline bool row_finite(const double* x, std::int64_t n) {
  bool finite = true;
  for (std::int64_t i = 0; i < n; ++i) finite = finite && std::isfinite(x[i]);
  return finite;
}
inline void row_clip(double* g, double limit, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) g[i] = g[i] > limit ? limit : g[i] < -limit ? -limit : g[i];
}
inline void row_adam(double* p, const double* g, double* m, double* v, const AdamFactors& f, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const double grad = g[i] * f.grad_scale + f.decay * p[i];
    m[i] += f.one_minus_beta1 * (grad - m[i]);
    v[i] = f.beta2 * v[i] + f.one_minus_beta2 * grad * grad;
    p[i] = f.keep * p[i] - f.step * m[i] / (std::sqrt(v[i]) * f.inverse_root + f.eps);
  }
}
inline void row_sgd(double* p, const double* g, double* m, const SgdFactors& f, bool first, bool nesterov,
                    std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    double d = g[i] * f.grad_scale + f.decay * p[i];
    if (m) {
      m[i] = first ? d : f.momentum * m[i] + f.one_minus_dampening * d;
      d = nesterov ? d + f.nesterov * m[i] : m[i];
    }
    p[i] -= f.lr * d;
  }
}

}  // namespace binade::cpu
