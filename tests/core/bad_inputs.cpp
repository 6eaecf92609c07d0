// Bad inputs of elementwise operations, reductions, products and changes of shape.
#include "binade/tests/core/bad_inputs.h"

#include "binade/tests/core/expect_error.h"

namespace binade::test {

TEST_P(BadInputs, AreExplained) { expect_error(GetParam().call, GetParam().operation + ": "); }

namespace {

std::vector<BadCall> elementwise_calls() {
  using Binary = Tensor (*)(const Tensor&, const Tensor&);
  using Unary = Tensor (*)(const Tensor&);
  std::vector<BadCall> calls;
  const std::vector<std::pair<const char*, Binary>> binary{
      {"add", add},         {"sub", sub},         {"mul", mul}, {"div", div}, {"pow", static_cast<Binary>(pow)},
      {"maximum", maximum}, {"minimum", minimum}, {"eq", eq},   {"ne", ne},   {"lt", lt},
      {"le", le},           {"gt", gt},           {"ge", ge}};
  for (const auto& [name, op] : binary) {
    calls.push_back({name, "shapes", [op = op] { op(f({2, 3}), f({2, 4})); }});
    calls.push_back({name, "undefined left", [op = op] { op(Tensor(), f({2})); }});
    calls.push_back({name, "undefined right", [op = op] { op(f({2}), Tensor()); }});
  }
  const std::vector<std::pair<const char*, Unary>> unary{{"exp", exp},     {"log", log},   {"sqrt", sqrt},
                                                         {"rsqrt", rsqrt}, {"tanh", tanh}, {"sigmoid", sigmoid},
                                                         {"silu", silu}};
  for (const auto& [name, op] : unary) {
    calls.push_back({name, "integers", [op = op] { op(i64({2})); }});
    calls.push_back({name, "fp8", [op = op] { op(fp8({2})); }});
    calls.push_back({name, "undefined", [op = op] { op(Tensor()); }});
  }
  calls.push_back({"neg", "undefined", [] { neg(Tensor()); }});
  calls.push_back({"abs", "undefined", [] { abs(Tensor()); }});
  calls.push_back({"relu", "undefined", [] { relu(Tensor()); }});
  calls.push_back({"gelu_erf", "integers", [] { gelu(i64({2})); }});
  calls.push_back({"leaky_relu", "undefined", [] { leaky_relu(Tensor()); }});
  calls.push_back({"clamp", "min above max", [] { clamp(f({2}), 1, 0); }});
  calls.push_back({"where", "condition not bool", [] { where(f({2}), f({2}), f({2})); }});
  calls.push_back({"where", "shapes", [] { where(boolean({3}), f({2}), f({2})); }});
  calls.push_back({"where", "undefined", [] { where(Tensor(), f({2}), f({2})); }});
  return calls;
}

std::vector<BadCall> reduction_calls() {
  return {
      {"sum", "dim out of range",
       [] {
         sum(f({2, 3}), {2});
       }},
      {"sum", "same dim twice",
       [] {
         sum(f({2, 3}), {1, -1});
       }},
      {"sum", "undefined", [] { sum(Tensor()); }},
      {"mean", "dim out of range",
       [] {
         mean(f({2, 3}), {-3});
       }},
      {"mean", "integers", [] { mean(i64({2})); }},
      {"max", "empty", [] { max(f({0})); }},
      {"max", "empty dim",
       [] {
         max(f({2, 0}), {1});
       }},
      {"min", "empty",
       [] {
         min(f({0, 3}));
       }},
      {"var", "integers", [] { var(i64({2})); }},
      {"norm", "integers", [] { norm(i64({2})); }},
      {"logsumexp", "integers", [] { logsumexp(i64({2})); }},
      {"argmax", "empty", [] { argmax(f({0})); }},
      {"argmax", "dim out of range",
       [] {
         argmax(f({2, 3}), 5);
       }},
      {"argmin", "empty", [] { argmin(f({0})); }},
  };
}

std::vector<BadCall> product_calls() {
  return {
      {"matmul", "inner sizes",
       [] {
         matmul(f({8, 3}), f({4, 5}));
       }},
      {"matmul", "batches",
       [] {
         matmul(f({2, 8, 3}), f({3, 3, 5}));
       }},
      {"matmul", "zero dim",
       [] {
         matmul(f({}), f({3, 5}));
       }},
      {"matmul", "dtypes",
       [] {
         matmul(f({2, 2}), low({2, 2}));
       }},
      {"matmul", "integers",
       [] {
         matmul(i64({2, 2}), i64({2, 2}));
       }},
      {"matmul", "undefined",
       [] {
         matmul(f({2, 2}), Tensor());
       }},
      {"linear", "inner sizes",
       [] {
         linear(f({2, 3}), f({4, 5}));
       }},
      {"linear", "bias",
       [] {
         linear(f({2, 3}), f({4, 3}), f({3}));
       }},
      {"linear", "weight dims",
       [] {
         linear(f({2, 3}), f({3}));
       }},
      {"linear", "undefined weight",
       [] {
         linear(f({2, 3}), Tensor());
       }},
      {"linear", "zero dim",
       [] {
         linear(f({}), f({3, 3}));
       }},
  };
}

std::vector<BadCall> shape_calls() {
  return {
      {"cast", "undefined", [] { cast(Tensor(), DType::f16); }},
      {"reshape", "count",
       [] {
         reshape(f({2, 3}), {4, 2});
       }},
      {"reshape", "two unknown",
       [] {
         reshape(f({2, 3}), {-1, -1});
       }},
      {"reshape", "indivisible",
       [] {
         reshape(f({2, 3}), {-1, 4});
       }},
      {"reshape", "undefined", [] { reshape(Tensor(), {1}); }},
      {"transpose", "dim",
       [] {
         transpose(f({2, 3}), 0, 2);
       }},
      {"permute", "twice",
       [] {
         permute(f({2, 3}), {0, 0});
       }},
      {"permute", "count",
       [] {
         permute(f({2, 3}), {0});
       }},
      {"expand", "size",
       [] {
         expand(f({2, 3}), {4, 3});
       }},
      {"expand", "fewer dims",
       [] {
         expand(f({2, 3}), {3});
       }},
      {"slice", "dim",
       [] {
         slice(f({2, 3}), 2, 0, 1);
       }},
      {"slice", "step",
       [] {
         slice(f({2, 3}), 0, 0, 1, 0);
       }},
      {"narrow", "length",
       [] {
         narrow(f({2, 3}), 1, 2, 2);
       }},
      {"narrow", "dim",
       [] {
         narrow(f({2, 3}), 2, 0, 1);
       }},
      {"select", "index",
       [] {
         select(f({2, 3}), 0, 2);
       }},
      {"select", "dim",
       [] {
         select(f({2, 3}), 2, 0);
       }},
      {"squeeze", "dim",
       [] {
         squeeze(f({2, 1}), 2);
       }},
      {"unsqueeze", "dim",
       [] {
         unsqueeze(f({2, 1}), 4);
       }},
      {"cat", "nothing", [] { cat({}); }},
      {"cat", "shapes",
       [] {
         cat({f({2, 3}), f({2, 4})}, 0);
       }},
      {"cat", "dims",
       [] {
         cat({f({2, 3}), f({2})}, 0);
       }},
      {"cat", "dim",
       [] {
         cat({f({2, 3}), f({2, 3})}, 2);
       }},
      {"cat", "undefined",
       [] {
         cat({f({2, 3}), Tensor()}, 0);
       }},
      {"stack", "shapes",
       [] {
         stack({f({2, 3}), f({2, 4})});
       }},
      {"stack", "nothing", [] { stack({}); }},
      {"split", "size", [] { split(f({4}), 0); }},
      {"split", "dim", [] { split(f({4}), 2, 1); }},
      {"chunk", "count", [] { chunk(f({4}), 0); }},
      {"chunk", "dim", [] { chunk(f({4}), 2, 1); }},
  };
}

INSTANTIATE_TEST_SUITE_P(Elementwise, BadInputs, ::testing::ValuesIn(elementwise_calls()), call_name);
INSTANTIATE_TEST_SUITE_P(Reductions, BadInputs, ::testing::ValuesIn(reduction_calls()), call_name);
INSTANTIATE_TEST_SUITE_P(Products, BadInputs, ::testing::ValuesIn(product_calls()), call_name);
INSTANTIATE_TEST_SUITE_P(Shapes, BadInputs, ::testing::ValuesIn(shape_calls()), call_name);

}  // namespace

}  // namespace binade::test
