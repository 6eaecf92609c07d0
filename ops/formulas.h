// Elementwise formulas: each is written once, in formulas_inl.h, for scalars (here), SIMD vectors and CUDA.
// A formula is a struct: name, precision class, forward and backward as templates over the value type V (double,
// float, std::int64_t, simd::Float), which `select` instead of branching on values.
#pragma once
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"

#ifndef BINADE_FORMULA
#define BINADE_FORMULA inline  // attributes of a formula's functions: __host__ __device__ where CUDA compiles them
#endif

namespace binade::formulas {

using std::abs;
using std::erfc;
using std::exp;
using std::log;
using std::log1p;
using std::pow;
using std::sqrt;
using std::tanh;
template <class T>
BINADE_FORMULA T select(bool condition, T yes, T no) {
  return condition ? yes : no;
}
template <class T>
BINADE_FORMULA bool is_nan(T x) {
  return x != x;
}

#include "binade/ops/formulas_inl.h"
#undef BINADE_FORMULA

}  // namespace binade::formulas
