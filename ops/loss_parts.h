// What the losses of class indices share: the rules of their targets, and how many of them count.
#pragma once
#include <string_view>

#include "binade/core/backend/kernels.h"
#include "binade/ops/formulas.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/view_as.h"

namespace binade {

// `rows`, of shape [.., n], has one target per row; returns the targets' shape.
inline Shape check_targets(std::string_view op, std::string_view what, const Tensor& rows, const Tensor& targets) {
  check_defined(op, "targets", targets);
  check(targets.dtype() == DType::i64 || targets.dtype() == DType::i32, op,
        ": targets must be class indices, i64 or i32, got ", targets.dtype());
  Shape expected = rows.shape();
  expected.erase(expected.size() - 1);
  check(targets.shape() == expected, op, ": targets must have shape ", expected, " for ", what, " ", rows.shape(),
        ", got ", targets.shape());
  return expected;
}
inline void check_smoothing(std::string_view op, double label_smoothing) {
  check(label_smoothing >= 0 && label_smoothing <= 1, op, ": label_smoothing must be in [0, 1], got ", label_smoothing);
}

// How many targets, contiguous i64, are not ignored, [1], without asking the device.
inline Tensor count_of(const Tensor& targets, std::int64_t ignore_index, DType dtype) {
  const Device device = targets.device();
  const std::int64_t rows = targets.numel();
  const Tensor ignored = empty({{1}, DType::i64}, device), used = empty({{rows}, DType::boolean}, device);
  const Tensor ones = empty({{rows}, dtype}, device);
  Tensor count = empty({{1}, dtype}, device);
  kernel::fill(ignored, static_cast<double>(ignore_index));
  TensorView everywhere = ignored;
  everywhere.shape = {rows};
  everywhere.strides = {0};
  kernel::compare<formulas::Ne>(as_line(targets), everywhere, used);
  kernel::copy(used, ones);
  kernel::sum(ones, count, 1.0, false);
  return count;
}

}  // namespace binade
