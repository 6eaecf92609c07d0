// The inner loops of reductions, over blocks of contiguous values: SIMD for float, plain for double and integers.
#pragma once
#include <cstdint>
#include <type_traits>

namespace binade::cpu {

enum class Reducer { sum, sum_squares, sum_centred_squares, sum_exp, max, min };
inline constexpr int reducers = 6;

// What blocks of C are gathered in: sums of short runs of floats are added up in double.
template <class C>
using Total = std::conditional_t<std::is_same_v<C, std::int64_t>, std::int64_t, double>;

template <class C>
struct ReduceLoops {
  // Reduces x[0, count). `shift` is the mean of centred squares and the maximum of sum_exp.
  C (*block)(const C* x, std::int64_t count, C shift) = nullptr;
  // sums[j] takes x[j] in, for each column j; shifts is null where the reducer has none.
  void (*columns)(const C* x, C* sums, std::int64_t count, const C* shifts) = nullptr;
  C start = 0;
};

template <class C>
const ReduceLoops<C>& reduce_loops(Reducer reducer);  // float, double, std::int64_t

template <class T>
T combine(Reducer reducer, T a, T b) {  // NaN propagates
  if (reducer == Reducer::max) return b > a || b != b ? b : a;
  if (reducer == Reducer::min) return b < a || b != b ? b : a;
  return a + b;
}

}  // namespace binade::cpu
