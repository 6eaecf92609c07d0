// Binary elementwise operations, comparisons, where, and the losses that are a formula and a mean.
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

// What each formula means, written a second time, independently of formulas_inl.h.
double meaning(formulas::Add, double a, double b) { return a + b; }
double meaning(formulas::Sub, double a, double b) { return a - b; }
double meaning(formulas::Mul, double a, double b) { return a * b; }
double meaning(formulas::Div, double a, double b) { return a / b; }
double meaning(formulas::Pow, double a, double b) { return a > 0 ? std::exp2(b * std::log2(a)) : std::pow(a, b); }
double meaning(formulas::Maximum, double a, double b) {
  return std::isnan(a + b) ? a + b : 0.5 * (a + b + std::fabs(a - b));
}
double meaning(formulas::Minimum, double a, double b) {
  return std::isnan(a + b) ? a + b : 0.5 * (a + b - std::fabs(a - b));
}
double meaning(formulas::SquaredError, double a, double b) { return std::pow(a - b, 2); }
double meaning(formulas::AbsoluteError, double a, double b) { return a > b ? a - b : b - a; }
double meaning(formulas::BceWithLogits, double x, double t) {
  const double log_of_p = x > 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x));
  const double log_of_rest = log_of_p - x;  // log(1 - logistic(x))
  return -(t * log_of_p + (1 - t) * log_of_rest);
}
double meaning(formulas::Eq, double a, double b) { return !(a < b) && !(a > b) && !std::isnan(a + b); }
double meaning(formulas::Ne, double a, double b) { return !(meaning(formulas::Eq{}, a, b) > 0); }
double meaning(formulas::Lt, double a, double b) { return b - a > 0; }
double meaning(formulas::Gt, double a, double b) { return a - b > 0; }
double meaning(formulas::Le, double a, double b) { return b - a >= 0; }
double meaning(formulas::Ge, double a, double b) { return a - b >= 0; }

template <class Formula>
Tensor binary_reference(Inputs in) {
  const Shape shape = broadcast_shapes(in[0].shape(), in[1].shape(), Formula::name);
  Tensor y = empty(shape, {.dtype = DType::f64});
  const std::vector<double> a = repeated_values(in[0], shape), b = repeated_values(in[1], shape);
  const auto result = y.data<double>();
  for (std::size_t i = 0; i < a.size(); ++i) result[i] = meaning(Formula{}, a[i], b[i]);
  return y;
}

template <class Formula, class... Others>
constexpr bool is_any = (std::is_same_v<Formula, Others> || ...);
template <class Formula>
constexpr bool for_integers =
    is_any<Formula, formulas::Add, formulas::Sub, formulas::Mul, formulas::Maximum, formulas::Minimum>;

template <class Formula>
struct Binary final : Op {
  // Sums and differences have gradients that depend on no values: kept are only the shapes of inputs that were broadcast.
  static constexpr bool keeps_values = !is_any<Formula, formulas::Add, formulas::Sub>;

  std::string_view name() const override { return Formula::name; }
  Precision precision() const override { return Formula::precision; }
  bool widens(std::size_t) const override { return !keeps_values; }

  Spec infer(Inputs in) const override {
    check_defined(name(), "a", in[0]);
    check_defined(name(), "b", in[1]);
    const bool mixed = !keeps_values && is_arithmetic_float(in[0].dtype()) && is_arithmetic_float(in[1].dtype());
    if (!mixed) check_same_dtype(name(), "a", in[0], "b", in[1]);
    if (!for_integers<Formula> || !is_integer(in[0].dtype())) check_float(name(), "a", in[0]);
    return {broadcast_shapes(in[0].shape(), in[1].shape(), name()), promote_types(in[0].dtype(), in[1].dtype())};
  }

  Tensor forward(Inputs in, Saved& saved) const override {
    const Spec spec = infer(in);
    Tensor y = empty(spec, in[0].device());
    kernel::binary_forward<Formula>(broadcast_view(in[0], y.shape()), broadcast_view(in[1], y.shape()), y);
    for (const Tensor& x : in) saved.save(keeps_values ? x : x.shape() == y.shape() ? Tensor() : shape_only(x));
    return y;
  }

  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor a = saved[0], b = saved[1];
    Tensor da, db;
    if constexpr (keeps_values) {
      if (out.wanted(0)) da = empty(dy.spec(), dy.device());
      if (out.wanted(1)) db = empty(dy.spec(), dy.device());
      kernel::binary_backward<Formula>(broadcast_view(a, dy.shape()), broadcast_view(b, dy.shape()), dy, da, db);
    } else {
      da = db = dy;
      if (std::is_same_v<Formula, formulas::Sub> && out.wanted(1)) {
        db = empty(dy.spec(), dy.device());
        kernel::unary_forward<formulas::Neg>(dy, db, {});
      }
    }
    if (out.wanted(0)) put_broadcast(out, 0, da, a ? a.shape() : dy.shape());
    if (out.wanted(1)) put_broadcast(out, 1, db, b ? b.shape() : dy.shape());
  }

  Tensor reference(Inputs in) const override { return binary_reference<Formula>(in); }
};

