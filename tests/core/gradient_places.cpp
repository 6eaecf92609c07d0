// A gradient may be written where the value was that it belongs to, if nobody can see that value any more.
#include <gtest/gtest.h>

#include "binade/binade.h"
#include "binade/core/autograd/observer.h"
#include "binade/core/tensor/tensor_impl.h"
#include "expect_error.h"

namespace {

using namespace binade;
using test::expect_error;

Tensor leaf(const Shape& shape, DType dtype = DType::f32) {
  manual_seed(7);
  Tensor x = cast(randn(shape), dtype);
  return x.requires_grad_();
}
const void* memory_of(const Tensor& x) { return x.impl()->storage->data; }

// One value and what is made of it, which saves the value for its backward.
struct Case {
  const char* name;
  Tensor (*follow)(const Tensor& value);
};
const Case cases[] = {
    {"cross_entropy", [](const Tensor& v) { return cross_entropy(v, arange(0, 6, 1, {.dtype = DType::i64})); }},
    {"relu", [](const Tensor& v) { return sum(relu(v)); }},
    {"gelu", [](const Tensor& v) { return sum(gelu(v, Gelu::tanh)); }},
};

struct Outcome {
  Tensor gradient;           // of the leaf
  bool reused = false;       // the value's gradient lies where the value lay
  std::vector<float> value;  // before backward
};
Outcome run_case(const Case& c, DType dtype, Tensor* holder) {
  const Tensor x = leaf({6, 9}, dtype), factor = cast(full({1}, 1.5), dtype);
  Outcome out;
  const void* place = nullptr;
  const void* value_memory = nullptr;
  Tensor result;
  {
    Tensor value = x * factor;
    value.register_hook([&](const Tensor& g) {
      place = memory_of(g);
      return Tensor();
    });
    value_memory = memory_of(value);
    out.value = cast(value.detach(), DType::f32).to_vector<float>();
    result = c.follow(value);
    if (holder) *holder = value;
  }
  result.backward();
  out.gradient = x.grad();
  out.reused = place == value_memory;
  return out;
}

TEST(GradientPlaces, AValueNobodyHoldsGivesItsMemory) {
  for (const Case& c : cases)
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(c.name);
      Tensor kept;
      const Outcome alone = run_case(c, dtype, nullptr), held = run_case(c, dtype, &kept);
      EXPECT_TRUE(alone.reused);
      EXPECT_FALSE(held.reused);
      EXPECT_EQ(cast(kept.detach(), DType::f32).to_vector<float>(), held.value) << "a tensor that is held was changed";
      EXPECT_EQ(cast(alone.gradient, DType::f64).to_vector<double>(), cast(held.gradient, DType::f64).to_vector<double>());
    }
}

TEST(GradientPlaces, ActivationsInsideLayers) {
  Tensor weight = leaf({8, 5}), filters = leaf({4, 1, 3, 3});
  const auto allocations = [](const Tensor& loss, BackwardOptions options) {
    const std::uint64_t before = memory_stats().allocations;
    loss.backward({}, options);
    return memory_stats().allocations - before;
  };
  const auto check_layer = [&](const auto& loss_of, Tensor& parameter) {
    loss_of().backward();  // the gradient's memory is there from now on
    parameter.zero_grad();
    const Tensor again = loss_of();
    const std::uint64_t retained = allocations(again, {.retain_graph = true});
    const std::vector<float> expected = parameter.grad().to_vector<float>();
    parameter.zero_grad();
    EXPECT_EQ(allocations(again, {}), retained - 1);
    EXPECT_EQ(parameter.grad().to_vector<float>(), expected);
  };
  check_layer([&] { return sum(linear(ones({6, 5}), weight, {}, Activation::gelu_tanh)); }, weight);
  check_layer([&] { return sum(conv2d(ones({2, 1, 6, 6}), filters, {}, {.activation = Activation::silu})); }, filters);
}

TEST(GradientPlaces, ARetainedGraphKeepsItsValues) {
  Tensor x = leaf({6, 9});
  const Tensor loss = cases[0].follow(x * 2.0);
  loss.backward({}, {.retain_graph = true});
  const std::vector<float> first = x.grad().to_vector<float>();
  x.zero_grad();
  loss.backward({}, {.retain_graph = true});
  EXPECT_EQ(x.grad().to_vector<float>(), first);
  x.zero_grad();
  loss.backward();
  EXPECT_EQ(x.grad().to_vector<float>(), first);
}

struct Stop : Observer {
  void on_gradients(const BackwardCall& call) override {
    if (call.op.name() == "cross_entropy") fail({"stopped"});
  }
};
TEST(GradientPlaces, AFailedPassDoesNotTakeTheGradientForTheValue) {
  const Tensor x = leaf({6, 9});
  const Tensor loss = cases[0].follow(x * 2.0);
  {
    Stop stop;
    const ObserverScope scope(stop);
    expect_error([&] { loss.backward(); }, "stopped");
  }
  expect_error([&] { loss.backward(); }, "backward: ", "changed in place");
}

}  // namespace
