// layer_norm and rms_norm over the last dims: y = (x - mean) / sqrt(var + eps) * weight + bias; rms_norm takes no mean
// and no bias. add_layer_norm and add_rms_norm: of a sum, computed with it. batch_norm and group_norm:
// ops/channel_norm.cpp.
#include <cmath>
#include <optional>
#include <utility>

#include "binade/core/autograd/autocast_state.h"
#include "binade/core/autograd/module_path.h"
#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/broadcasting.h"
#include "binade/ops/formulas.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"
#include "binade/ops/view_as.h"

namespace binade {
namespace {

DType statistics_dtype(const Tensor& x) { return x.dtype() == DType::f64 ? DType::f64 : DType::f32; }

void check_last_dims(std::string_view op, std::string_view what, const Tensor& x, const Tensor& weight) {
  check_float(op, what, weight);
  bool ok = weight.dim() >= 1 && weight.dim() <= x.dim();
  for (int i = 1; ok && i <= weight.dim(); ++i) ok = weight.size(-i) == x.size(-i);
  check(ok, op, ": ", what, " must have the shape of x's last dimensions: ", what, " is ", weight.shape(), ", x is ",
        x.shape());
}

std::int64_t row_length(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return weight ? weight.numel() : bias ? bias.numel() : x.size(-1);
}
TensorView line_or_absent(const Tensor& x) { return x ? as_line(x) : TensorView{}; }
Tensor contiguous_or_absent(const Tensor& x) { return x ? contiguous_values(x) : x; }

struct Normed {
  Tensor y, mean, rstd;  // no mean where the norm is not centred
  Normed() = default;
  Normed(const Spec& spec, const Tensor& x, std::int64_t n, bool centred) : y(empty(spec, x.device())) {
    const Spec statistics{{n == 0 ? 0 : x.numel() / n}, statistics_dtype(x)};
    if (centred) mean = empty(statistics, x.device());
    rstd = empty(statistics, x.device());
  }
};

// A norm whose input is a sum, computed by the kernel that computes the sum. Both stay operations of their own: the
// sum's forward leaves here what the norm's forward takes. Run again, as observers do, either works by itself.
class NormAhead {
 public:
  NormAhead(OpPtr norm, Tensor weight, Tensor bias, double eps, bool centred)
      : norm_(std::move(norm)), weight_(std::move(weight)), bias_(std::move(bias)), eps_(eps), centred_(centred) {}

  // The sum and its norm; false, and nothing done, where that was done before or is no case for one kernel.
  bool compute(const Tensor& residual, const Tensor& branch, const Tensor& sum, double dropout, PhiloxState state) {
    if (!std::exchange(wanted_, false)) return false;
    const Spec spec = norm_->infer(std::vector{sum, weight_, bias_});
    const bool contiguous = residual.is_contiguous() && branch.is_contiguous();
    if (sum.numel() == 0 || !contiguous || changes_at_the_door(sum)) return false;
    for (const Tensor* x : {&weight_, &bias_})
      if (*x && (changes_at_the_door(*x) || !(x->device() == sum.device()))) return false;
    const std::int64_t n = row_length(sum, weight_, bias_);
    const Tensor weight = contiguous_or_absent(weight_), bias = contiguous_or_absent(bias_);
    made_ = Normed(spec, sum, n, centred_);
    kernel::add_norm(as_rows(residual, n), as_rows(branch, n), line_or_absent(weight), line_or_absent(bias),
                     as_rows(sum, n), as_rows(made_.y, n), line_or_absent(made_.mean), made_.rstd,
                     {.eps = eps_, .dropout = dropout, .state = state});
    sum_ = sum.impl();
    version_ = sum_->storage->version;
    return true;
  }

  // What was computed of x; nothing if that was another tensor, or changed since.
  Normed take(const Tensor& x) {
    wanted_ = false;
    weight_ = bias_ = {};
    const Normed made = std::exchange(made_, {});
    return std::exchange(sum_, nullptr) == x.impl() && version_ == x.impl()->storage->version ? made : Normed();
  }

