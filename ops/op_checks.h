// Input rules that many operations share, as one line each.
#pragma once
#include <string_view>

#include "binade/core/tensor/tensor.h"

namespace binade {

inline void check_defined(std::string_view op, std::string_view what, const Tensor& x) {
  check(x.defined(), op, ": ", what, " is undefined");
}
inline void check_float(std::string_view op, std::string_view what, const Tensor& x) {
  check_defined(op, what, x);
  check(is_arithmetic_float(x.dtype()), op, ": ", what, " must be f64, f32, f16 or bf16, got ", x.dtype());
}
inline void check_same_dtype(std::string_view op, std::string_view what_a, const Tensor& a, std::string_view what_b,
                             const Tensor& b) {
  check(a.dtype() == b.dtype(), op, ": dtypes differ: ", what_a, " is ", a.dtype(), ", ", what_b, " is ", b.dtype());
}
inline void check_dims(std::string_view op, std::string_view what, const Tensor& x, int dims) {
  check(x.dim() == dims, op, ": ", what, " must have ", dims, " dimensions, got ", x.shape());
}

}  // namespace binade
