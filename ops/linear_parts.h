// What the linear operations share: their matrices as views, and their activation (convolution's too).
#pragma once
#include <cmath>
#include <utility>

#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/ops/formulas.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"

namespace binade {

inline TensorView reshaped(const TensorView& x, const Shape& shape, const Strides& strides) {
  TensorView y = x;
  y.shape = shape;
  y.strides = strides;
  return y;
}
// A contiguous x as [rows, columns]; the row count cannot be computed from an empty last dimension.
inline TensorView matrix_rows(const Tensor& x, std::int64_t columns) {
  std::int64_t count = 1;
  for (int d = 0; d + 1 < x.dim(); ++d) count *= x.shape()[d];
  return reshaped(x, {count, columns}, {columns, 1});
}

// body.operator()<Formula>() for the formula of an activation that is not `none`.
template <class Body>
void with_formula(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::none: return;
    case Activation::relu: return body.template operator()<formulas::Relu>();
    case Activation::gelu_erf: return body.template operator()<formulas::GeluErf>();
    case Activation::gelu_tanh: return body.template operator()<formulas::GeluTanh>();
    case Activation::silu: return body.template operator()<formulas::Silu>();
  }
}
// y = activation(pre), and its gradient, all in pre's dtype; for `none` nothing is written, or dy itself returned. `pre` is
// the saved tensor number `which`.
inline void activate(Activation activation, const Tensor& pre, const Tensor& y) {
  with_formula(activation, [&]<class F> { kernel::unary_forward<F>(pre, y, {}); });
}
inline Tensor activated_backward(Activation activation, const Saved& saved, std::size_t which, const Tensor& dy) {
  if (activation == Activation::none) return dy;
  const Tensor pre = saved[which], dpre = saved.place_for_gradient(which);
  with_formula(activation, [&]<class F> { kernel::unary_backward<F>(pre, dy, dpre, {}); });
  return dpre;
}

// The activations once more, for references.
inline double reference_activation(Activation activation, double x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return x > 0 ? x : 0;
    case Activation::gelu_erf: return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case Activation::silu: return x / (1 + std::exp(-x));
  }
  return x;
}

// dbias (+)= the sum of the rows of dy [rows, n].
inline void sum_linear_bias(const Gradients::Target& dbias, const TensorView& rows_dy) {
  const std::int64_t n = rows_dy.size(1);
  kernel::sum(rows_dy, reshaped(dbias.tensor, {1, n}, {n, 1}), 1, dbias.accumulate);
}

// The shape and dtype rule of linear(x, weight, bias).
inline Spec infer_linear(std::string_view op, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_float(op, "x", x);
  check_float(op, "weight", weight);
  check_same_dtype(op, "x", x, "weight", weight);
  check_dims(op, "weight", weight, 2);
  check(x.dim() >= 1 && x.size(-1) == weight.size(1), op, ": x's last dimension must be weight's second: x is ",
        x.shape(), ", weight is ", weight.shape());
  if (bias) {
    check_same_dtype(op, "x", x, "bias", bias);
    check(bias.dim() == 1 && bias.size(0) == weight.size(0), op, ": bias must be [", weight.size(0), "], got ",
          bias.shape());
  }
  Shape shape = x.shape();
  shape.back() = weight.size(0);
  return {shape, x.dtype()};
}

}  // namespace binade