 private:
  static bool changes_at_the_door(const Tensor& x) {  // autocast gives the norm its value in f32
    return autocast_state().on && (x.dtype() == DType::f16 || x.dtype() == DType::bf16);
  }

  OpPtr norm_;
  Tensor weight_, bias_;
  double eps_;
  bool centred_, wanted_ = true;
  Normed made_;
  const TensorImpl* sum_ = nullptr;
  std::uint64_t version_ = 0;
};

struct LayerNorm : Op {  // inputs x, weight, bias
  static constexpr bool centred = true;
  double eps = 1e-5;
  DType result = DType::f32;  // of an f32 x
  std::shared_ptr<NormAhead> ahead;

  std::string_view name() const override { return "layer_norm"; }
  Precision precision() const override { return Precision::full; }
  Spec infer(Inputs in) const override {
    check_float(name(), "x", in[0]);
    check(in[0].dim() >= 1, name(), ": x must have at least one dimension");
    check(eps >= 0, name(), ": eps must not be negative, got ", eps);
    if (in[1]) check_last_dims(name(), "weight", in[0], in[1]);
    if (in[2]) check_last_dims(name(), "bias", in[0], in[2]);
    check(!in[1] || !in[2] || in[1].shape() == in[2].shape(), name(), ": weight and bias must have one shape");
    check(is_floating(result), name(), ": the result's dtype must be floating, got ", result);
    return {in[0].shape(), in[0].dtype() == DType::f32 ? result : in[0].dtype()};
  }

  Tensor forward(Inputs in, Saved& saved) const override {
    const Spec spec = infer(in);
    const Tensor x = contiguous_values(in[0]);
    const Tensor weight = contiguous_or_absent(in[1]), bias = contiguous_or_absent(in[2]);
    Normed normed = ahead ? ahead->take(in[0]) : Normed();
    if (!normed.y) {
      const std::int64_t n = row_length(x, weight, bias);
      normed = Normed(spec, x, n, centred);
      kernel::layer_norm(as_rows(x, n), line_or_absent(weight), line_or_absent(bias), as_rows(normed.y, n), normed.mean,
                         normed.rstd, eps);
    }
    saved.save(x);
    saved.save(weight);
    saved.save(normed.mean);
    saved.save(normed.rstd);
    saved.save(bias);  // for its shape
    return normed.y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor x = saved[0], weight = saved[1], mean = saved[2], rstd = saved[3];
    const Tensor grad = contiguous_values(dy);
    const std::int64_t rows = mean.numel(), n = row_length(x, weight, saved[4]);
    const auto line = [&](const Tensor& t) { return t ? view_as(t, {n}) : TensorView{}; };
    Gradients::Target dx{{}, false}, dweight{{}, false}, dbias{{}, false};
    if (out.wanted(0)) dx = out.sum_target(0);
    if (out.wanted(1)) dweight = out.target(1);
    if (out.wanted(2)) dbias = out.target(2);
    // one call; a second where only one of the two is to be accumulated
    const bool together = !dweight.tensor || !dbias.tensor || dweight.accumulate == dbias.accumulate;
    const auto call = [&](const Tensor& to_x, const Tensor& to_weight, const Tensor& to_bias, bool accumulate) {
      if (!to_x && !to_weight && !to_bias) return;
      kernel::layer_norm_backward(view_as(x, {rows, n}), line(weight), mean, rstd, view_as(grad, {rows, n}),
                                  to_x ? view_as(to_x, {rows, n}) : TensorView{}, line(to_weight), line(to_bias),
                                  {.x = dx.accumulate, .parameters = accumulate});
    };
    call(dx.tensor, dweight.tensor, together ? dbias.tensor : Tensor{},
         dweight.tensor ? dweight.accumulate : dbias.accumulate);
    if (!together) call({}, {}, dbias.tensor, dbias.accumulate);
  }
  Tensor reference(Inputs in) const override {
    Tensor y = zeros(in[0].shape(), {.dtype = DType::f64});
    const auto x = in[0].data<double>();
    const auto to = y.data<double>();
    const std::size_t n = static_cast<std::size_t>(row_length(in[0], in[1], in[2]));
    for (std::size_t start = 0; start < x.size(); start += n) {
      double mean = 0, variance = 0;
      for (std::size_t i = 0; i < n; ++i) mean += x[start + i] / static_cast<double>(n);
      for (std::size_t i = 0; i < n; ++i) variance += std::pow(x[start + i] - mean, 2) / static_cast<double>(n);
      for (std::size_t i = 0; i < n; ++i) {
        const double scale = in[1] ? in[1].data<double>()[i] : 1, shift = in[2] ? in[2].data<double>()[i] : 0;
        to[start + i] = (x[start + i] - mean) / std::sqrt(variance + eps) * scale + shift;
      }
    }
    return y;
  }
};

struct RmsNorm : Op {  // inputs x, weight
  static constexpr bool centred = false;
  double eps = 1e-6;
  std::shared_ptr<NormAhead> ahead;

