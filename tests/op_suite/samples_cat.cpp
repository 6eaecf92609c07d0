// Samples of cat and stack.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_cat(SampleMap& out) {
  const auto joined = [](std::int64_t dim) { return [dim](Inputs in) { return cat({in.begin(), in.end()}, dim); }; };
  const auto stacked = [](std::int64_t dim) { return [dim](Inputs in) { return stack({in.begin(), in.end()}, dim); }; };
  out.push_back({"cat rows", joined(0), {normal({2, 3}), normal({4, 3}), normal({1, 3})}});
  out.push_back({"cat columns", joined(-1), {normal({2, 3, 4}), normal({2, 3, 1})}});
  out.push_back({"cat middle", joined(1), {normal({2, 3, 4}), normal({2, 2, 4})}});
  out.push_back({"cat one", joined(0), {normal({3, 2})}});
  out.push_back({"cat with an empty one", joined(0), {normal({2, 3}), normal({0, 3}), normal({1, 3})}});
  out.push_back({"cat vectors", joined(0), {normal({5}), normal({1})}});
  out.push_back({"cat mixed dtypes",
                 [](Inputs in) {
                   return cat({in[0], in[1].to(DType::f64)}, 0);
                 },
                 {normal({2, 3}), normal({2, 3})}});
  out.push_back({"cat twice the same", [](Inputs in) { return cat({in[0], in[0]}, 1); }, {normal({2, 3})}, 2});
  out.push_back({"stack", stacked(0), {normal({2, 3}), normal({2, 3})}});
  out.push_back({"stack last", stacked(-1), {normal({2, 3}), normal({2, 3}), normal({2, 3})}});
  out.push_back({"stack zero-dim", stacked(0), {normal({}), normal({})}});
}

}  // namespace binade::test
