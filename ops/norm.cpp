// layer_norm and rms_norm over the last dims: y = (x - mean) / sqrt(var + eps) * weight + bias; rms_norm takes no mean
// and no bias. batch_norm and group_norm: ops/channel_norm.cpp.
#include <cmath>

#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
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

struct LayerNorm : Op {  // inputs x, weight, bias
  double eps = 1e-5;
  DType result = DType::f32;  // of an f32 x

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
  static std::int64_t row_length(Inputs in) { return in[1] ? in[1].numel() : in[2] ? in[2].numel() : in[0].size(-1); }
  static TensorView line_or_absent(const Tensor& x) { return x ? as_line(x) : TensorView{}; }
  static Tensor contiguous_or_absent(const Tensor& x) { return x ? contiguous_values(x) : x; }

  Tensor forward(Inputs in, Saved& saved) const override {
    Tensor y = empty(infer(in), in[0].device());
    const Tensor x = contiguous_values(in[0]);
    const Tensor weight = contiguous_or_absent(in[1]), bias = contiguous_or_absent(in[2]);
    const std::int64_t n = row_length(in);
    const Spec statistics{{n == 0 ? 0 : x.numel() / n}, statistics_dtype(x)};
    const Tensor mean = empty(statistics, x.device()), rstd = empty(statistics, x.device());
    kernel::layer_norm(as_rows(x, n), line_or_absent(weight), line_or_absent(bias), as_rows(y, n), mean, rstd, eps);
    saved.save(x);
    saved.save(weight);
    saved.save(mean);
    saved.save(rstd);
    saved.save(bias);  // for its shape
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor x = saved[0], weight = saved[1], mean = saved[2], rstd = saved[3];
    const Tensor grad = contiguous_values(dy);
    const std::int64_t rows = mean.numel(), n = row_length(std::vector{x, weight, saved[4]});
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
    const std::size_t n = static_cast<std::size_t>(row_length(in));
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
  double eps = 1e-6;

  std::string_view name() const override { return "rms_norm"; }
  Precision precision() const override { return Precision::full; }
  Spec infer(Inputs in) const override {
    check_float(name(), "x", in[0]);
    check(in[0].dim() >= 1, name(), ": x must have at least one dimension");
    check(eps >= 0, name(), ": eps must not be negative, got ", eps);
    if (in[1]) check_last_dims(name(), "weight", in[0], in[1]);
    return in[0].spec();
  }
  static std::int64_t row_length(Inputs in) { return in[1] ? in[1].numel() : in[0].size(-1); }

  Tensor forward(Inputs in, Saved& saved) const override {
    Tensor y = empty(infer(in), in[0].device());
    const Tensor x = contiguous_values(in[0]);
    const Tensor weight = in[1] ? contiguous_values(in[1]) : Tensor{};
    const std::int64_t n = row_length(in);
    const Tensor rstd = empty({{n == 0 ? 0 : x.numel() / n}, statistics_dtype(x)}, x.device());
    kernel::rms_norm(as_rows(x, n), weight ? as_line(weight) : TensorView{}, as_rows(y, n), rstd, eps);
    saved.save(x);
    saved.save(weight);
    saved.save(rstd);
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor x = saved[0], weight = saved[1], rstd = saved[2], grad = contiguous_values(dy);
    const std::int64_t n = weight ? weight.numel() : x.size(-1), rows = rstd.numel();
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
    const std::size_t n = static_cast<std::size_t>(row_length(in));
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

namespace families {
std::vector<OpPtr> norm_ops() { return {std::make_shared<LayerNorm>(), std::make_shared<RmsNorm>()}; }
}  // namespace families

}  // namespace binade
