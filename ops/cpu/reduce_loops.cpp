// Reduction loops: four accumulators of a SIMD vector for floats, once per target; the same steps for scalars.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "binade/ops/cpu/reduce_loops.cpp"
#include <hwy/foreach_target.h>  // must come before simd.h
#include <algorithm>
#include <cmath>
#include <limits>

#include "binade/ops/cpu/reduce_loops.h"
#include "binade/ops/cpu/simd.h"

HWY_BEFORE_NAMESPACE();
namespace binade::cpu::HWY_NAMESPACE {
namespace simd = binade::simd::HWY_NAMESPACE;
using simd::Float;

template <Reducer kind>
HWY_INLINE Float step(Float sum, Float x, Float shift) {
  if constexpr (kind == Reducer::sum) return sum + x;
  if constexpr (kind == Reducer::sum_squares) return simd::mul_add(x, x, sum);
  if constexpr (kind == Reducer::sum_centred_squares) return simd::mul_add(x - shift, x - shift, sum);
  if constexpr (kind == Reducer::sum_exp) return sum + simd::exp(x - shift);
  if constexpr (kind == Reducer::max) return simd::max(x, sum);
  if constexpr (kind == Reducer::min) return simd::min(x, sum);
}
template <Reducer kind>
HWY_INLINE Float merge(Float a, Float b) {
  if constexpr (kind == Reducer::max) return simd::max(a, b);
  if constexpr (kind == Reducer::min) return simd::min(a, b);
  return a + b;
}
template <Reducer kind>
HWY_INLINE float start_value() {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  return kind == Reducer::max ? -infinity : kind == Reducer::min ? infinity : 0.0F;
}

template <Reducer kind>
float reduce_block(const float* x, std::int64_t count, float shift) {
  const auto lanes = static_cast<std::int64_t>(simd::lanes());
  const Float start(start_value<kind>()), s(shift);
  Float a = start, b = start, c = start, d = start;
  std::int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    a = step<kind>(a, simd::load(x + i), s);
    b = step<kind>(b, simd::load(x + i + lanes), s);
    c = step<kind>(c, simd::load(x + i + 2 * lanes), s);
    d = step<kind>(d, simd::load(x + i + 3 * lanes), s);
  }
  for (; i + lanes <= count; i += lanes) a = step<kind>(a, simd::load(x + i), s);
  HWY_ALIGN float values[simd::max_lanes];
  simd::store(merge<kind>(merge<kind>(a, b), merge<kind>(c, d)), values);
  float result = values[0];
  for (std::int64_t lane = 1; lane < lanes; ++lane) result = combine(kind, result, values[lane]);
  for (; i < count; ++i) {  // the last few, one in each vector
    const Float one = step<kind>(start, Float(x[i]), s);
    simd::store(one, values);
    result = combine(kind, result, values[0]);
  }
  return result;
}

template <Reducer kind>
void reduce_columns(const float* x, float* sums, std::int64_t count, const float* shifts) {
  const auto lanes = static_cast<std::int64_t>(simd::lanes());
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const Float shift = shifts ? simd::load(shifts + i) : Float();
    simd::store(step<kind>(simd::load(sums + i), simd::load(x + i), shift), sums + i);
  }
  if (i < count) {
    const auto rest = static_cast<std::size_t>(count - i);
    const Float shift = shifts ? simd::load_n(shifts + i, rest) : Float();
    simd::store_n(step<kind>(simd::load_n(sums + i, rest), simd::load_n(x + i, rest), shift), sums + i, rest);
  }
}

template <Reducer kind>
void add_loops(ReduceLoops<float>* table) {
  table[static_cast<int>(kind)] = {reduce_block<kind>, reduce_columns<kind>, start_value<kind>()};
}
void float_reduce_loops(ReduceLoops<float>* table) {
  add_loops<Reducer::sum>(table);
  add_loops<Reducer::sum_squares>(table);
  add_loops<Reducer::sum_centred_squares>(table);
  add_loops<Reducer::sum_exp>(table);
  add_loops<Reducer::max>(table);
  add_loops<Reducer::min>(table);
}

}  // namespace binade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace binade::cpu {
namespace {

HWY_EXPORT(float_reduce_loops);

template <Reducer kind, class C>
C scalar_step(C sum, C x, C shift) {
  if constexpr (kind == Reducer::sum) return sum + x;
  if constexpr (kind == Reducer::sum_squares) return sum + x * x;
  if constexpr (kind == Reducer::sum_centred_squares) return sum + (x - shift) * (x - shift);
  if constexpr (kind == Reducer::sum_exp) return sum + static_cast<C>(std::exp(static_cast<double>(x - shift)));
  if constexpr (kind == Reducer::max || kind == Reducer::min) return combine(kind, sum, x);
}
template <Reducer kind, class C>
constexpr C scalar_start() {
  using Limits = std::numeric_limits<C>;
  if (kind == Reducer::max) return Limits::has_infinity ? -Limits::infinity() : Limits::lowest();
  if (kind == Reducer::min) return Limits::has_infinity ? Limits::infinity() : Limits::max();
  return 0;
}
template <Reducer kind, class C>
C scalar_block(const C* x, std::int64_t count, C shift) {
  C sums[4];
  std::fill_n(sums, 4, scalar_start<kind, C>());
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int lane = 0; lane < 4; ++lane) sums[lane] = scalar_step<kind>(sums[lane], x[i + lane], shift);
  }
  for (; i < count; ++i) sums[0] = scalar_step<kind>(sums[0], x[i], shift);
  return combine(kind, combine(kind, sums[0], sums[1]), combine(kind, sums[2], sums[3]));
}
template <Reducer kind, class C>
void scalar_columns(const C* x, C* sums, std::int64_t count, const C* shifts) {
  for (std::int64_t i = 0; i < count; ++i) sums[i] = scalar_step<kind>(sums[i], x[i], shifts ? shifts[i] : C(0));
}
template <class C>
struct ScalarTable {
  ReduceLoops<C> loops[reducers];
  ScalarTable() {
    add<Reducer::sum>();
    add<Reducer::sum_squares>();
    add<Reducer::sum_centred_squares>();
    add<Reducer::sum_exp>();
    add<Reducer::max>();
    add<Reducer::min>();
  }
  template <Reducer kind>
  void add() {
    loops[static_cast<int>(kind)] = {scalar_block<kind, C>, scalar_columns<kind, C>, scalar_start<kind, C>()};
  }
};

}  // namespace

template <class C>
const ReduceLoops<C>& reduce_loops(Reducer reducer) {
  static const ScalarTable<C> table;
  return table.loops[static_cast<int>(reducer)];
}
template <>
const ReduceLoops<float>& reduce_loops<float>(Reducer reducer) {
  struct Table {
    ReduceLoops<float> loops[reducers];
    Table() { HWY_DYNAMIC_DISPATCH(float_reduce_loops)(loops); }
  };
  static const Table table;
  return table.loops[static_cast<int>(reducer)];
}
template const ReduceLoops<double>& reduce_loops<double>(Reducer);
template const ReduceLoops<std::int64_t>& reduce_loops<std::int64_t>(Reducer);

}  // namespace binade::cpu
#endif
