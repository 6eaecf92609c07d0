// Samples: how each operation is exercised. A sample is a call of the public function with inputs drawn at random.
// The suite watches the door while the function runs and checks every operation that passed against that operation's
// own float64 reference on the same (already rounded) inputs; then gradients against central differences.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "binade/core/tensor/tensor.h"

namespace binade::test {

struct SampleInput {
  enum class Kind { normal, uniform, distinct, index, boolean, undefined };
  Shape shape;
  Kind kind = Kind::normal;
  double low = -2, high = 2;   // uniform: range; distinct: a shuffled grid over it (no ties); index: in [low, high)
  bool differentiable = true;  // floating inputs only
};
inline SampleInput normal(Shape shape) { return {shape, SampleInput::Kind::normal}; }
inline SampleInput uniform(Shape shape, double low, double high) {
  return {shape, SampleInput::Kind::uniform, low, high};
}
inline SampleInput distinct(Shape shape, double low = -2, double high = 2) {
  return {shape, SampleInput::Kind::distinct, low, high};
}
inline SampleInput index(Shape shape, std::int64_t bound) {
  return {shape, SampleInput::Kind::index, 0, static_cast<double>(bound), false};
}
inline SampleInput boolean(Shape shape) { return {shape, SampleInput::Kind::boolean, 0, 1, false}; }
inline SampleInput undefined() { return {{}, SampleInput::Kind::undefined, 0, 0, false}; }

struct Sample {
  std::string name;  // "conv2d stride 2"
  std::function<Tensor(Inputs)> function;
  std::vector<SampleInput> inputs;
  // Allowed error: budget * epsilon(dtype) * sqrt(reduction) * scale, scale being the largest |value| of the result
  // (or 1 if that is more). `reduction` is the longest sum behind one output or gradient element.
  double reduction = 1;
  double budget = 4;
  std::string reason = {};  // why, for a budget other than 4
  bool smooth = true;       // false: no gradient check (comparisons, argmax)
};
using SampleMap = std::vector<Sample>;

void all_samples(SampleMap& out);  // gathers samples_<stem>(out) of every tests/op_suite/samples_<stem>.cpp

}  // namespace binade::test
