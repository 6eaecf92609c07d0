// cat: tensors joined along one dim, each a copy into its part of the result. stack: cat of unsqueezed tensors.
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/all_ops.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"

namespace binade {

namespace {

Tensor part_of(const Tensor& whole, int dim, std::int64_t start, std::int64_t length) {
  Shape shape = whole.shape();
  shape[dim] = length;
  return alias(whole, shape, whole.strides(), start * whole.strides()[dim]);
}

struct Cat : Op {
  std::int64_t dim = 0;
  std::vector<std::int64_t> sizes;  // of the inputs along dim
  std::string_view name() const override { return "cat"; }
  Precision precision() const override { return Precision::widest; }
  Spec infer(Inputs in) const override {
    check(!in.empty(), "cat: no tensors given");
    for (const Tensor& x : in) check_defined("cat", "a tensor", x);
    Shape shape = in[0].shape();
    check(shape.size() > 0, "cat: zero-dim tensors cannot be joined; use stack");
    const int d = wrap_dim(dim, shape.size(), "cat");
    for (const Tensor& x : in.subspan(1)) {
      check(x.dim() == shape.size(), "cat: shapes differ beside dim ", d, ": ", in[0].shape(), " and ", x.shape());
      for (int i = 0; i < shape.size(); ++i)
        check(i == d || x.shape()[i] == shape[i], "cat: shapes differ beside dim ", d, ": ", in[0].shape(), " and ",
              x.shape());
      shape[d] += x.shape()[d];
    }
    return {shape, in[0].dtype()};
  }
  Tensor forward(Inputs in, Saved&) const override {
    Tensor y = empty(infer(in), in[0].device());
    const int d = wrap_dim(dim, y.dim(), "cat");
    std::int64_t at = 0;
    for (const Tensor& x : in) {
      if (x.numel() > 0) kernel::copy(x, part_of(y, d, at, x.shape()[d]));
      at += x.shape()[d];
    }
    return y;
  }
  void backward(const Saved&, const Tensor& dy, Gradients& out) const override {
    const int d = wrap_dim(dim, dy.dim(), "cat");
    std::int64_t at = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      if (out.wanted(i)) out.put(i, part_of(dy, d, at, sizes[i]));
      at += sizes[i];
    }
  }
  Tensor reference(Inputs in) const override {
    const Shape shape = infer(in).shape;
    const int d = wrap_dim(dim, shape.size(), "cat");
    Tensor y = empty(shape, {.dtype = DType::f64});
    std::int64_t inner = 1;
    for (int i = d + 1; i < shape.size(); ++i) inner *= shape[i];
    std::int64_t at = 0;
    for (const Tensor& x : in) {
      const std::int64_t width = x.shape()[d] * inner;
      for (std::int64_t i = 0; i < x.numel(); ++i)
        y.set(i / width * shape[d] * inner + at * inner + i % width, x.at(i));
      at += x.shape()[d];
    }
    return y;
  }
};

}  // namespace

Tensor cat(const Tensors& tensors, std::int64_t dim) {
  check(!tensors.empty(), "cat: no tensors given");
  Cat op;
  op.dim = dim;
  for (const Tensor& x : tensors) op.sizes.push_back(x && x.dim() > 0 ? x.size(wrap_dim(dim, x.dim(), "cat")) : 0);
  return run(std::move(op), tensors);
}

Tensor stack(const Tensors& tensors, std::int64_t dim) {
  check(!tensors.empty(), "stack: no tensors given");
  Tensors raised;
  for (const Tensor& x : tensors) {
    check_defined("stack", "a tensor", x);
    check(x.shape() == tensors[0].shape(), "stack: shapes differ: ", tensors[0].shape(), " and ", x.shape());
    raised.push_back(unsqueeze(x, dim));
  }
  return cat(raised, dim);
}

namespace families {
std::vector<OpPtr> cat_ops() { return {std::make_shared<const Cat>()}; }
}  // namespace families

}  // namespace binade
