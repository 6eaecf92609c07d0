// Arithmetic on one row of floats, compiled once per SIMD target; the best for this CPU is chosen at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "binade/ops/cpu/row_math.cpp"
#include "hwy/foreach_target.h"
// foreach_target first
#include "binade/ops/cpu/row_math.h"
#include "binade/ops/cpu/simd.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

// Everything a kernel calls becomes part of it: g++ -O2 alone would call the loop's body once per vector.

HWY_BEFORE_NAMESPACE();
namespace binade::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

HWY_INLINE V exp_of(V x) { return simd::HWY_NAMESPACE::exp_down(x).v; }  // x at most about 0
HWY_INLINE std::size_t lanes() { return hn::Lanes(D()); }
// The first `left` elements, the other lanes `fill`; through memory because masked loads of a row's end may fault.
HWY_INLINE V load_end(const float* x, std::size_t left, float fill) {
  const D d;
  HWY_ALIGN float room[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(hn::Set(d, fill), d, room);
  for (std::size_t i = 0; i < left; ++i) room[i] = x[i];
  return hn::Load(d, room);
}
HWY_INLINE void store_end(V v, float* y, std::size_t left) {
  const D d;
  HWY_ALIGN float room[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(v, d, room);
  for (std::size_t i = 0; i < left; ++i) y[i] = room[i];
}
constexpr std::int64_t block = 2048;  // of a long row: what stays in the first cache while the next comes
HWY_INLINE float total(V v) { return hn::GetLane(hn::SumOfLanes(D(), v)); }

// Asks for the cache lines of `length` elements from ahead[i]: of what is read or written next, which after a row is mostly
// the next one. So memory works while a row that is already in cache is computed with; otherwise one waits for the other.
template <class... Ahead>
HWY_INLINE void ask_for(std::size_t i, std::size_t length, const Ahead*... ahead) {
  constexpr std::size_t line = 64 / sizeof(float);
  for (std::size_t j = i; j < i + length; j += line) (hwy::Prefetch(ahead + j), ...);
}

// body(load, store) for every vector of a row; `load(x, fill)` reads the vector at i, `store(v, y)` writes it.
template <class Body, class... Ahead>
HWY_INLINE void for_row(std::int64_t count, const Body& body, const Ahead*... ahead) {
  constexpr std::size_t unroll = 4;
  const D d;
  const std::size_t n = static_cast<std::size_t>(count), step = lanes();
  std::size_t i = 0;
  const auto at = [&](std::size_t j) HWY_ATTR {
    body([&d, j](const float* x, float) HWY_ATTR { return hn::LoadU(d, x + j); },
         [&d, j](V v, float* y) HWY_ATTR { hn::StoreU(v, d, y + j); });
  };
  for (; i + unroll * step <= n; i += unroll * step) {
    ask_for(i, unroll * step, ahead...);
    for (std::size_t k = 0; k < unroll; ++k) at(i + k * step);
  }
  for (; i + step <= n; i += step) at(i);
  if (const std::size_t left = n - i; left != 0) {
    body([&](const float* x, float fill) HWY_ATTR { return load_end(x + i, left, fill); },
         [&](V v, float* y) HWY_ATTR { store_end(v, y + i, left); });
  }
}

// body(load, store, sums[k]) for every vector of a row, four sets of partial sums in turns: rounding grows slowly and adds
// do not wait for each other.
template <class Sums, class Body, class... Ahead>
HWY_INLINE void for_row_with_sums(std::int64_t count, Sums (&sums)[4], const Body& body, const Ahead*... ahead) {
  const D d;
  const std::size_t n = static_cast<std::size_t>(count), step = lanes();
  std::size_t i = 0;
  const auto at = [&](std::size_t j, Sums& to) HWY_ATTR {
    body([&d, j](const float* x, float) HWY_ATTR { return hn::LoadU(d, x + j); },
         [&d, j](V v, float* y) HWY_ATTR { hn::StoreU(v, d, y + j); }, to);
  };
  for (; i + 4 * step <= n; i += 4 * step) {
    ask_for(i, 4 * step, ahead...);
    at(i, sums[0]);
    at(i + step, sums[1]);
    at(i + 2 * step, sums[2]);
    at(i + 3 * step, sums[3]);
  }
  for (; i + step <= n; i += step) at(i, sums[0]);
  if (const std::size_t left = n - i; left != 0) {
    body([&](const float* x, float fill) HWY_ATTR { return load_end(x + i, left, fill); },
         [&](V v, float* y) HWY_ATTR { store_end(v, y + i, left); }, sums[1]);
  }
}

// Sum over a row of term(i-th vectors).
template <class Term, class... Ahead>
HWY_INLINE float sum_row(std::int64_t count, const Term& term, const Ahead*... ahead) {
  struct Sum {
    V v;
  };
  const V zero = hn::Zero(D());
  Sum s[4] = {{zero}, {zero}, {zero}, {zero}};
  for_row_with_sums(count, s, [&](const auto& load, const auto&, Sum& sum) HWY_ATTR { sum.v = hn::Add(sum.v, term(load)); }, ahead...);
  return total(hn::Add(hn::Add(s[0].v, s[1].v), hn::Add(s[2].v, s[3].v)));
}

[[gnu::flatten]] float Max(const float* x, std::int64_t n) {
  const D d;
  V m = hn::Set(d, -HUGE_VALF);
  auto nan = hn::MaskFromVec(hn::Zero(d));
  for_row(n, [&](const auto& load, const auto&) HWY_ATTR {
    const V v = load(x, -HUGE_VALF);
    m = hn::Max(m, v);
    nan = hn::Or(nan, hn::IsNaN(v));
  });
  if (!hn::AllFalse(d, nan)) return NAN;
  return hn::GetLane(hn::MaxOfLanes(d, m));
}
[[gnu::flatten]] float Sum(const float* x, std::int64_t n) {
  return sum_row(n, [&](const auto& load) HWY_ATTR { return load(x, 0); });
}
[[gnu::flatten]] float Dot(const float* x, const float* y, std::int64_t n) {
  return sum_row(n, [&](const auto& load) HWY_ATTR { return hn::Mul(load(x, 0), load(y, 0)); });
}
[[gnu::flatten]] float Squares(const float* x, float mean, std::int64_t n) {
  const V m = hn::Set(D(), mean);
  const auto square = [&](const auto& load) HWY_ATTR {
    const V v = hn::Sub(load(x, mean), m);
    return hn::Mul(v, v);
  };
  return sum_row(n, square, x + n);
}
[[gnu::flatten]] double SquaresDouble(const float* x, float factor, std::int64_t count) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<float, decltype(dd)> half;
  const std::size_t n = static_cast<std::size_t>(count);
  const auto f = hn::Set(half, factor);
  hn::Vec<decltype(dd)> s[4] = {hn::Zero(dd), hn::Zero(dd), hn::Zero(dd), hn::Zero(dd)};
  std::size_t i = simd::HWY_NAMESPACE::for_four_runs(n, hn::Lanes(dd), [&](std::size_t j, std::size_t k) HWY_ATTR {
    const auto v = hn::PromoteTo(dd, hn::Mul(hn::LoadU(half, x + j), f));
    s[k] = hn::MulAdd(v, v, s[k]);
  });
  double sum = hn::GetLane(hn::SumOfLanes(dd, hn::Add(hn::Add(s[0], s[1]), hn::Add(s[2], s[3]))));
  for (; i < n; ++i) {
    const double v = static_cast<double>(x[i] * factor);
    sum += v * v;
  }
  return sum;
}
[[gnu::flatten]] float Exp(const float* x, float shift, float* y, std::int64_t n) {
  const D d;
  const V s = hn::Set(d, shift);
  V sum = hn::Zero(d);
  for_row(n, [&](const auto& load, const auto& store) HWY_ATTR {
    const V e = exp_of(hn::Sub(load(x, -HUGE_VALF), s));
    store(e, y);
    sum = hn::Add(sum, e);
  });
  return total(sum);
}
// Sum of exp(x - shift), and the largest x; a NaN makes the sum one.
[[gnu::flatten]] ExpSums ExpSum(const float* x, float shift, std::int64_t n) {
  const D d;
  struct Sums {
    V sum, largest;
  };
  const V s = hn::Set(d, shift), zero = hn::Zero(d), least = hn::Set(d, -HUGE_VALF);
  Sums part[4] = {{zero, least}, {zero, least}, {zero, least}, {zero, least}};
  const auto add = [&](const auto& load, const auto&, Sums& sums) HWY_ATTR {
    const V v = load(x, -HUGE_VALF);
    sums.largest = hn::Max(sums.largest, v);
    sums.sum = hn::Add(sums.sum, exp_of(hn::Sub(v, s)));
  };
  for_row_with_sums(n, part, add, x + n);
  const V largest = hn::Max(hn::Max(part[0].largest, part[1].largest), hn::Max(part[2].largest, part[3].largest));
  const V sum = hn::Add(hn::Add(part[0].sum, part[1].sum), hn::Add(part[2].sum, part[3].sum));
  return {hn::GetLane(hn::MaxOfLanes(d, largest)), total(sum)};
}
// Block by block: one pass over a block unless it holds a new largest element, which few do.
ExpSums MaxExpSum(const float* x, std::int64_t n) {
  ExpSums all{-HUGE_VALF, 0};
  for (std::int64_t i = 0; i < n; i += block) {
    const std::int64_t count = std::min(block, n - i);
    float sum = 0, largest = 0;
    if (all.largest > -HUGE_VALF) {
      const ExpSums part = ExpSum(x + i, all.largest, count);
      sum = part.sum;
      largest = part.largest;
    } else {
      largest = Max(x + i, count);
      if (std::isnan(largest)) return {largest, largest};
    }
    if (largest > all.largest) {
      all.sum *= std::exp(all.largest - largest);
      all.largest = largest;
      sum = ExpSum(x + i, largest, count).sum;
    }
    all.sum += sum;
  }
  return all;
}
[[gnu::flatten]] void Plus(const float* a, const float* b, float* y, std::int64_t n) {
  for_row(n, [&](const auto& load, const auto& store) HWY_ATTR { store(hn::Add(load(a, 0), load(b, 0)), y); });
}
[[gnu::flatten]] void Scale(const float* x, float a, float b, float* y, std::int64_t n) {
  const V va = hn::Set(D(), a), vb = hn::Set(D(), b);
  for_row(n, [&](const auto& load, const auto& store) HWY_ATTR { store(hn::MulAdd(load(x, 0), va, vb), y); });
}
[[gnu::flatten]] void Shift(const float* x, float a, float b, float* y, std::int64_t n) {
  const V va = hn::Set(D(), a), vb = hn::Set(D(), b);
  for_row(n, [&](const auto& load, const auto& store) HWY_ATTR { store(hn::Sub(hn::Sub(load(x, 0), va), vb), y); });
}
[[gnu::flatten]] void Affine(const float* x, float shift, float a, float b, float* y, std::int64_t n) {
  const V s = hn::Set(D(), shift), va = hn::Set(D(), a), vb = hn::Set(D(), b);
  for_row(n,
          [&](const auto& load, const auto& store) HWY_ATTR { store(hn::MulAdd(hn::Sub(load(x, 0), s), va, vb), y); });
}
[[gnu::flatten]] void SoftmaxGrad(const float* y, const float* dy, float dot, float* dx, std::int64_t n) {
  const V c = hn::Set(D(), dot);
  for_row(n, [&](const auto& load, const auto& store)
                 HWY_ATTR { store(hn::Mul(load(y, 0), hn::Sub(load(dy, 0), c)), dx); });
}
[[gnu::flatten]] void LogSoftmaxGrad(const float* y, const float* dy, float sum, float* dx, std::int64_t n) {
  const D d;
  const V s = hn::Set(d, sum);
  for_row(n, [&](const auto& load, const auto& store)
                 HWY_ATTR { store(hn::NegMulAdd(exp_of(load(y, 0)), s, load(dy, 0)), dx); });
}
[[gnu::flatten]] void ExpScale(const float* x, float shift, float a, float b, float* y, std::int64_t n) {
  const D d;
  const V s = hn::Set(d, shift), va = hn::Set(d, a), vb = hn::Set(d, b);
  const auto scaled = [&](const auto& load, const auto& store)
                          HWY_ATTR { store(hn::MulAdd(exp_of(hn::Sub(load(x, 0), s)), va, vb), y); };
  for_row(n, scaled, x + block);
}
[[gnu::flatten]] void Normalize(const float* x, float mean, float rstd, const float* weight, const float* bias,
                                float* y, std::int64_t n) {
  const D d;
  const V m = hn::Set(d, mean), r = hn::Set(d, rstd), zero = hn::Zero(d);
  const auto normalize = [&](const auto& load, const auto& store) HWY_ATTR {
    const V xhat = hn::Mul(hn::Sub(load(x, 0), m), r);
    const V b = bias ? load(bias, 0) : zero;
    store(weight ? hn::MulAdd(xhat, load(weight, 0), b) : hn::Add(xhat, b), y);
  };
  for_row(n, normalize, y + n);
}
// All that a row adds to, in one pass; what is not wanted costs a branch that is always foreseen.
[[gnu::flatten]] NormSums NormSumsOf(const float* x, const float* dy, float mean, float rstd, const float* weight,
                                     float* dweight, float* dbias, std::int64_t n) {
  const D d;
  const V m = hn::Set(d, mean), r = hn::Set(d, rstd);
  struct Sums {
    V g, dot;
  };
  const V zero = hn::Zero(d);
  Sums s[4] = {{zero, zero}, {zero, zero}, {zero, zero}, {zero, zero}};
  const auto add = [&](const auto& load, const auto& store, Sums& sums) HWY_ATTR {
    const V grad = load(dy, 0), centred = hn::Sub(load(x, mean), m);
    const V g = weight ? hn::Mul(grad, load(weight, 0)) : grad;
    sums.g = hn::Add(sums.g, g);
    sums.dot = hn::Add(sums.dot, hn::Mul(g, centred));
    if (dweight) store(hn::MulAdd(grad, hn::Mul(centred, r), load(dweight, 0)), dweight);
    if (dbias) store(hn::Add(grad, load(dbias, 0)), dbias);
  };
  for_row_with_sums(n, s, add, x + n, dy + n);
  const float g = total(hn::Add(hn::Add(s[0].g, s[1].g), hn::Add(s[2].g, s[3].g)));
  const float dot = total(hn::Add(hn::Add(s[0].dot, s[1].dot), hn::Add(s[2].dot, s[3].dot)));
  return {g, static_cast<double>(dot) * static_cast<double>(rstd)};
}
[[gnu::flatten]] void NormGrad(const float* x, const float* dy, float mean, float rstd, const float* weight, float c1,
                               float c2, float scale, bool add, float* dx, std::int64_t n) {
  const D d;
  const V m = hn::Set(d, mean), r = hn::Set(d, rstd), v1 = hn::Set(d, c1), v2 = hn::Set(d, c2), one = hn::Set(d, 1);
  const V s = hn::Set(d, scale);
  const auto gradient = [&](const auto& load, const auto& store) HWY_ATTR {
    const V g = hn::MulSub(load(dy, 0), weight ? load(weight, 0) : one, v1);
    const V xhat = hn::Mul(hn::Sub(load(x, 0), m), r);
    const V grad = hn::Mul(s, hn::NegMulAdd(xhat, v2, g));
    store(add ? hn::Add(load(dx, 0), grad) : grad, dx);
  };
  for_row(n, gradient, dx + n);
}

}  // namespace binade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace binade::cpu {
HWY_EXPORT(Max);
HWY_EXPORT(Sum);
HWY_EXPORT(Dot);
HWY_EXPORT(Squares);
HWY_EXPORT(SquaresDouble);
HWY_EXPORT(Exp);
HWY_EXPORT(MaxExpSum);
HWY_EXPORT(Plus);
HWY_EXPORT(Scale);
HWY_EXPORT(Shift);
HWY_EXPORT(Affine);
HWY_EXPORT(SoftmaxGrad);
HWY_EXPORT(LogSoftmaxGrad);
HWY_EXPORT(ExpScale);
HWY_EXPORT(Normalize);
HWY_EXPORT(NormSumsOf);
HWY_EXPORT(NormGrad);