template <class Formula>
struct Compare final : Op {
  std::string_view name() const override { return Formula::name; }
  Precision precision() const override { return Precision::widest; }

  Spec infer(Inputs in) const override {
    check_defined(name(), "a", in[0]);
    check_defined(name(), "b", in[1]);
    check_same_dtype(name(), "a", in[0], "b", in[1]);
    return {broadcast_shapes(in[0].shape(), in[1].shape(), name()), DType::boolean};
  }

  Tensor forward(Inputs in, Saved&) const override {
    const Spec spec = infer(in);
    Tensor y = empty(spec, in[0].device());
    kernel::compare<Formula>(broadcast_view(in[0], y.shape()), broadcast_view(in[1], y.shape()), y);
    return y;
  }

  void backward(const Saved&, const Tensor&, Gradients&) const override {}  // a bool result has no gradient
  Tensor reference(Inputs in) const override { return binary_reference<Formula>(in); }
};

struct Where final : Op {
  std::string_view name() const override { return "where"; }
  Precision precision() const override { return Precision::widest; }
  bool promotes(std::size_t input) const override { return input != 0; }

  Spec infer(Inputs in) const override {
    check_defined(name(), "condition", in[0]);
    check_defined(name(), "a", in[1]);
    check_defined(name(), "b", in[2]);
    check(in[0].dtype() == DType::boolean, "where: condition must be bool, got ", in[0].dtype());
    check_same_dtype(name(), "a", in[1], "b", in[2]);
    return {infer_shape(in), in[1].dtype()};
  }

  Tensor forward(Inputs in, Saved& saved) const override {
    const Spec spec = infer(in);
    Tensor y = empty(spec, in[0].device());
    kernel::where(broadcast_view(in[0], y.shape()), broadcast_view(in[1], y.shape()),
                  broadcast_view(in[2], y.shape()), y);
    saved.save(in[0]);
    saved.save(shape_only(in[1]));
    saved.save(shape_only(in[2]));
    return y;
  }

  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const TensorView condition = broadcast_view(saved[0], dy.shape());
    const Tensor zero = zeros({}, {.dtype = dy.dtype(), .device = dy.device()});
    const TensorView none = broadcast_view(zero, dy.shape());
    for (std::size_t i = 1; i <= 2; ++i) {
      if (!out.wanted(i)) continue;
      Tensor gradient = empty(dy.spec(), dy.device());
      if (i == 1) kernel::where(condition, dy, none, gradient);
      if (i == 2) kernel::where(condition, none, dy, gradient);
      put_broadcast(out, i, gradient, saved[i].shape());
    }
  }

  Tensor reference(Inputs in) const override {
    const Shape shape = infer_shape(in);
    Tensor y = empty(shape, {.dtype = DType::f64});
    const std::vector<double> c = repeated_values(in[0], shape), a = repeated_values(in[1], shape),
                              b = repeated_values(in[2], shape);
    const auto result = y.data<double>();
    for (std::size_t i = 0; i < c.size(); ++i) result[i] = c[i] > 0 ? a[i] : b[i];
    return y;
  }

  static Shape infer_shape(Inputs in) {
    return broadcast_shapes(in[0].shape(), broadcast_shapes(in[1].shape(), in[2].shape(), "where"), "where");
  }
};

template <class Formula>
Tensor binary(const Tensor& a, const Tensor& b) {
  return run(Binary<Formula>{}, {a, b});
}

// Operations of class `full` promote here: outside autocast the door leaves their inputs alone. Integers become f32.
template <class Formula>
Tensor promoted_binary(const Tensor& a, const Tensor& b) {
  check_defined(Formula::name, "a", a);
  check_defined(Formula::name, "b", b);
  DType dtype = result_type(a.dtype(), a.dim() == 0, b.dtype(), b.dim() == 0);
  if (is_integer(dtype)) dtype = DType::f32;
  return binary<Formula>(a.dtype() == dtype ? a : cast(a, dtype), b.dtype() == dtype ? b : cast(b, dtype));
}

