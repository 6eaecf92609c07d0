// The suite must notice mistakes: an operation with one planted error after another.
#include <gtest/gtest.h>

#include <cmath>

#include "binade/core/autograd/op.h"
#include "binade/tests/op_suite/check.h"

namespace binade::test {

namespace {

enum class Fault {
  none,
  one_value,         // one element is off by 2 %
  shape_rule,        // infer promises another dtype than forward delivers
  all_zero,          // nothing is computed
  ignores_strides,   // reads the memory as if it were contiguous
  writes_outside,    // writes between the elements of a strided input
  gradient,          // off by 0.1 %
  gradient_missing,  // no gradient is delivered
  not_finite,        // one element is infinite
};

// y = 2 x
struct Doubled : Op {
  Fault fault;
  explicit Doubled(Fault planted) : fault(planted) {}
  std::string_view name() const override { return "doubled"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    return {in[0].shape(), fault == Fault::shape_rule ? DType::i32 : in[0].dtype()};
  }
  Tensor forward(Inputs in, Saved&) const override {
    Tensor y = zeros(in[0].shape(), {.dtype = in[0].dtype()});
    if (fault == Fault::all_zero) return y;
    const TensorView view = in[0];
    for (std::int64_t i = 0; i < y.numel(); ++i) {
      double x = in[0].at(i);
      if (fault == Fault::ignores_strides)
        with_type(view.dtype, [&]<class T>() { x = static_cast<double>(convert<double>(view.as<T>()[i])); });
      if (fault == Fault::one_value && i == 5) x *= 1.02;
      if (fault == Fault::not_finite && i == 3) x = INFINITY;
      y.set(i, 2 * x);
    }
    if (fault == Fault::writes_outside && !in[0].is_contiguous())
      with_type(view.dtype, [&]<class T>() { view.as<T>()[1] = convert<T>(1.0); });
    return y;
  }
  void backward(const Saved&, const Tensor& dy, Gradients& out) const override {
    if (fault == Fault::gradient_missing) return;
    Tensor dx = zeros(dy.shape(), {.dtype = dy.dtype()});
    dx.add_(dy, fault == Fault::gradient ? 2.002 : 2.0);
    out.put(0, dx);
  }
  Tensor reference(Inputs in) const override {
    Tensor y = zeros(in[0].shape(), {.dtype = DType::f64});
    for (std::int64_t i = 0; i < y.numel(); ++i) y.set(i, in[0].at(i) + in[0].at(i));
    return y;
  }
};

Sample sample_with(Fault fault) {
  return {"doubled", [fault](Inputs in) { return run(Doubled(fault), {in[0]}); }, {normal({17})}};
}

bool noticed(Fault fault, DType dtype, Layout layout) {
  const Sample sample = sample_with(fault);
  return !check_forward(sample, dtype, layout).failures.empty() ||
         !check_gradients(sample, dtype, layout).failures.empty();
}

class SuiteCanFail : public ::testing::Test {
  void SetUp() override {
    if (suite_device() != Device{}) GTEST_SKIP() << "the planted operations compute on the CPU";
  }
};

TEST_F(SuiteCanFail, RightOperationPasses) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16})
    for (const Layout layout : {Layout::contiguous, Layout::strided})
      EXPECT_FALSE(noticed(Fault::none, dtype, layout)) << name(dtype);
}

TEST_F(SuiteCanFail, WrongResultsAreNoticed) {
  for (const Fault fault : {Fault::one_value, Fault::shape_rule, Fault::all_zero, Fault::not_finite})
    for (const DType dtype : {DType::f64, DType::f32, DType::f16})
      EXPECT_TRUE(noticed(fault, dtype, Layout::contiguous)) << static_cast<int>(fault) << " " << name(dtype);
}

TEST_F(SuiteCanFail, StrideMistakesAreNoticed) {
  EXPECT_TRUE(noticed(Fault::ignores_strides, DType::f32, Layout::strided));
  EXPECT_TRUE(noticed(Fault::writes_outside, DType::f32, Layout::strided));
}

TEST_F(SuiteCanFail, WrongGradientsAreNoticed) {
  for (const Fault fault : {Fault::gradient, Fault::gradient_missing})
    EXPECT_TRUE(noticed(fault, DType::f64, Layout::contiguous)) << static_cast<int>(fault);
}

}  // namespace

}  // namespace binade::test