  std::string_view name() const override { return "rms_norm"; }
  Precision precision() const override { return Precision::full; }
  Spec infer(Inputs in) const override {
    check_float(name(), "x", in[0]);
    check(in[0].dim() >= 1, name(), ": x must have at least one dimension");
    check(eps >= 0, name(), ": eps must not be negative, got ", eps);
    if (in[1]) check_last_dims(name(), "weight", in[0], in[1]);
    return in[0].spec();
  }

  Tensor forward(Inputs in, Saved& saved) const override {
    const Spec spec = infer(in);
    const Tensor x = contiguous_values(in[0]), weight = contiguous_or_absent(in[1]);
    Normed normed = ahead ? ahead->take(in[0]) : Normed();
    if (!normed.y) {
      const std::int64_t n = row_length(x, weight, {});
      normed = Normed(spec, x, n, centred);
      kernel::rms_norm(as_rows(x, n), line_or_absent(weight), as_rows(normed.y, n), normed.rstd, eps);
    }
    saved.save(x);
    saved.save(weight);
    saved.save(normed.rstd);
    return normed.y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor x = saved[0], weight = saved[1], rstd = saved[2], grad = contiguous_values(dy);
    const std::int64_t n = row_length(x, weight, {}), rows = rstd.numel();
    Gradients::Target dx{{}, false}, dweight{{}, false};
    if (out.wanted(0)) dx = out.sum_target(0);
    if (out.wanted(1)) dweight = out.target(1);
    if (dx.tensor || dweight.tensor) {
      kernel::rms_norm_backward(view_as(x, {rows, n}), weight ? as_line(weight) : TensorView{}, rstd,
                                view_as(grad, {rows, n}), dx.tensor ? view_as(dx.tensor, {rows, n}) : TensorView{},
                                dweight.tensor ? as_line(dweight.tensor) : TensorView{},
                                {.x = dx.accumulate, .parameters = dweight.accumulate});
    }
  }
  Tensor reference(Inputs in) const override {
    Tensor y = zeros(in[0].shape(), {.dtype = DType::f64});
    const auto x = in[0].data<double>();
    const auto to = y.data<double>();
    const std::size_t n = static_cast<std::size_t>(row_length(in[0], in[1], {}));
    for (std::size_t start = 0; start < x.size(); start += n) {
      double mean_square = 0;
      for (std::size_t i = 0; i < n; ++i) mean_square += x[start + i] * x[start + i] / static_cast<double>(n);
      for (std::size_t i = 0; i < n; ++i) {
        to[start + i] = x[start + i] / std::sqrt(mean_square + eps) * (in[1] ? in[1].data<double>()[i] : 1);
      }
    }
    return y;
  }
};

void check_summands(std::string_view op, const Tensor& residual, const Tensor& branch) {
  check_float(op, "residual", residual);
  check_float(op, "branch", branch);
  check(residual.shape() == branch.shape(), op, ": shapes differ: residual is ", residual.shape(), ", branch is ",
        branch.shape());
}

// residual + dropout(branch), before a norm. Nothing but the draw is kept of the dropout, as in ops/dropout.cpp.
struct DropoutAdd final : Op {  // inputs residual, branch
  double p = 0.5;
  PhiloxState state;
  std::shared_ptr<NormAhead> ahead;

