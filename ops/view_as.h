// A contiguous tensor seen by a kernel in another shape.
#pragma once
#include "binade/core/tensor/tensor.h"

namespace binade {

inline TensorView view_as(const Tensor& contiguous, const Shape& shape) {
  TensorView v = contiguous;
  v.shape = shape;
  v.strides = contiguous_strides(shape);
  return v;
}
inline TensorView as_line(const Tensor& contiguous) { return view_as(contiguous, {contiguous.numel()}); }
// [rows, n]; n may be 0
inline TensorView as_rows(const Tensor& contiguous, std::int64_t n) {
  return view_as(contiguous, {n == 0 ? 0 : contiguous.numel() / n, n});
}

}  // namespace binade
