// Samples of dropout. Each call takes the next draw, so gradients are checked against the operation's own reference.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_dropout(SampleMap& out) {
  for (const Shape& shape : {Shape{37}, Shape{0, 3}, Shape{1}, Shape{3, 5}, Shape{20000}}) {
    out.push_back({"dropout 0.3 " + to_text(shape), [](Inputs in) { return dropout(in[0], 0.3); }, {normal(shape)}});
  }
  out.push_back({"dropout 1", [](Inputs in) { return dropout(in[0], 1.0); }, {normal({5})}});
}

}  // namespace binade::test