// A number as the zero-dim tensor that takes part in promotion as PyTorch's numbers do.
Tensor number(std::string_view op, double value, const Tensor& other) {
  check_defined(op, "the tensor", other);
  DType dtype = DType::f32;
  if (other.dtype() == DType::f64) dtype = DType::f64;
  if (!is_floating(other.dtype()) && std::nearbyint(value) == value) dtype = DType::i64;
  return scalar_tensor(value, {.dtype = dtype, .device = other.device()});
}

template <class Formula>
Tensor loss(std::string_view name, const Tensor& x, const Tensor& target, Reduction reduction) {
  check_defined(name, "x", x);
  check_defined(name, "target", target);
  check(x.shape() == target.shape(), name, ": shapes differ: x is ", x.shape(), ", target is ", target.shape());
  const Tensor each = promoted_binary<Formula>(x, target);
  return reduction == Reduction::none ? each : reduction == Reduction::sum ? sum(each) : mean(each);
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) { return binary<formulas::Add>(a, b); }
Tensor sub(const Tensor& a, const Tensor& b) { return binary<formulas::Sub>(a, b); }
Tensor mul(const Tensor& a, const Tensor& b) { return binary<formulas::Mul>(a, b); }
Tensor div(const Tensor& a, const Tensor& b) { return promoted_binary<formulas::Div>(a, b); }
Tensor pow(const Tensor& a, const Tensor& b) { return promoted_binary<formulas::Pow>(a, b); }
Tensor maximum(const Tensor& a, const Tensor& b) { return binary<formulas::Maximum>(a, b); }
Tensor minimum(const Tensor& a, const Tensor& b) { return binary<formulas::Minimum>(a, b); }
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) { return run(Where{}, {condition, a, b}); }

Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
Tensor operator+(const Tensor& a, double b) { return add(a, number("add", b, a)); }
Tensor operator-(const Tensor& a, double b) { return sub(a, number("sub", b, a)); }
Tensor operator*(const Tensor& a, double b) { return mul(a, number("mul", b, a)); }
Tensor operator/(const Tensor& a, double b) { return div(a, number("div", b, a)); }
Tensor operator+(double a, const Tensor& b) { return add(number("add", a, b), b); }
Tensor operator-(double a, const Tensor& b) { return sub(number("sub", a, b), b); }
Tensor operator*(double a, const Tensor& b) { return mul(number("mul", a, b), b); }
Tensor operator/(double a, const Tensor& b) { return div(number("div", a, b), b); }

Tensor eq(const Tensor& a, const Tensor& b) { return run(Compare<formulas::Eq>{}, {a, b}); }
Tensor ne(const Tensor& a, const Tensor& b) { return run(Compare<formulas::Ne>{}, {a, b}); }
Tensor lt(const Tensor& a, const Tensor& b) { return run(Compare<formulas::Lt>{}, {a, b}); }
Tensor le(const Tensor& a, const Tensor& b) { return run(Compare<formulas::Le>{}, {a, b}); }
Tensor gt(const Tensor& a, const Tensor& b) { return run(Compare<formulas::Gt>{}, {a, b}); }
Tensor ge(const Tensor& a, const Tensor& b) { return run(Compare<formulas::Ge>{}, {a, b}); }

Tensor mse_loss(const Tensor& x, const Tensor& target, Reduction reduction) {
  return loss<formulas::SquaredError>("mse_loss", x, target, reduction);
}
Tensor l1_loss(const Tensor& x, const Tensor& target, Reduction reduction) {
  return loss<formulas::AbsoluteError>("l1_loss", x, target, reduction);
}
Tensor bce_with_logits(const Tensor& x, const Tensor& target, Reduction reduction) {
  return loss<formulas::BceWithLogits>("bce_with_logits", x, target, reduction);
}

namespace families {
std::vector<OpPtr> elementwise_ops();
std::vector<OpPtr> elementwise_ops() {
  std::vector<OpPtr> ops;
  formulas::for_each_binary([&]<class Formula>() { ops.push_back(std::make_shared<Binary<Formula>>()); });
  formulas::for_each_compare([&]<class Formula>() { ops.push_back(std::make_shared<Compare<Formula>>()); });
  ops.push_back(std::make_shared<Where>());
  return ops;
}
}  // namespace families

}  // namespace binade
