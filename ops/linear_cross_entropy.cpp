// linear_cross_entropy: cross_entropy(linear(x, weight, bias), targets), by chunks of tokens, so that the logits
// [tokens, classes] never exist as a whole (as Liger Kernel's fused linear cross-entropy does; Hsu et al. 2024).
//
// A mean or a sum has one dy for all tokens, and every gradient is a multiple of it. So a forward that is recorded
// goes on at once: it overwrites a chunk's logits by their gradient for dy = 1 and takes the chunk's share of dx,
// dweight and dbias from it; backward multiplies three sums by dy. Computing the logits again in backward instead would
// need no sum of the weight's size, but a fourth product of the classifier's size, a tenth of a GPT-2 step. `none` has
// a dy per token, which forward cannot know: there backward does compute them again.
#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/linear_parts.h"
#include "binade/ops/loss_parts.h"

namespace binade {
namespace {

enum Input : std::size_t { x_input, weight_input, targets_input, bias_input };

struct Operands {
  Tensor x, weight, targets, bias;  // x [.., in] contiguous, weight [classes, in], targets i64 [..] contiguous
  std::int64_t tokens() const { return targets.numel(); }
  std::int64_t classes() const { return weight.size(0); }
  DType sums() const { return x.dtype() == DType::f64 ? DType::f64 : DType::f32; }
};
struct Sums {  // where gradients are written; those that nobody wants are undefined
  Gradients::Target dx, dweight, dbias;
  bool room = false;  // for the padding's gradient, behind dweight
  explicit operator bool() const { return dx.tensor || dweight.tensor || dbias.tensor; }
};

TensorView between(const TensorView& x, std::int64_t begin, std::int64_t end) {  // along the first dimension
  TensorView y = x;
  y.data += begin * x.stride(0) * size_of(x.dtype);
  y.shape[0] = end - begin;
  return y;
}
TensorView rows_of(const Tensor& x, std::int64_t count) { return between(x, 0, count); }
TensorView repeated(const Tensor& one, std::int64_t count) { return reshaped(one, {count}, {0}); }

// |softmax - target| <= 1, and a 16-bit product wants it in 16 bits. Gradients this small are what the loss scale is
// for, but forward does not know it. In f16 they are multiplied by 2^15 instead, which cannot overflow, and the f32
// sums divided by it, which is exact: nothing is lost that a loss scale / tokens of up to 2^15 would keep.
double logit_gradient_scale(DType dtype) { return dtype == DType::f16 ? 0x1p15 : 1; }

// Tensor Cores take products whose sizes are multiples of 16 bytes. GPT-2's 50,257 classes in 16 bits leave them to
// kernels that move single elements: its classifier's three products took 15.3 ms on an H100 (8192 tokens), 2.5 ms with
// 50,264. So on a GPU the classes are filled up: weights and biases of zeros, whose logits are 0, as are their gradients,
// since the loss does not see them.
std::int64_t padded_classes(std::int64_t classes, DType dtype, Device device) {
  const std::int64_t fill = 16 / size_of(dtype);
  return device.type == DeviceType::cpu ? classes : (classes + fill - 1) / fill * fill;
}
Tensor padded(const Tensor& x, std::int64_t rows) {
  if (!x || x.size(0) == rows) return x;
  Shape shape = x.shape();
  shape[0] = rows;
  const Tensor whole = empty({shape, x.dtype()}, x.device());
  kernel::copy(x, rows_of(whole, x.size(0)));
  kernel::fill(between(whole, x.size(0), rows), 0);
  return whole;
}

struct LinearCrossEntropy : Op {
  LinearCrossEntropyLoss options;                                  // without its bias
  std::array<bool, 4> differentiated = {true, true, false, true};  // inputs that require gradients

  std::string_view name() const override { return "linear_cross_entropy"; }
  Precision precision() const override { return Precision::low_input; }
  Spec infer(Inputs in) const override {
    infer_linear(name(), in[x_input], in[weight_input], in[bias_input]);
    const Shape tokens = check_targets(name(), "x", in[x_input], in[targets_input]);
    check_smoothing(name(), options.label_smoothing);
    check(options.batch_chunk_size > 0, name(), ": batch_chunk_size must be positive, got ", options.batch_chunk_size);
    check(in[weight_input].size(0) > 0 || tokens.numel() == 0, name(), ": weight must have at least one class, got ",
          in[weight_input].shape());
    const DType dtype = in[x_input].dtype() == DType::f64 ? DType::f64 : DType::f32;
    return {options.reduction == Reduction::none ? tokens : Shape{}, dtype};
  }

