// Samples of binary_cross_entropy. It refuses to run under autocast, so each sample switches autocast off around it, as
// a program must; the refusal is tested in tests/core/autocast.cpp.
#include "binade/core/amp/autocast.h"
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_binary_cross_entropy(SampleMap& out) {
  const auto without_autocast = [](const Tensor& p, const Tensor& target, Reduction reduction) {
    const amp::Autocast off(DType::f32);
    return binary_cross_entropy(p, target, reduction);
  };
  const auto each = [=](Inputs in) { return without_autocast(in[0], in[1], Reduction::none); };

  // Probabilities keep away from 0 and 1, where the gradient grows as 1 / (p (1 - p)).
  for (const Shape& shape : {Shape{37}, Shape{0}, Shape{1}, Shape{}, Shape{3, 5, 7}, Shape{1100}}) {
    out.push_back({.name = "binary_cross_entropy " + to_text(shape), .function = each,
                   .inputs = {uniform(shape, 0.05, 0.95), uniform(shape, 0, 1)}});
  }
  for (const Reduction reduction : {Reduction::mean, Reduction::sum}) {
    out.push_back({.name = std::string("binary_cross_entropy ") + (reduction == Reduction::mean ? "mean" : "sum"),
                   .function = [=](Inputs in) { return without_autocast(in[0], in[1], reduction); },
                   .inputs = {uniform({5, 7}, 0.05, 0.95), uniform({5, 7}, 0, 1)}, .reduction = 35});
  }
  out.push_back({.name = "binary_cross_entropy class targets",
                 .function = [=](Inputs in) { return without_autocast(in[0], in[1], Reduction::none); },
                 .inputs = {uniform({40}, 0.05, 0.95), index({40}, 2)}});
  out.push_back({.name = "binary_cross_entropy at the bounds",
                 .function = [=](Inputs in) {
                   const Tensor p = from_vector<float>({0, 0, 0, 1, 1, 1}, {6}).to(in[0].dtype()).to(in[0].device());
                   return without_autocast(p, in[0], Reduction::none);
                 },
                 .inputs = {uniform({6}, 0, 1)}});
}

}  // namespace binade::test
