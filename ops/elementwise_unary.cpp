// Unary elementwise operations: one Op over each formula of formulas.h, and their meaning in plain double.
#include <cmath>

#include "binade/core/backend/kernels.h"
#include "binade/ops/formulas.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"

namespace binade {

namespace {

using kernel::FormulaArgs;

// What each formula means, written a second time, independently of formulas_inl.h.
double meaning(formulas::Neg, double x, FormulaArgs) { return 0 - x; }
double meaning(formulas::Abs, double x, FormulaArgs) { return x < 0 ? -x : x; }
double meaning(formulas::Exp, double x, FormulaArgs) { return std::exp2(x * 1.442695040888963407359924681); }
double meaning(formulas::Log, double x, FormulaArgs) { return std::log2(x) * 0.693147180559945309417232121; }
double meaning(formulas::Sqrt, double x, FormulaArgs) { return std::pow(x, 0.5); }
double meaning(formulas::Rsqrt, double x, FormulaArgs) { return std::pow(x, -0.5); }
double meaning(formulas::Tanh, double x, FormulaArgs) {
  const double e = std::expm1(-2 * std::fabs(x));
  return std::copysign(-e / (e + 2), x);
}
double meaning(formulas::Sigmoid, double x, FormulaArgs) { return 0.5 * (1 + std::tanh(0.5 * x)); }
double meaning(formulas::Relu, double x, FormulaArgs) { return 0.5 * (x + std::fabs(x)); }
double meaning(formulas::LeakyRelu, double x, FormulaArgs args) { return x >= 0 ? x : x * args.a; }
double meaning(formulas::GeluErf, double x, FormulaArgs) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
double meaning(formulas::GeluTanh, double x, FormulaArgs) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}
double meaning(formulas::Silu, double x, FormulaArgs) { return 0.5 * x * (1 + std::tanh(0.5 * x)); }
double meaning(formulas::Clamp, double x, FormulaArgs args) { return std::fmin(std::fmax(x, args.a), args.b); }
double meaning(formulas::PowScalar, double x, FormulaArgs args) { return std::pow(x, args.a); }

template <class Formula>
constexpr bool for_integers = std::is_same_v<Formula, formulas::Neg> || std::is_same_v<Formula, formulas::Abs>;

template <class Formula>
constexpr FormulaArgs usual_args = {};
template <>
constexpr FormulaArgs usual_args<formulas::LeakyRelu> = {.a = 0.01};
template <>
constexpr FormulaArgs usual_args<formulas::Clamp> = {.a = -1, .b = 1};
template <>
constexpr FormulaArgs usual_args<formulas::PowScalar> = {.a = 2};

template <class Formula>
struct Unary final : Op {
  FormulaArgs args = usual_args<Formula>;

  Unary() = default;
  explicit Unary(FormulaArgs given) : args(given) {}
  std::string_view name() const override { return Formula::name; }
  Precision precision() const override { return Formula::precision; }

  Spec infer(Inputs in) const override {
    check_defined(name(), "x", in[0]);
    if (!for_integers<Formula> || !is_integer(in[0].dtype())) check_float(name(), "x", in[0]);
    return in[0].spec();
  }

  Tensor forward(Inputs in, Saved& saved) const override {
    const Spec spec = infer(in);
    Tensor y = empty(spec, in[0].device());
    kernel::unary_forward<Formula>(in[0], y, args);
    saved.save(in[0]);
    return y;
  }

  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor x = saved[0];
    const Tensor dx = saved.place_for_gradient(0);
    kernel::unary_backward<Formula>(x, dy, dx, args);
    out.put(0, dx);
  }

  Tensor reference(Inputs in) const override {
    Tensor y = empty(in[0].shape(), {.dtype = DType::f64});
    const std::vector<double> x = in[0].to_vector<double>();
    const auto result = y.data<double>();
    for (std::size_t i = 0; i < x.size(); ++i) result[i] = meaning(Formula{}, x[i], args);
    return y;
  }
};

template <class Formula>
Tensor unary(const Tensor& x, FormulaArgs args = {}) {
  return run(Unary<Formula>(args), {x});
}

}  // namespace

Tensor neg(const Tensor& x) { return unary<formulas::Neg>(x); }
Tensor abs(const Tensor& x) { return unary<formulas::Abs>(x); }
Tensor exp(const Tensor& x) { return unary<formulas::Exp>(x); }
Tensor log(const Tensor& x) { return unary<formulas::Log>(x); }
Tensor sqrt(const Tensor& x) { return unary<formulas::Sqrt>(x); }
Tensor rsqrt(const Tensor& x) { return unary<formulas::Rsqrt>(x); }
Tensor tanh(const Tensor& x) { return unary<formulas::Tanh>(x); }
Tensor sigmoid(const Tensor& x) { return unary<formulas::Sigmoid>(x); }
Tensor relu(const Tensor& x) { return unary<formulas::Relu>(x); }
Tensor leaky_relu(const Tensor& x, double negative_slope) {
  return unary<formulas::LeakyRelu>(x, {.a = negative_slope});
}
Tensor gelu(const Tensor& x, Gelu approximate) {
  return approximate == Gelu::tanh ? unary<formulas::GeluTanh>(x) : unary<formulas::GeluErf>(x);
}
Tensor silu(const Tensor& x) { return unary<formulas::Silu>(x); }
Tensor clamp(const Tensor& x, double min, double max) {
  check(min <= max, "clamp: expected min <= max, got ", min, " and ", max);
  return unary<formulas::Clamp>(x, {.a = min, .b = max});
}
Tensor pow(const Tensor& x, double exponent) { return unary<formulas::PowScalar>(x, {.a = exponent}); }
Tensor operator-(const Tensor& x) { return neg(x); }

namespace families {
std::vector<OpPtr> elementwise_unary_ops();
std::vector<OpPtr> elementwise_unary_ops() {
  std::vector<OpPtr> ops;
  formulas::for_each_unary([&]<class Formula>() { ops.push_back(std::make_shared<Unary<Formula>>()); });
  return ops;
}
}  // namespace families

}  // namespace binade