  Tensor forward(Inputs in, Saved& saved) const override {
    const Spec spec = infer(in);
    const Operands o{contiguous_values(in[x_input]), in[weight_input],
                     contiguous_values(cast_values(in[targets_input], DType::i64)), in[bias_input]};
    const Device device = o.x.device();
    const Tensor losses = empty({o.targets.shape(), spec.dtype}, device);
    if (options.reduction == Reduction::none) {
      by_chunks(o, losses, {}, {});
      for (const Tensor& x : {o.x, o.weight, o.targets, o.bias}) saved.save(x);
      return losses;
    }
    const Tensor scale = empty({{1}, spec.dtype}, device), loss = empty({{1}, spec.dtype}, device);
    kernel::fill(scale, logit_gradient_scale(o.x.dtype()));
    const Sums sums = grad_enabled() ? new_sums(o) : Sums{};
    by_chunks(o, losses, repeated(scale, o.tokens()), sums);
    kernel::sum(as_line(losses), loss, 1.0, false);
    if (options.reduction == Reduction::mean) {
      const Tensor count = count_of(o.targets, options.ignore_index, spec.dtype);
      kernel::binary_forward<formulas::Div>(loss, count, loss);
      // From here on: what the sums are divided by. Where every target is ignored they are 0 and stay 0.
      const Tensor scaled = empty(count.spec(), device);
      kernel::binary_forward<formulas::Mul>(count, scale, scaled);
      kernel::binary_forward<formulas::Maximum>(scaled, scale, scale);
    }
    for (const Tensor& x : {scale, sums.dx.tensor, sums.dweight.tensor, sums.dbias.tensor}) saved.save(x);
    return alias(loss, {}, {}, 0);
  }

  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (options.reduction == Reduction::none) return compute_again(saved, dy, out);
    const Tensor divisor = saved[0];
    const Tensor factor = empty(divisor.spec(), divisor.device());
    kernel::binary_forward<formulas::Div>(as_line(contiguous_values(dy)), divisor, factor);
    const std::size_t inputs[] = {x_input, weight_input, bias_input};
    for (std::size_t i = 0; i < 3; ++i) {
      if (!out.wanted(inputs[i])) continue;
      const Tensor sums = saved[i + 1];
      const auto [target, accumulate] = out.target(inputs[i]);
      const Tensor place = accumulate ? saved.place_for_gradient(i + 1) : target;
      kernel::binary_forward<formulas::Mul>(as_line(sums), repeated(factor, sums.numel()), as_line(place));
      if (accumulate) kernel::add_into(place, target, 1);
    }
  }

  Tensor reference(Inputs in) const override {
    const Spec spec = infer(in);
    const std::vector<double> x = in[x_input].to_vector<double>(), weight = in[weight_input].to_vector<double>();
    const std::vector<std::int64_t> targets = in[targets_input].to_vector<std::int64_t>();
    const auto classes = static_cast<std::size_t>(in[weight_input].size(0)),
               n = static_cast<std::size_t>(in[weight_input].size(1));
    std::vector<double> losses(targets.size(), 0.0), logits(classes);
    double sum = 0, count = 0;
    for (std::size_t t = 0; t < targets.size(); ++t) {
      if (targets[t] == options.ignore_index) continue;
      for (std::size_t c = 0; c < classes; ++c) {
        logits[c] = in[bias_input] ? in[bias_input].at(static_cast<std::int64_t>(c)) : 0.0;
        for (std::size_t k = 0; k < n; ++k) logits[c] += x[t * n + k] * weight[c * n + k];
      }
      const double right = logits.at(static_cast<std::size_t>(targets[t]));
      const double largest = *std::max_element(logits.begin(), logits.end());
      double partition = 0, spread = 0;  // of exp(logit - largest); mean distance of the logits from the right one
      for (const double z : logits) {
        partition += std::exp(z - largest);
        spread += (right - z) / static_cast<double>(classes);
      }
      losses[t] = largest - right + std::log(partition) + options.label_smoothing * spread;
      sum += losses[t];
      count += 1;
    }
    if (options.reduction == Reduction::none) return from_vector(losses, spec.shape);
    return scalar_tensor(options.reduction == Reduction::mean ? sum / count : sum, {.dtype = DType::f64});
  }

