// Dropout: y = x / (1 - p) where the element's uniform number is at least p, else 0. Nothing but the draw is kept:
// backward is the same function of dy.
#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"

namespace binade {

namespace {

struct Dropout final : Op {
  double p = 0.5;
  PhiloxState state;

  Dropout() = default;
  Dropout(double probability, PhiloxState draw) : p(probability), state(draw) {}
  std::string_view name() const override { return "dropout"; }
  Precision precision() const override { return Precision::as_is; }

  Spec infer(Inputs in) const override {
    check_float(name(), "x", in[0]);
    return in[0].spec();
  }
  Tensor forward(Inputs in, Saved&) const override {
    const Spec spec = infer(in);
    Tensor y = empty(spec, in[0].device());
    kernel::dropout(in[0], y, state, p);
    return y;
  }
  void backward(const Saved&, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    Tensor dx = empty_like(dy);
    kernel::dropout(dy, dx, state, p);
    out.put(0, dx);
  }
  Tensor reference(Inputs in) const override {
    Tensor y = empty(in[0].shape(), {.dtype = DType::f64});
    const auto x = in[0].data<double>(), result = y.data<double>();
    for (std::size_t i = 0; i < x.size(); ++i) {
      const bool kept = static_cast<double>(uniform_from_word(philox_word(state, i))) >= p;
      result[i] = kept ? x[i] / (1 - p) : 0;
    }
    return y;
  }
};

}  // namespace

Tensor dropout(const Tensor& x, double p, bool training) {
  check_defined("dropout", "x", x);
  check(p >= 0 && p <= 1, "dropout: expected a probability between 0 and 1, got ", p);
  if (!training || p == 0) return x;
  return run(Dropout(p, next_draw()), {x});
}

namespace families {
std::vector<OpPtr> dropout_ops();
std::vector<OpPtr> dropout_ops() { return {std::make_shared<Dropout>()}; }
}  // namespace families

}  // namespace binade
