// Unary elementwise kernels: the loop of each formula for SIMD floats, once per target, and for double and integers.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "binade/ops/cpu/elementwise_unary.cpp"
#include <hwy/foreach_target.h>  // must come before simd.h
#include "binade/ops/cpu/blocks.h"
#include "binade/ops/cpu/simd.h"
#include "binade/ops/formulas.h"

#ifndef BINADE_UNARY_LOOPS
#define BINADE_UNARY_LOOPS
namespace binade::cpu {
template <class C>
struct UnaryLoops {
  void (*forward)(const C* x, C* y, std::int64_t count, kernel::FormulaArgs args) = nullptr;
  void (*backward)(const C* x, const C* dy, C* dx, std::int64_t count, kernel::FormulaArgs args) = nullptr;
};
}  // namespace binade::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace binade::cpu::HWY_NAMESPACE {
namespace simd = binade::simd::HWY_NAMESPACE;
namespace formulas {
#define BINADE_FORMULA HWY_INLINE
#include "binade/ops/formulas_inl.h"
#undef BINADE_FORMULA
}  // namespace formulas

template <class Formula>
void unary_forward_loop(const float* x, float* y, std::int64_t count, kernel::FormulaArgs args) {
  const auto step = static_cast<std::int64_t>(simd::lanes());
  for (std::int64_t i = 0; i < count; i += step) {
    if (count - i >= step) {
      simd::store(Formula::forward(simd::load(x + i), args), y + i);
    } else {
      const auto rest = static_cast<std::size_t>(count - i);
      simd::store_n(Formula::forward(simd::load_n(x + i, rest), args), y + i, rest);
    }
  }
}

template <class Formula>
void unary_backward_loop(const float* x, const float* dy, float* dx, std::int64_t count, kernel::FormulaArgs args) {
  const auto step = static_cast<std::int64_t>(simd::lanes());
  for (std::int64_t i = 0; i < count; i += step) {
    if (count - i >= step) {
      simd::store(Formula::backward(simd::load(x + i), simd::load(dy + i), args), dx + i);
    } else {
      const auto rest = static_cast<std::size_t>(count - i);
      simd::store_n(Formula::backward(simd::load_n(x + i, rest), simd::load_n(dy + i, rest), args), dx + i, rest);
    }
  }
}

void unary_loops(UnaryLoops<float>* table) {
  formulas::for_each_unary([&]<class Formula>() {
    *table++ = {unary_forward_loop<Formula>, unary_backward_loop<Formula>};
  });
}

}  // namespace binade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace binade::cpu {
namespace {

HWY_EXPORT(unary_loops);

template <class Formula, class C>
void forward_loop(const C* x, C* y, std::int64_t count, kernel::FormulaArgs args) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = Formula::forward(x[i], args);
}
template <class Formula>
void backward_loop(const double* x, const double* dy, double* dx, std::int64_t count, kernel::FormulaArgs args) {
  for (std::int64_t i = 0; i < count; ++i) dx[i] = Formula::backward(x[i], dy[i], args);
}

struct AllUnaryLoops {
  UnaryLoops<float> floats;
  UnaryLoops<double> doubles;
  UnaryLoops<std::int64_t> integers;  // neg and abs only
};
template <class Formula>
AllUnaryLoops loops_of;

template <class C>
void run_forward(const UnaryLoops<C>& loops, const TensorView& x, const TensorView& y, kernel::FormulaArgs args) {
  for_each_block<C, 1, 1>(y.shape, {x}, {y}, [&](const auto& in, const auto& out, std::int64_t count) {
    loops.forward(in[0], out[0], count, args);
  });
}
template <class C>
void run_backward(const UnaryLoops<C>& loops, const TensorView& x, const TensorView& dy, const TensorView& dx,
                  kernel::FormulaArgs args) {
  for_each_block<C, 2, 1>(dx.shape, {x, dy}, {dx}, [&](const auto& in, const auto& out, std::int64_t count) {
    loops.backward(in[0], in[1], out[0], count, args);
  });
}

void forward(const AllUnaryLoops& loops, std::string_view name, const TensorView& x, const TensorView& y,
             kernel::FormulaArgs args) {
  if (x.dtype == DType::f64 || y.dtype == DType::f64) return run_forward(loops.doubles, x, y, args);
  if (is_floating(x.dtype)) return run_forward(loops.floats, x, y, args);
  check(loops.integers.forward != nullptr, name, ": not defined for integers, got ", x.dtype);
  run_forward(loops.integers, x, y, args);
}
void backward(const AllUnaryLoops& loops, const TensorView& x, const TensorView& dy, const TensorView& dx,
              kernel::FormulaArgs args) {
  if (x.dtype == DType::f64) return run_backward(loops.doubles, x, dy, dx, args);
  run_backward(loops.floats, x, dy, dx, args);
}

template <class Formula>
void unary_forward(TensorView x, TensorView y, kernel::FormulaArgs args) {
  forward(loops_of<Formula>, Formula::name, x, y, args);
}
template <class Formula>
void unary_backward(TensorView x, TensorView dy, TensorView dx, kernel::FormulaArgs args) {
  backward(loops_of<Formula>, x, dy, dx, args);
}

}  // namespace

void provide_elementwise_unary();
void provide_elementwise_unary() {
  UnaryLoops<float> floats[formulas::unary_formulas];
  HWY_DYNAMIC_DISPATCH(unary_loops)(floats);
  const UnaryLoops<float>* next = floats;
  formulas::for_each_unary([&]<class Formula>() {
    AllUnaryLoops& loops = loops_of<Formula>;
    loops.floats = *next++;
    loops.doubles = {forward_loop<Formula, double>, backward_loop<Formula>};
    if constexpr (std::is_same_v<Formula, formulas::Neg> || std::is_same_v<Formula, formulas::Abs>) {
      loops.integers.forward = forward_loop<Formula, std::int64_t>;
    }
    kernel::unary_forward<Formula>.provide(DeviceType::cpu, unary_forward<Formula>);
    kernel::unary_backward<Formula>.provide(DeviceType::cpu, unary_backward<Formula>);
  });
}

}  // namespace binade::cpu
#endif