 private:
  // losses [tokens]; where sums are wanted, they are those of dloss [tokens] times the gradients. The cuts depend on
  // the number of tokens alone, and no chunk is much smaller than the others: more than half of batch_chunk_size.
  void by_chunks(const Operands& o, const Tensor& losses, const TensorView& dloss, const Sums& sums) const {
    const std::int64_t tokens = o.tokens(), classes = o.classes(), in = o.weight.size(1);
    const std::int64_t all = padded_classes(classes, o.x.dtype(), o.x.device());
    const Tensor weight = padded(o.weight, all), bias = padded(o.bias, all);
    const std::int64_t chunks =
        std::max<std::int64_t>(1, (tokens + options.batch_chunk_size - 1) / options.batch_chunk_size);
    const std::int64_t most = (tokens + chunks - 1) / chunks;
    const Device device = o.x.device();
    const Tensor logits = empty({{most, all}, o.x.dtype()}, device), lse = empty({{most}, losses.dtype()}, device);
    const kernel::CrossEntropyOptions kernel_options{options.ignore_index, options.label_smoothing};
    for (std::int64_t i = 0; i < chunks; ++i) {
      const std::int64_t begin = i * tokens / chunks, end = (i + 1) * tokens / chunks;
      const TensorView x = between(matrix_rows(o.x, in), begin, end), targets = between(as_line(o.targets), begin, end);
      const TensorView z_all = rows_of(logits, end - begin), z_lse = rows_of(lse, end - begin);
      TensorView z = z_all;  // without the padding
      z.shape[1] = classes;
      kernel::matmul(x, transposed(weight), bias, z_all, {});
      kernel::cross_entropy(z, targets, between(as_line(losses), begin, end), z_lse, kernel_options);
      if (!sums) continue;
      kernel::cross_entropy_backward(z, targets, z_lse, between(dloss, begin, end), z, kernel_options);
      if (const auto& [dx, accumulate] = sums.dx; dx)
        kernel::matmul(z_all, weight, {}, between(matrix_rows(dx, in), begin, end), {.accumulate = accumulate});
      if (const auto& [dweight, accumulate] = sums.dweight; dweight) {
        TensorView to = dweight;
        if (sums.room) to.shape[0] = all;
        kernel::matmul(transposed(sums.room ? z_all : z), x, {}, to, {.accumulate = accumulate || i > 0});
      }
      if (const auto& [dbias, accumulate] = sums.dbias; dbias) sum_linear_bias({dbias, accumulate || i > 0}, z);
    }
  }

  Sums new_sums(const Operands& o) const {
    const MemoryTagScope tag(MemoryTag::gradients);
    const auto wanted = [&](Input input, const Tensor& x, std::int64_t rows) {
      if (!x || !differentiated[input]) return Gradients::Target{};
      Shape shape = x.shape();
      shape[0] = rows;
      const Tensor whole = empty({shape, o.sums()}, x.device());
      return Gradients::Target{rows == x.size(0) ? whole : alias(whole, x.shape(), contiguous_strides(x.shape()), 0), false};
    };
    return {wanted(x_input, o.x, o.x.size(0)),
            wanted(weight_input, o.weight, padded_classes(o.classes(), o.x.dtype(), o.x.device())),
            wanted(bias_input, o.bias, o.classes()), true};
  }

  void compute_again(const Saved& saved, const Tensor& dy, Gradients& out) const {
    const Operands o{saved[0], saved[1], saved[2], saved[3]};
    const auto target = [&](Input input) { return out.wanted(input) ? out.target(input) : Gradients::Target{}; };
    const Gradients::Target dweight = target(weight_input), dbias = target(bias_input);
    // A sum over chunks is rounded to 16 bits once, at its end.
    const auto in_sums = [&](const Gradients::Target& t) {
      const bool narrow = t.tensor && t.tensor.dtype() != o.sums();
      return narrow ? Gradients::Target{empty({t.tensor.shape(), o.sums()}, o.x.device()), false} : t;
    };
    const Sums sums{target(x_input), in_sums(dweight), in_sums(dbias)};
    by_chunks(o, empty({o.targets.shape(), o.sums()}, o.x.device()), as_line(contiguous_values(dy)), sums);
    if (dweight.tensor && !dweight.tensor.is_same(sums.dweight.tensor))
      kernel::copy(sums.dweight.tensor, dweight.tensor);
    if (dbias.tensor && !dbias.tensor.is_same(sums.dbias.tensor)) kernel::copy(sums.dbias.tensor, dbias.tensor);
  }
};

}  // namespace

Tensor linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& targets,
                            LinearCrossEntropyLoss options) {
  LinearCrossEntropy op;
  const Tensors inputs = {x, weight, targets, std::exchange(options.linear_bias, {})};
  op.options = options;
  for (std::size_t i = 0; i < inputs.size(); ++i) op.differentiated[i] = inputs[i] && inputs[i].requires_grad();
  return run(std::move(op), inputs);
}

namespace families {
std::vector<OpPtr> linear_cross_entropy_ops() { return {std::make_shared<LinearCrossEntropy>()}; }
}  // namespace families

}  // namespace binade
