// embedding: y[..] = weight[indices[..]], rows of a table.
#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"
#include "binade/ops/view_as.h"

namespace binade {
namespace {

struct Embedding : Op {
  std::string_view name() const override { return "embedding"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    const Tensor &weight = in[0], &indices = in[1];
    check_float(name(), "weight", weight);
    check_dims(name(), "weight", weight, 2);
    check_defined(name(), "indices", indices);
    check(indices.dtype() == DType::i64 || indices.dtype() == DType::i32, name(), ": indices must be i64 or i32, got ",
          indices.dtype());
    Shape shape = indices.shape();
    shape.push_back(weight.size(1));
    return {shape, weight.dtype()};
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Tensor& weight = in[0];
    Tensor y = empty(infer(in), weight.device());
    const Tensor indices = contiguous_values(cast_values(in[1], DType::i64));
    kernel::embedding(weight, as_line(indices), view_as(y, {indices.numel(), weight.size(1)}));
    saved.save(indices);
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor indices = saved[0], grad = contiguous_values(dy);
    const auto [dweight, accumulate] = out.target(0);
    kernel::embedding_backward(view_as(grad, {indices.numel(), grad.size(-1)}), as_line(indices), dweight, accumulate);
  }
  Tensor reference(Inputs in) const override {
    Tensor y = zeros(infer(in).shape, {.dtype = DType::f64});
    const std::vector<std::int64_t> index = in[1].to_vector<std::int64_t>();
    const std::int64_t n = in[0].size(1);
    for (std::size_t i = 0; i < index.size(); ++i) {
      for (std::int64_t j = 0; j < n; ++j) y.set(static_cast<std::int64_t>(i) * n + j, in[0].at(index[i] * n + j));
    }
    return y;
  }
};

}  // namespace

Tensor embedding(const Tensor& weight, const Tensor& indices) { return run(Embedding{}, {weight, indices}); }

namespace families {
std::vector<OpPtr> embedding_ops() { return {std::make_shared<Embedding>()}; }
}  // namespace families

}  // namespace binade
