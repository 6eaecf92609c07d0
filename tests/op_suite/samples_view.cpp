// Samples of views: reshape, permute, expand, slice and what is made of them.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_view(SampleMap& out) {
  const auto add = [&](const char* name, std::function<Tensor(const Tensor&)> f, Shape shape, double reduction = 1) {
    out.push_back({name, [f](Inputs in) { return f(in[0]); }, {normal(shape)}, reduction});
  };
  add("reshape", [](const Tensor& x) { return x.reshape({3, 8}); }, {4, 6});
  add("reshape inferred", [](const Tensor& x) { return x.reshape({2, -1, 3}); }, {4, 6});
  add("reshape of a transpose", [](const Tensor& x) { return x.t().reshape({4, 6}); }, {4, 6});
  add("reshape to zero-dim", [](const Tensor& x) { return x.reshape({}); }, {1, 1});
  add("reshape from zero-dim", [](const Tensor& x) { return x.reshape({1, 1}); }, {});
  add("reshape empty", [](const Tensor& x) { return x.reshape({3, 0, 2}); }, {0, 4});
  add("flatten", [](const Tensor& x) { return x.flatten(1); }, {2, 3, 4});
  add("transpose", [](const Tensor& x) { return x.transpose(0, 2); }, {2, 3, 4});
  add("permute", [](const Tensor& x) { return x.permute({2, 0, -2}); }, {2, 3, 4});
  add("permute four", [](const Tensor& x) { return x.permute({0, 2, 1, 3}); }, {2, 3, 4, 5});
  add(
      "expand",
      [](const Tensor& x) {
        return x.expand({4, 3, 5});
      },
      {3, 1}, 20);
  add(
      "expand from zero-dim",
      [](const Tensor& x) {
        return x.expand({2, 3});
      },
      {}, 6);
  add(
      "expand kept",
      [](const Tensor& x) {
        return x.expand({-1, 6});
      },
      {3, 1}, 6);
  add("expand to empty", [](const Tensor& x) { return x.expand({0, 3}); }, {1, 3});
  add("slice", [](const Tensor& x) { return x.slice(0, 1, 4); }, {5, 3});
  add("slice steps", [](const Tensor& x) { return x.slice(1, 1, 9, 3); }, {2, 9});
  add("slice from the end", [](const Tensor& x) { return x.slice(-1, -3, 100); }, {4, 7});
  add("slice nothing", [](const Tensor& x) { return x.slice(0, 3, 3); }, {4, 2});
  add("narrow", [](const Tensor& x) { return x.narrow(1, 2, 3); }, {3, 6});
  add("select", [](const Tensor& x) { return x.select(1, -1); }, {3, 4, 2});
  add("squeeze", [](const Tensor& x) { return x.squeeze(); }, {1, 3, 1, 2});
  add("squeeze one", [](const Tensor& x) { return x.squeeze(2); }, {1, 3, 1});
  add("unsqueeze", [](const Tensor& x) { return x.unsqueeze(-1); }, {3, 2});
  add("slice of a slice", [](const Tensor& x) { return x.slice(0, 1, 5).slice(1, 0, 6, 2).t(); }, {6, 6});
  add("split", [](const Tensor& x) { return split(x, 3, 1).at(1); }, {2, 8});
  add("split last", [](const Tensor& x) { return split(x, 3, 1).at(2); }, {2, 8});
  add("chunk", [](const Tensor& x) { return chunk(x, 3).at(2); }, {8, 2});
}

}  // namespace binade::test
