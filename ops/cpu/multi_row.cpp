// The optimizers' arithmetic on floats, compiled once per SIMD target; the best for this CPU is chosen at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "binade/ops/cpu/multi_row.cpp"
#include "hwy/foreach_target.h"
// foreach_target first
#include <algorithm>

#include "binade/ops/cpu/multi_row.h"
#include "binade/ops/cpu/simd.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace binade::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

constexpr std::size_t max_lanes = HWY_MAX_BYTES / sizeof(float);
HWY_INLINE V set(double c) { return hn::Set(D(), static_cast<float>(c)); }

// 0 * x is NaN for an infinity or NaN, and a NaN stays in a sum.
[[gnu::flatten]] bool Unscale(const float* g, float factor, float* y, std::int64_t count) {
  const D d;
  const std::size_t n = static_cast<std::size_t>(count);
  const V f = hn::Set(d, factor), zero = hn::Zero(d);
  V bad = zero;
  std::size_t i = simd::HWY_NAMESPACE::for_four_runs(n, hn::Lanes(d), [&](std::size_t j, std::size_t) HWY_ATTR {
    const V x = hn::LoadU(d, g + j);
    bad = hn::MulAdd(x, zero, bad);
    hn::StoreU(hn::Mul(x, f), d, y + j);
  });
  bool finite = hn::AllFalse(d, hn::IsNaN(bad));
  for (; i < n; ++i) {
    finite = finite && std::isfinite(g[i]);
    y[i] = g[i] * factor;
  }
  return finite;
}
[[gnu::flatten]] bool Finite(const float* x, std::int64_t count) {
  const D d;
  const std::size_t n = static_cast<std::size_t>(count);
  const V zero = hn::Zero(d);
  V bad[2] = {zero, zero};
  std::size_t i = simd::HWY_NAMESPACE::for_four_runs(n, hn::Lanes(d), [&](std::size_t j, std::size_t k) HWY_ATTR {
    bad[k % 2] = hn::MulAdd(hn::LoadU(d, x + j), zero, bad[k % 2]);
  });
  bool finite = hn::AllFalse(d, hn::IsNaN(hn::Add(bad[0], bad[1])));
  for (; i < n; ++i) finite = finite && std::isfinite(x[i]);
  return finite;
}

void Clip(float* g, float limit, std::int64_t count) {
  const D d;
  const std::size_t n = static_cast<std::size_t>(count), step = hn::Lanes(d);
  const V high = hn::Set(d, limit), low = hn::Set(d, -limit);
  std::size_t i = 0;
  for (; i + step <= n; i += step) {
    const V x = hn::LoadU(d, g + i);
    hn::StoreU(hn::IfThenElse(hn::Gt(x, high), high, hn::IfThenElse(hn::Lt(x, low), low, x)), d, g + i);
  }
  for (; i < n; ++i) g[i] = g[i] > limit ? limit : g[i] < -limit ? -limit : g[i];
}

