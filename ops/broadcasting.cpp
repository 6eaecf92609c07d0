// Broadcasting for operations.
#include "binade/ops/broadcasting.h"

#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade {

Tensor shape_only(const Tensor& x) {
  Strides still = x.shape();
  std::fill(still.begin(), still.end(), 0);
  return alias(empty({1}, {.dtype = x.dtype(), .device = x.device()}), x.shape(), still, 0);
}

void put_broadcast(Gradients& out, std::size_t i, const Tensor& gradient, const Shape& shape) {
  if (gradient.shape() == shape) return out.put(i, gradient);
  const auto [target, accumulate] = out.target(i);
  TensorView y = target;
  for (int d = shape.size(); d < gradient.dim(); ++d) {  // the same rank, ones in front
    y.shape.insert(0, 1);
    y.strides.insert(0, 0);
  }
  kernel::sum(gradient, y, 1, accumulate);
}

std::vector<double> repeated_values(const Tensor& x, const Shape& shape) {
  const std::vector<double> values = x.to_vector<double>();
  std::vector<double> repeated(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < repeated.size(); ++i) {
    std::int64_t rest = static_cast<std::int64_t>(i), index = 0, step = 1;
    for (int d = shape.size() - 1, own = x.dim() - 1; own >= 0; --d, --own) {
      if (x.shape()[own] != 1) index += rest % shape[d] * step;
      step *= x.shape()[own];
      rest /= shape[d];
    }
    repeated[i] = values[static_cast<std::size_t>(index)];
  }
  return repeated;
}

}  // namespace binade
