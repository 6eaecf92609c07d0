// Samples of matmul and linear.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_matmul(SampleMap& out) {
  const auto product = [](Inputs in) { return matmul(in[0], in[1]); };
  const auto add = [&](const char* name, Shape a, Shape b, double reduction) {
    out.push_back({std::string("matmul ") + name, product, {normal(a), normal(b)}, reduction});
  };
  add("square", {8, 8}, {8, 8}, 8);
  add("odd sizes", {5, 7}, {7, 3}, 7);
  add("one element", {1, 1}, {1, 1}, 1);
  add("long sum", {3, 4500}, {4500, 5}, 4500);
  add("several tiles", {70, 33}, {33, 130}, 130);
  add("vector and vector", {9}, {9}, 9);
  add("vector and matrix", {6}, {6, 4}, 6);
  add("matrix and vector", {4, 6}, {6}, 6);
  add("vector and batch", {6}, {3, 6, 4}, 12);
  add("batch and vector", {3, 4, 6}, {6}, 12);
  add("batch", {2, 3, 4, 5}, {2, 3, 5, 6}, 6);
  add("batch and matrix", {2, 3, 4, 5}, {5, 6}, 24);
  add("matrix and batch", {4, 5}, {3, 5, 6}, 18);
  add("broadcast batches", {2, 1, 4, 5}, {3, 5, 6}, 18);
  add("empty batch", {0, 4, 5}, {5, 6}, 5);
  add("empty rows", {0, 5}, {5, 6}, 5);
  add("empty sum", {3, 0}, {0, 2}, 1);
  out.push_back({"matmul a transposed", [](Inputs in) { return matmul(in[0].t(), in[1]); },
                 {normal({7, 5}), normal({7, 3})}, 7});
  out.push_back({"matmul b transposed", [](Inputs in) { return matmul(in[0], in[1].t()); },
                 {normal({2, 5, 7}), normal({2, 3, 7})}, 7});
  out.push_back({"matmul both strided",
                 [](Inputs in) { return matmul(in[0].slice(1, 0, 8, 2), in[1].slice(0, 1, 9, 2).t().t()); },
                 {normal({5, 8}), normal({9, 6})}, 6});
  out.push_back({"matmul expanded batch", [](Inputs in) { return matmul(in[0].expand({3, 4, 5}), in[1]); },
                 {normal({4, 5}), normal({3, 5, 2})}, 6});

  const auto dense = [&](const char* name, Activation activation, Shape x, std::int64_t outputs, bool bias,
                         double reduction) {
    const std::int64_t inputs = x.back();
    out.push_back({std::string("linear ") + name,
                   [activation](Inputs in) { return linear(in[0], in[1], in[2], activation); },
                   {normal(x), normal({outputs, inputs}), bias ? normal({outputs}) : undefined()}, reduction});
  };
  dense("plain", Activation::none, {6, 5}, 7, true, 7);
  dense("without bias", Activation::none, {6, 5}, 7, false, 7);
  dense("3 dims", Activation::none, {2, 3, 5}, 4, true, 6);
  dense("vector", Activation::none, {5}, 4, true, 5);
  dense("one element", Activation::none, {1, 1}, 1, true, 1);
  dense("empty batch", Activation::none, {0, 5}, 4, true, 5);
  dense("many rows", Activation::none, {2100, 3}, 5, true, 2100);
  dense("relu", Activation::relu, {6, 5}, 7, true, 7);
  dense("gelu_erf", Activation::gelu_erf, {6, 5}, 7, true, 7);
  dense("gelu_tanh", Activation::gelu_tanh, {6, 5}, 7, true, 7);
  dense("gelu_tanh, rows of 8", Activation::gelu_tanh, {6, 5}, 8, true, 8);  // in cuBLASLt's epilogue
  dense("gelu_tanh, without bias", Activation::gelu_tanh, {2, 3, 5}, 16, false, 16);
  dense("silu", Activation::silu, {6, 5}, 7, true, 7);
  out.push_back({"linear x transposed", [](Inputs in) { return linear(in[0].t(), in[1], in[2]); },
                 {normal({5, 6}), normal({7, 5}), normal({7})}, 7});
  out.push_back({"linear weight transposed", [](Inputs in) { return linear(in[0], in[1].t(), in[2]); },
                 {normal({6, 5}), normal({5, 7}), normal({7})}, 7});
}

}  // namespace binade::test
