// Samples of fp8_linear. Quantisation is a staircase, so there are no central differences: tests/lowp judges the
// gradients against the float64 products of the quantised operands.
#include "binade/ops/fp8_linear.h"
#include "binade/tests/core/test_device.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_fp8_linear(SampleMap& out) {
  const auto dense = [&](const char* name, Fp8LinearOptions options, Shape x, std::int64_t outputs, bool bias,
                         double reduction) {
    const std::int64_t inputs = x.back();
    out.push_back({.name = std::string("fp8_linear ") + name,
                   .function = [options](Inputs in) { return fp8_linear(in[0], in[1], in[2], options); },
                   .inputs = {normal(x), normal({outputs, inputs}), bias ? normal({outputs}) : undefined()},
                   .reduction = reduction,
                   .smooth = false});
  };
  const Fp8LinearOptions current{.recipe = {.scaling = amp::Fp8Scaling::current}, .state = {}};
  const Fp8LinearOptions block{.recipe = {.scaling = amp::Fp8Scaling::block}, .state = {}};
  Fp8LinearOptions delayed{.recipe = {}, .state = amp::make_fp8_state({}, test_device())};
  delayed.state.scale.set(0, 100);  // scales that saturate a few values of N(0, 1)
  delayed.state.scale.set(1, 160.3);
  Fp8LinearOptions gelu = current;
  gelu.activation = Activation::gelu_tanh;
  Fp8LinearOptions margin = current;
  margin.recipe.margin = 3;

  dense("current", current, {6, 5}, 7, true, 7);
  dense("current without bias", current, {6, 5}, 7, false, 7);
  dense("current 3 dims", current, {2, 3, 48}, 16, true, 48);
  dense("current vector", current, {5}, 4, true, 5);
  dense("current one element", current, {1, 1}, 1, true, 1);
  dense("current empty batch", current, {0, 5}, 4, true, 5);
  dense("current empty sum", current, {3, 0}, 4, true, 1);
  dense("current many rows", current, {2100, 3}, 5, true, 2100);
  dense("current gelu", gelu, {6, 5}, 7, true, 7);
  dense("current margin", margin, {6, 5}, 7, true, 7);
  dense("delayed", delayed, {6, 70}, 7, true, 70);
  dense("block", block, {6, 64}, 32, true, 64);
  dense("block tails", block, {37, 70}, 33, true, 70);
  dense("block short", block, {3, 5}, 4, true, 5);
  dense("block empty batch", block, {0, 5}, 4, true, 5);
}

}  // namespace binade::test