  std::string_view name() const override { return p > 0 ? "dropout_add" : "add"; }
  Precision precision() const override { return Precision::widest; }
  bool widens(std::size_t) const override { return true; }

  Spec infer(Inputs in) const override {
    check_summands(name(), in[0], in[1]);
    return {in[0].shape(), promote_types(in[0].dtype(), in[1].dtype())};
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Tensor &residual = in[0], &branch = in[1];
    const Tensor y = empty(infer(in), residual.device());
    if (!ahead || !ahead->compute(residual, branch, y, p, state)) {
      const Tensor dropped = p > 0 ? empty(branch.spec(), branch.device()) : branch;
      if (p > 0) kernel::dropout(branch, dropped, state, p);
      kernel::binary_forward<formulas::Add>(residual, dropped, y);
    }
    if (p > 0) saved.save(shape_only(branch));  // for its dtype
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (out.wanted(0)) out.put(0, dy);
    if (!out.wanted(1)) return;
    if (p == 0) return out.put(1, dy);
    const Tensor of_dropped = cast_values(dy, saved[0].dtype()), dbranch = empty(of_dropped.spec(), dy.device());
    kernel::dropout(of_dropped, dbranch, state, p);
    out.put(1, dbranch);
  }
  Tensor reference(Inputs in) const override {
    const Tensor y = empty(in[0].shape(), {.dtype = DType::f64});
    const auto residual = in[0].data<double>(), branch = in[1].data<double>(), result = y.data<double>();
    for (std::size_t i = 0; i < result.size(); ++i) {
      const bool kept = p == 0 || static_cast<double>(uniform_from_word(philox_word(state, i))) >= p;
      result[i] = residual[i] + (kept ? branch[i] / (1 - p) : 0);
    }
    return y;
  }
};

template <class Norm>
NormedSum run_both(std::string_view caller, const Tensor& residual, const Tensor& branch, const Tensor& weight,
                   const Tensor& bias, Norm norm, double dropout, const PathName* norm_module) {
  check_summands(caller, residual, branch);
  check(dropout >= 0 && dropout <= 1, caller, ": expected a probability between 0 and 1, got ", dropout);
  norm.ahead = std::make_shared<NormAhead>(std::make_shared<Norm>(norm), weight, bias, norm.eps, Norm::centred);
  DropoutAdd add;
  add.p = dropout;
  if (dropout > 0) add.state = next_draw();
  add.ahead = norm.ahead;
  const Tensor sum = run(add, {residual, branch});
  std::optional<ModuleScope> inside;
  if (norm_module) inside.emplace(norm_module);
  Tensors of_norm{sum, weight};
  if (Norm::centred) of_norm.push_back(bias);
  return {sum, run(norm, of_norm)};
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, DType dtype) {
  LayerNorm op;
  op.eps = eps;
  op.result = dtype;
  return run(op, {x, weight, bias});
}
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  RmsNorm op;
  op.eps = eps;
  return run(op, {x, weight});
}

NormedSum add_layer_norm(const Tensor& residual, const Tensor& branch, const Tensor& weight, const Tensor& bias,
                         AddLayerNormOptions options) {
  LayerNorm norm;
  norm.eps = options.eps;
  norm.result = options.dtype;
  return run_both("add_layer_norm", residual, branch, weight, bias, norm, options.dropout, options.norm_module);
}
NormedSum add_rms_norm(const Tensor& residual, const Tensor& branch, const Tensor& weight, AddRmsNormOptions options) {
  RmsNorm norm;
  norm.eps = options.eps;
  return run_both("add_rms_norm", residual, branch, weight, {}, norm, options.dropout, options.norm_module);
}

namespace families {
std::vector<OpPtr> norm_ops() {
  return {std::make_shared<LayerNorm>(), std::make_shared<RmsNorm>(), std::make_shared<DropoutAdd>()};
}
}  // namespace families

}  // namespace binade
