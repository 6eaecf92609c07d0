// cross_entropy: -log softmax(logits)[target], optionally smoothed: (1 - s) * that + s * mean over classes of
// -log softmax. Logits stay in their own dtype and are widened in registers: the values equal those of a cast to f32,
// without its memory; only the logits' gradient is rounded to their dtype, as the cast's backward would.
#include <cmath>

#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/formulas.h"
#include "binade/ops/loss_parts.h"
#include "binade/ops/ops.h"

namespace binade {
namespace {

struct CrossEntropy : Op {
  CrossEntropyLoss options;

  std::string_view name() const override { return "cross_entropy"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    const Tensor &logits = in[0], &targets = in[1];
    check_float(name(), "logits", logits);
    check(logits.dim() >= 1, name(), ": logits must be [.., classes], got ", logits.shape());
    const Shape expected = check_targets(name(), "logits", logits, targets);
    check_smoothing(name(), options.label_smoothing);
    return {options.reduction == Reduction::none ? expected : Shape{}, loss_dtype(logits)};
  }
  static DType loss_dtype(const Tensor& logits) { return logits.dtype() == DType::f64 ? DType::f64 : DType::f32; }
  kernel::CrossEntropyOptions kernel_options() const { return {options.ignore_index, options.label_smoothing}; }

  Tensor forward(Inputs in, Saved& saved) const override {
    const Spec spec = infer(in);
    const Tensor logits = contiguous_values(in[0]);
    const Device device = logits.device();
    const Tensor targets = contiguous_values(cast_values(in[1], DType::i64));
    const std::int64_t rows = targets.numel();
    check(logits.size(-1) > 0 || rows == 0, name(), ": logits must have at least one class, got ", logits.shape());
    const Tensor losses = empty({targets.shape(), spec.dtype}, device);
    const Tensor lse = empty({{rows}, spec.dtype}, device);
    kernel::cross_entropy(as_rows(logits, logits.size(-1)), as_line(targets), as_line(losses), lse, kernel_options());
    saved.save(logits);
    saved.save(targets);
    saved.save(lse);
    if (options.reduction == Reduction::none) return losses;
    Tensor loss = empty({{1}, spec.dtype}, device);
    kernel::sum(as_line(losses), loss, 1.0, false);
    if (options.reduction == Reduction::mean) {
      const Tensor count = count_of(targets, options.ignore_index, spec.dtype);
      kernel::binary_forward<formulas::Div>(loss, count, loss);
      saved.save(count);
    }
    return alias(loss, {}, {}, 0);
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor logits = saved[0], targets = saved[1], lse = saved[2];
    const DType dtype = loss_dtype(logits);
    const Tensor dloss = contiguous_values(cast_values(dy, dtype));
    TensorView per_row = as_line(dloss);
    Tensor divided;
    if (options.reduction == Reduction::mean) {
      divided = empty({{1}, dtype}, logits.device());
      kernel::binary_forward<formulas::Div>(as_line(dloss), saved[3], divided);
      per_row = divided;
    }
    if (options.reduction != Reduction::none) {
      per_row.shape = {targets.numel()};
      per_row.strides = {0};
    }
    const Tensor dlogits = saved.place_for_gradient(0);
    kernel::cross_entropy_backward(as_rows(logits, logits.size(-1)), as_line(targets), lse, per_row,
                                   as_rows(dlogits, logits.size(-1)), kernel_options());
    out.put(0, dlogits);
  }
  Tensor reference(Inputs in) const override {
    const Spec spec = infer(in);
    const auto x = in[0].data<double>();
    const std::vector<std::int64_t> target = in[1].to_vector<std::int64_t>();
    const std::size_t classes = static_cast<std::size_t>(in[0].size(-1));
    std::vector<double> losses;
    double sum = 0, count = 0;
    for (std::size_t r = 0; r < target.size(); ++r) {
      double loss = 0;
      if (target[r] != options.ignore_index) {
        double largest = x[r * classes], partition = 0;
        for (std::size_t c = 0; c < classes; ++c) largest = std::max(largest, x[r * classes + c]);
        for (std::size_t c = 0; c < classes; ++c) partition += std::exp(x[r * classes + c] - largest);
        for (std::size_t c = 0; c < classes; ++c) {
          const double log_p = x[r * classes + c] - largest - std::log(partition);
          const double q = options.label_smoothing / static_cast<double>(classes) +
                           (static_cast<std::int64_t>(c) == target[r] ? 1 - options.label_smoothing : 0.0);
          loss -= q == 0 ? 0 : q * log_p;
        }
        count += 1;
      }
      losses.push_back(loss);
      sum += loss;
    }
    if (options.reduction == Reduction::none) return from_vector(losses, spec.shape);
    return scalar_tensor(options.reduction == Reduction::mean ? sum / count : sum, {.dtype = DType::f64});
  }
};

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& targets, CrossEntropyLoss options) {
  CrossEntropy op;
  op.options = options;
  return run(op, {logits, targets});
}

namespace families {
std::vector<OpPtr> loss_ops() { return {std::make_shared<CrossEntropy>()}; }
}  // namespace families

}  // namespace binade
