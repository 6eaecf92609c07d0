// Binary elementwise kernels: the loop of each formula for SIMD floats, once per target, and for double and integers.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "binade/ops/cpu/elementwise_binary.cpp"
#include <hwy/foreach_target.h>  // must come before simd.h
#include "binade/ops/cpu/blocks.h"
#include "binade/ops/cpu/simd.h"
#include "binade/ops/formulas.h"

#ifndef BINADE_BINARY_LOOPS
#define BINADE_BINARY_LOOPS
namespace binade::cpu {
template <class C>
struct BinaryLoops {
  void (*forward)(const C* a, const C* b, C* y, std::int64_t count) = nullptr;
  void (*backward)(const C* a, const C* b, const C* dy, C* da, C* db, std::int64_t count) = nullptr;
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
void binary_forward_loop(const float* a, const float* b, float* y, std::int64_t count) {
  const auto step = static_cast<std::int64_t>(simd::lanes());
  for (std::int64_t i = 0; i < count; i += step) {
    if (count - i >= step) {
      simd::store(Formula::forward(simd::load(a + i), simd::load(b + i)), y + i);
    } else {
      const auto rest = static_cast<std::size_t>(count - i);
      simd::store_n(Formula::forward(simd::load_n(a + i, rest), simd::load_n(b + i, rest)), y + i, rest);
    }
  }
}

template <class Formula>
void binary_backward_loop(const float* a, const float* b, const float* dy, float* da, float* db, std::int64_t count) {
  const auto step = static_cast<std::int64_t>(simd::lanes());
  simd::Float da_v, db_v;
  for (std::int64_t i = 0; i < count; i += step) {
    if (count - i >= step) {
      Formula::backward(simd::load(a + i), simd::load(b + i), simd::load(dy + i), da_v, db_v);
      simd::store(da_v, da + i);
      simd::store(db_v, db + i);
    } else {
      const auto rest = static_cast<std::size_t>(count - i);
      Formula::backward(simd::load_n(a + i, rest), simd::load_n(b + i, rest), simd::load_n(dy + i, rest), da_v, db_v);
      simd::store_n(da_v, da + i, rest);
      simd::store_n(db_v, db + i, rest);
    }
  }
}

void binary_loops(BinaryLoops<float>* table) {
  formulas::for_each_binary([&]<class Formula>() {
    *table++ = {binary_forward_loop<Formula>, binary_backward_loop<Formula>};
  });
}

}  // namespace binade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace binade::cpu {
namespace {

HWY_EXPORT(binary_loops);

template <class Formula>
void double_forward_loop(const double* a, const double* b, double* y, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = Formula::forward(a[i], b[i]);
}
template <class Formula>
void double_backward_loop(const double* a, const double* b, const double* dy, double* da, double* db,
                          std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) Formula::backward(a[i], b[i], dy[i], da[i], db[i]);
}

// Sums, differences and products wrap around, as hardware does; signed overflow would be undefined.
template <class Formula>
void integer_forward_loop(const std::int64_t* a, const std::int64_t* b, std::int64_t* y, std::int64_t count) {
  constexpr bool ring = std::is_same_v<Formula, formulas::Add> || std::is_same_v<Formula, formulas::Sub> ||
                        std::is_same_v<Formula, formulas::Mul>;
  using V = std::conditional_t<ring, std::uint64_t, std::int64_t>;
  for (std::int64_t i = 0; i < count; ++i) {
    y[i] = static_cast<std::int64_t>(Formula::forward(static_cast<V>(a[i]), static_cast<V>(b[i])));
  }
}
template <class Formula>
constexpr bool for_integers =
    std::is_same_v<Formula, formulas::Add> || std::is_same_v<Formula, formulas::Sub> ||
    std::is_same_v<Formula, formulas::Mul> || std::is_same_v<Formula, formulas::Maximum> ||
    std::is_same_v<Formula, formulas::Minimum>;

struct AllBinaryLoops {
  BinaryLoops<float> floats;
  BinaryLoops<double> doubles;
  BinaryLoops<std::int64_t> integers;
};
template <class Formula>
AllBinaryLoops loops_of;

template <class C>
void run_forward(const BinaryLoops<C>& loops, const TensorView& a, const TensorView& b, const TensorView& y) {
  for_each_block<C, 2, 1>(y.shape, {a, b}, {y}, [&](const auto& in, const auto& out, std::int64_t count) {
    loops.forward(in[0], in[1], out[0], count);
  });
}
template <class C>
void run_backward(const BinaryLoops<C>& loops, const TensorView& a, const TensorView& b, const TensorView& dy,
                  const TensorView& da, const TensorView& db) {
  for_each_block<C, 3, 2>(dy.shape, {a, b, dy}, {da, db}, [&](const auto& in, const auto& out, std::int64_t count) {
    loops.backward(in[0], in[1], in[2], out[0], out[1], count);
  });
}

void forward(const AllBinaryLoops& loops, std::string_view name, const TensorView& a, const TensorView& b,
             const TensorView& y) {
  if (a.dtype == DType::f64 || b.dtype == DType::f64) return run_forward(loops.doubles, a, b, y);
  if (is_floating(a.dtype) || is_floating(b.dtype)) return run_forward(loops.floats, a, b, y);
  check(loops.integers.forward != nullptr, name, ": not defined for integers, got ", a.dtype);
  run_forward(loops.integers, a, b, y);
}
void backward(const AllBinaryLoops& loops, const TensorView& a, const TensorView& b, const TensorView& dy,
              const TensorView& da, const TensorView& db) {
  if (a.dtype == DType::f64 || b.dtype == DType::f64) return run_backward(loops.doubles, a, b, dy, da, db);
  run_backward(loops.floats, a, b, dy, da, db);
}

template <class Formula>
void binary_forward(TensorView a, TensorView b, TensorView y) {
  forward(loops_of<Formula>, Formula::name, a, b, y);
}
template <class Formula>
void binary_backward(TensorView a, TensorView b, TensorView dy, TensorView da, TensorView db) {
  backward(loops_of<Formula>, a, b, dy, da, db);
}

}  // namespace

void provide_elementwise_binary();
void provide_elementwise_binary() {
  BinaryLoops<float> floats[formulas::binary_formulas];
  HWY_DYNAMIC_DISPATCH(binary_loops)(floats);
  const BinaryLoops<float>* next = floats;
  formulas::for_each_binary([&]<class Formula>() {
    AllBinaryLoops& loops = loops_of<Formula>;
    loops.floats = *next++;
    loops.doubles = {double_forward_loop<Formula>, double_backward_loop<Formula>};
    if constexpr (for_integers<Formula>) loops.integers.forward = integer_forward_loop<Formula>;
    kernel::binary_forward<Formula>.provide(DeviceType::cpu, binary_forward<Formula>);
    kernel::binary_backward<Formula>.provide(DeviceType::cpu, binary_backward<Formula>);
  });
}

}  // namespace binade::cpu
#endif