float row_max(const float* x, std::int64_t n) { return HWY_DYNAMIC_DISPATCH(Max)(x, n); }
float row_sum(const float* x, std::int64_t n) { return HWY_DYNAMIC_DISPATCH(Sum)(x, n); }
float row_dot(const float* x, const float* y, std::int64_t n) { return HWY_DYNAMIC_DISPATCH(Dot)(x, y, n); }
float row_squares(const float* x, float mean, std::int64_t n) { return HWY_DYNAMIC_DISPATCH(Squares)(x, mean, n); }
double row_squares_double(const float* x, float factor, std::int64_t n) { return HWY_DYNAMIC_DISPATCH(SquaresDouble)(x, factor, n); }
float row_exp(const float* x, float shift, float* y, std::int64_t n) {
  return HWY_DYNAMIC_DISPATCH(Exp)(x, shift, y, n);
}
ExpSums row_max_exp_sum(const float* x, std::int64_t n) { return HWY_DYNAMIC_DISPATCH(MaxExpSum)(x, n); }
void row_add(const float* a, const float* b, float* y, std::int64_t n) { HWY_DYNAMIC_DISPATCH(Plus)(a, b, y, n); }
void row_scale(const float* x, float a, float b, float* y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(Scale)(x, a, b, y, n);
}
void row_shift(const float* x, float a, float b, float* y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(Shift)(x, a, b, y, n);
}
void row_affine(const float* x, float shift, float a, float b, float* y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(Affine)(x, shift, a, b, y, n);
}
void row_softmax_grad(const float* y, const float* dy, float dot, float* dx, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(SoftmaxGrad)(y, dy, dot, dx, n);
}
void row_log_softmax_grad(const float* y, const float* dy, float sum, float* dx, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(LogSoftmaxGrad)(y, dy, sum, dx, n);
}
void row_exp_scale(const float* x, float shift, float a, float b, float* y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(ExpScale)(x, shift, a, b, y, n);
}
void row_normalize(const float* x, float mean, float rstd, const float* weight, const float* bias, float* y,
                   std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(Normalize)(x, mean, rstd, weight, bias, y, n);
}
NormSums row_norm_sums(const float* x, const float* dy, float mean, float rstd, const float* weight, float* dweight,
                       float* dbias, std::int64_t n) {
  return HWY_DYNAMIC_DISPATCH(NormSumsOf)(x, dy, mean, rstd, weight, dweight, dbias, n);
}
void row_norm_grad(const float* x, const float* dy, float mean, float rstd, const float* weight, float c1, float c2,
                   float scale, bool add, float* dx, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(NormGrad)(x, dy, mean, rstd, weight, c1, c2, scale, add, dx, n);
}
}  // namespace binade::cpu
#endif
