// Reductions: sum, mean, max, min, var, norm, logsumexp, argmax, argmin over any set of dimensions.
#include <cmath>

#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/broadcasting.h"
#include "binade/ops/formulas.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"

namespace binade {

namespace {

using detail::broadcast_view;

// What all reductions share: which dimensions go, and the shapes that follow.
struct Reduce : Op {
  Dims dims;  // empty: all
  bool keepdim = false;

  Reduce() = default;
  Reduce(Dims d, ReduceOptions options) : dims(std::move(d)), keepdim(options.keepdim) {}

  bool reduces(int d, const Shape& shape) const {
    if (dims.empty()) return true;
    for (const std::int64_t given : dims)
      if (wrap_dim(given, shape.size(), name()) == d) return true;
    return false;
  }
  Shape kept_shape(const Shape& shape) const {  // size 1 where reduced
    for (std::size_t i = 0; i < dims.size(); ++i) {
      const int d = wrap_dim(dims[i], shape.size(), name());
      for (std::size_t j = 0; j < i; ++j)
        check(wrap_dim(dims[j], shape.size(), name()) != d, name(), ": dim ", d, " is given twice");
    }
    Shape kept = shape;
    for (int d = 0; d < shape.size(); ++d)
      if (reduces(d, shape)) kept[d] = 1;
    return kept;
  }
  Shape result_shape(const Shape& shape) const {
    Shape result = kept_shape(shape);
    for (int d = shape.size() - 1; d >= 0 && !keepdim; --d)
      if (reduces(d, shape)) result.erase(d);
    return result;
  }
  std::int64_t count(const Shape& shape) const {  // elements behind one result
    std::int64_t n = 1;
    for (int d = 0; d < shape.size(); ++d)
      if (reduces(d, shape)) n *= shape[d];
    return n;
  }
  // A result, or its gradient, with the dimensions it lost back as size 1.
  TensorView kept_view(const Tensor& y, const Shape& x_shape) const {
    if (y.dim() == x_shape.size()) return y;
    TensorView view = y;
    view.shape = view.strides = kept_shape(x_shape);
    for (int d = 0, own = 0; d < x_shape.size(); ++d) view.strides[d] = reduces(d, x_shape) ? 0 : y.strides()[own++];
    return view;
  }
  TensorView repeated(const Tensor& y, const Shape& x_shape) const {
    return broadcast_view(kept_view(y, x_shape), x_shape);
  }
  void check_not_empty(const Tensor& x) const {
    check(count(x.shape()) > 0, name(), ": no elements to reduce in shape ", x.shape());
  }