struct AdamVectors {
  V keep, decay, b1, beta2, b2, step, root, eps, grad_scale;
};
HWY_INLINE void adam_vector(float* p, const float* g, float* m, float* v, const AdamVectors& f) {
  const D d;
  const V param = hn::LoadU(d, p), grad = hn::MulAdd(f.decay, param, hn::Mul(hn::LoadU(d, g), f.grad_scale));
  const V old_m = hn::LoadU(d, m);
  const V new_m = hn::MulAdd(f.b1, hn::Sub(grad, old_m), old_m);
  const V new_v = hn::MulAdd(f.beta2, hn::LoadU(d, v), hn::Mul(f.b2, hn::Mul(grad, grad)));
  hn::StoreU(new_m, d, m);
  hn::StoreU(new_v, d, v);
  const V denominator = hn::MulAdd(hn::Sqrt(new_v), f.root, f.eps);
  hn::StoreU(hn::NegMulAdd(f.step, hn::Div(new_m, denominator), hn::Mul(f.keep, param)), d, p);
}
void Adam(float* p, const float* g, float* m, float* v, const AdamFactors& c, std::int64_t count) {
  const std::size_t n = static_cast<std::size_t>(count), step = hn::Lanes(D());
  const AdamVectors f = {
      set(c.keep),         set(c.decay), set(c.one_minus_beta1), set(c.beta2), set(c.one_minus_beta2), set(c.step),
      set(c.inverse_root), set(c.eps),   set(c.grad_scale)};
  std::size_t i = 0;
  for (; i + step <= n; i += step) adam_vector(p + i, g + i, m + i, v + i, f);
  if (const std::size_t left = n - i; left != 0) {  // by the same instructions: a parameter's place does not matter
    float room[4][max_lanes] = {};
    std::copy_n(p + i, left, room[0]);
    std::copy_n(g + i, left, room[1]);
    std::copy_n(m + i, left, room[2]);
    std::copy_n(v + i, left, room[3]);
    adam_vector(room[0], room[1], room[2], room[3], f);
    std::copy_n(room[0], left, p + i);
    std::copy_n(room[2], left, m + i);
    std::copy_n(room[3], left, v + i);
  }
}

struct SgdVectors {
  V lr, decay, momentum, damp, nesterov, grad_scale;
};
HWY_INLINE void sgd_vector(float* p, const float* g, float* m, const SgdVectors& f, bool first, bool nesterov) {
  const D d;
  const V param = hn::LoadU(d, p);
  V delta = hn::MulAdd(f.decay, param, hn::Mul(hn::LoadU(d, g), f.grad_scale));
  if (m) {
    const V buffer = first ? delta : hn::MulAdd(f.momentum, hn::LoadU(d, m), hn::Mul(f.damp, delta));
    hn::StoreU(buffer, d, m);
    delta = nesterov ? hn::MulAdd(f.nesterov, buffer, delta) : buffer;
  }
  hn::StoreU(hn::NegMulAdd(f.lr, delta, param), d, p);
}
void Sgd(float* p, const float* g, float* m, const SgdFactors& c, bool first, bool nesterov, std::int64_t count) {
  const std::size_t n = static_cast<std::size_t>(count), step = hn::Lanes(D());
  const SgdVectors f = {set(c.lr),      set(c.decay),     set(c.momentum), set(c.one_minus_dampening),
                        set(c.nesterov), set(c.grad_scale)};
  std::size_t i = 0;
  for (; i + step <= n; i += step) sgd_vector(p + i, g + i, m ? m + i : nullptr, f, first, nesterov);
  if (const std::size_t left = n - i; left != 0) {
    float room[3][max_lanes] = {};
    std::copy_n(p + i, left, room[0]);
    std::copy_n(g + i, left, room[1]);
    if (m) std::copy_n(m + i, left, room[2]);
    sgd_vector(room[0], room[1], m ? room[2] : nullptr, f, first, nesterov);
    std::copy_n(room[0], left, p + i);
    if (m) std::copy_n(room[2], left, m + i);
  }
}

}  // namespace binade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace binade::cpu {
HWY_EXPORT(Unscale);
HWY_EXPORT(Finite);
HWY_EXPORT(Clip);
HWY_EXPORT(Adam);
HWY_EXPORT(Sgd);

bool row_unscale(const float* g, float factor, float* y, std::int64_t n) {
  return HWY_DYNAMIC_DISPATCH(Unscale)(g, factor, y, n);
}
bool row_finite(const float* x, std::int64_t n) { return HWY_DYNAMIC_DISPATCH(Finite)(x, n); }
void row_clip(float* g, float limit, std::int64_t n) { HWY_DYNAMIC_DISPATCH(Clip)(g, limit, n); }
void row_adam(float* p, const float* g, float* m, float* v, const AdamFactors& f, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(Adam)(p, g, m, v, f, n);
}
void row_sgd(float* p, const float* g, float* m, const SgdFactors& f, bool first, bool nesterov, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(Sgd)(p, g, m, f, first, nesterov, n);
}
}  // namespace binade::cpu
#endif