  Spec infer(Inputs in) const override {
    check_float(name(), "x", in[0]);
    return {result_shape(in[0].shape()), in[0].dtype()};
  }
  // The plain meaning: what one result is, given the values behind it.
  virtual double of_values(const std::vector<double>& values) const = 0;
  Tensor reference(Inputs in) const override {
    const Shape& shape = in[0].shape();
    const Shape kept = kept_shape(shape);
    std::vector<std::vector<double>> groups(static_cast<std::size_t>(kept.numel()));
    const std::vector<double> x = in[0].to_vector<double>();
    for (std::size_t i = 0; i < x.size(); ++i) {
      std::int64_t rest = static_cast<std::int64_t>(i), group = 0, step = 1;
      for (int d = shape.size() - 1; d >= 0; --d) {
        group += kept[d] == 1 ? 0 : rest % shape[d] * step;
        step *= kept[d];
        rest /= shape[d];
      }
      groups[static_cast<std::size_t>(group)].push_back(x[i]);
    }
    Tensor y = empty(result_shape(shape), {.dtype = DType::f64});
    const auto result = y.data<double>();
    for (std::size_t i = 0; i < result.size(); ++i) result[i] = of_values(groups[i]);
    return y;
  }
};

// f32 for 16-bit types: what is saved for backward, or summed on the way there, is not rounded to 16 bits.
DType wide(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// dy * factor, small, in the wide type.
Tensor scaled(const Tensor& dy, double factor) {
  Tensor y = zeros(dy.shape(), {.dtype = wide(dy.dtype()), .device = dy.device()});
  kernel::add_into(dy, y, factor);
  return y;
}

template <bool mean>
struct Sum final : Reduce {
  using Reduce::Reduce;
  std::string_view name() const override { return mean ? "mean" : "sum"; }
  Precision precision() const override { return Precision::full_output; }
  Spec infer(Inputs in) const override {
    check_defined(name(), "x", in[0]);
    if (mean || is_floating(in[0].dtype())) return Reduce::infer(in);
    return {result_shape(in[0].shape()), DType::i64};
  }
  double scale(const Shape& shape) const { return mean ? 1.0 / static_cast<double>(count(shape)) : 1.0; }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Spec spec = infer(in);
    const Shape& shape = in[0].shape();
    Tensor y = empty(spec, in[0].device());
    kernel::sum(in[0], kept_view(y, shape), scale(shape), false);
    saved.save(shape_only(in[0]));
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Spec x = saved[0].spec();
    Tensor dx = empty(x, dy.device());
    kernel::copy(repeated(mean ? scaled(dy, scale(x.shape)) : dy, x.shape), dx);
    out.put(0, dx);
  }
  double of_values(const std::vector<double>& values) const override {
    double total = 0;
    for (const double v : values) total += v;
    return mean ? total / static_cast<double>(values.size()) : total;
  }
};

template <bool largest>
struct Extreme final : Reduce {
  using Reduce::Reduce;
  std::string_view name() const override { return largest ? "max" : "min"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    check_defined(name(), "x", in[0]);
    const DType dtype = in[0].dtype();
    if (!is_integer(dtype)) check_float(name(), "x", in[0]);
    const Shape shape = result_shape(in[0].shape());
    if (shape.numel() > 0) check_not_empty(in[0]);
    return {shape, dtype};
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Spec spec = infer(in);
    Tensor y = empty(spec, in[0].device());
    (largest ? kernel::amax : kernel::amin)(in[0], kept_view(y, in[0].shape()));
    saved.save(in[0]);
    saved.save(y);
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor x = saved[0], y = saved[1];
    const Shape& shape = x.shape();
    Tensor chosen = empty(shape, {.dtype = DType::boolean, .device = x.device()});
    kernel::compare<formulas::Eq>(x, repeated(y, shape), chosen);
    Tensor ties = empty({y.shape(), wide(x.dtype())}, x.device()), share = empty_like(ties);
    kernel::sum(chosen, kept_view(ties, shape), 1, false);
    kernel::binary_forward<formulas::Div>(dy, ties, share);
    const Tensor zero = zeros({}, {.dtype = share.dtype(), .device = x.device()});
    Tensor dx = empty_like(x);
    kernel::where(chosen, repeated(share, shape), broadcast_view(zero, shape), dx);
    out.put(0, dx);
  }
  double of_values(const std::vector<double>& values) const override {
    double best = values.at(0);
    for (const double v : values) {
      if (std::isnan(v)) return v;
      if (largest ? v > best : v < best) best = v;
    }
    return best;
  }
};

struct Var final : Reduce {
  double correction = 1;
  Var() = default;
  Var(Dims d, double c, ReduceOptions options) : Reduce(std::move(d), options), correction(c) {}
  std::string_view name() const override { return "var"; }
  Precision precision() const override { return Precision::full; }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Shape& shape = in[0].shape();
    const Spec spec = infer(in);
    Tensor y = empty(spec, in[0].device());
    Tensor mean = empty({y.shape(), wide(y.dtype())}, y.device());
    kernel::var(in[0], kept_view(mean, shape), kept_view(y, shape), correction);
    saved.save(in[0]);
    saved.save(mean);
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor x = saved[0], mean = saved[1];
    const Shape& shape = x.shape();
    const double divisor = std::max(0.0, static_cast<double>(count(shape)) - correction);
    Tensor centred = empty({shape, mean.dtype()}, x.device()), dx = empty_like(x);
    kernel::binary_forward<formulas::Sub>(x, repeated(mean, shape), centred);
    kernel::binary_forward<formulas::Mul>(centred, repeated(scaled(dy, 2 / divisor), shape), dx);
    out.put(0, dx);
  }
  double of_values(const std::vector<double>& values) const override {
    const auto n = static_cast<double>(values.size());
    double mean = 0, total = 0;
    for (const double v : values) mean += v / n;
    for (const double v : values) total += (v - mean) * (v - mean);
    return n == 0 ? std::nan("") : total / std::max(0.0, n - correction);
  }
};

// Runs a kernel whose backward needs x and the result before it was rounded to x's dtype, and saves both.
Tensor forward_keeping_wide(const KernelSlot<void(TensorView, TensorView)>& reduce, const Reduce& op, Inputs in,
                            Saved& saved) {
  const Spec spec = op.infer(in);
  const Tensor exact = empty({spec.shape, wide(spec.dtype)}, in[0].device());
  reduce(in[0], op.kept_view(exact, in[0].shape()));
  saved.save(in[0]);
  saved.save(exact);
  return cast_values(exact, in[0].dtype());
}

struct Norm final : Reduce {
  using Reduce::Reduce;
  std::string_view name() const override { return "norm"; }
  Precision precision() const override { return Precision::full; }
  Tensor forward(Inputs in, Saved& saved) const override {
    return forward_keeping_wide(kernel::norm, *this, in, saved);
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor x = saved[0], y = saved[1];
    Tensor ratio = empty_like(y), dx = empty_like(x);
    kernel::binary_forward<formulas::Div>(dy, y, ratio);
    const Tensor zero = zeros({}, {.dtype = y.dtype(), .device = y.device()});
    Tensor at_zero = empty(y.shape(), {.dtype = DType::boolean, .device = y.device()});
    kernel::compare<formulas::Eq>(y, broadcast_view(zero, y.shape()), at_zero);  // there the gradient is 0
    kernel::where(at_zero, broadcast_view(zero, y.shape()), ratio, ratio);
    kernel::binary_forward<formulas::Mul>(x, repeated(ratio, x.shape()), dx);
    out.put(0, dx);
  }
  double of_values(const std::vector<double>& values) const override {
    double length = 0;
    for (const double v : values) length = std::hypot(length, v);
    return length;
  }
};

struct LogSumExp final : Reduce {
  using Reduce::Reduce;
  std::string_view name() const override { return "logsumexp"; }
  Precision precision() const override { return Precision::full; }
  Tensor forward(Inputs in, Saved& saved) const override {
    return forward_keeping_wide(kernel::logsumexp, *this, in, saved);
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor x = saved[0], y = saved[1];
    Tensor share = empty({x.shape(), y.dtype()}, x.device()), dx = empty_like(x);
    kernel::binary_forward<formulas::Sub>(x, repeated(y, x.shape()), share);
    kernel::unary_forward<formulas::Exp>(share, share, {});
    kernel::binary_forward<formulas::Mul>(share, repeated(dy, x.shape()), dx);
    out.put(0, dx);
  }
  double of_values(const std::vector<double>& values) const override {
    double running = -std::numeric_limits<double>::infinity();  // log(e^a + e^b), one value after the other
    for (const double v : values) {
      const double high = std::fmax(running, v), low = std::fmin(running, v);
      running = std::isinf(high) ? high : high + std::log1p(std::exp(low - high));
    }
    return running;
  }
};

template <bool largest>
struct ArgExtreme final : Reduce {
  using Reduce::Reduce;
  std::string_view name() const override { return largest ? "argmax" : "argmin"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    check_defined(name(), "x", in[0]);
    if (!is_integer(in[0].dtype())) check_float(name(), "x", in[0]);
    const Shape shape = result_shape(in[0].shape());
    if (shape.numel() > 0) check_not_empty(in[0]);
    return {shape, DType::i64};
  }
  Tensor forward(Inputs in, Saved&) const override {
    const Spec spec = infer(in);
    Tensor y = empty(spec, in[0].device());
    (largest ? kernel::argmax : kernel::argmin)(in[0], kept_view(y, in[0].shape()));
    return y;
  }
  void backward(const Saved&, const Tensor&, Gradients&) const override {}  // indices have no gradient
  double of_values(const std::vector<double>& values) const override {
    std::size_t best = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(values[i])) return static_cast<double>(i);
      if (largest ? values[i] > values[best] : values[i] < values[best]) best = i;
    }
    return static_cast<double>(best);
  }
};

Dims dims_of(std::optional<std::int64_t> dim) { return dim ? Dims{*dim} : Dims{}; }

}  // namespace

Tensor sum(const Tensor& x, const Dims& dims, ReduceOptions options) { return run(Sum<false>(dims, options), {x}); }
Tensor mean(const Tensor& x, const Dims& dims, ReduceOptions options) { return run(Sum<true>(dims, options), {x}); }
Tensor max(const Tensor& x, const Dims& dims, ReduceOptions options) { return run(Extreme<true>(dims, options), {x}); }
Tensor min(const Tensor& x, const Dims& dims, ReduceOptions options) { return run(Extreme<false>(dims, options), {x}); }
Tensor var(const Tensor& x, const Dims& dims, double correction, ReduceOptions options) {
  return run(Var(dims, correction, options), {x});
}
Tensor norm(const Tensor& x, const Dims& dims, ReduceOptions options) { return run(Norm(dims, options), {x}); }
Tensor logsumexp(const Tensor& x, const Dims& dims, ReduceOptions options) {
  return run(LogSumExp(dims, options), {x});
}
Tensor argmax(const Tensor& x, std::optional<std::int64_t> dim, ReduceOptions options) {
  return run(ArgExtreme<true>(dims_of(dim), options), {x});
}
Tensor argmin(const Tensor& x, std::optional<std::int64_t> dim, ReduceOptions options) {
  return run(ArgExtreme<false>(dims_of(dim), options), {x});
}

namespace families {
std::vector<OpPtr> reduce_ops();
std::vector<OpPtr> reduce_ops() {
  return {std::make_shared<Sum<false>>(),     std::make_shared<Sum<true>>(),       std::make_shared<Extreme<true>>(),
          std::make_shared<Extreme<false>>(), std::make_shared<Var>(),             std::make_shared<Norm>(),
          std::make_shared<LogSumExp>(),      std::make_shared<ArgExtreme<true>>(), std::make_shared<ArgExtreme<false>>()};
}
}  // namespace families

}  // namespace binade
