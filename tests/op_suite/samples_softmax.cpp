// Samples of softmax and log_softmax.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_softmax(SampleMap& out) {
  for (const bool log : {false, true}) {
    const std::string name = log ? "log_softmax " : "softmax ";
    const auto over = [log](std::int64_t dim) {
      return [log, dim](Inputs in) { return log ? log_softmax(in[0], dim) : softmax(in[0], dim); };
    };
    out.push_back({name + "rows", over(-1), {normal({4, 9})}, 9});
    out.push_back({name + "long odd row", over(-1), {normal({3, 1037})}, 1037});
    out.push_back({name + "middle dim", over(1), {normal({2, 5, 3})}, 5});
    out.push_back({name + "first dim", over(0), {normal({7, 2, 2})}, 7});
    out.push_back({name + "one class", over(-1), {normal({3, 1})}});
    out.push_back({name + "one element", over(0), {normal({1})}});
    out.push_back({name + "zero-dim", over(0), {normal({})}});
    out.push_back({name + "large values", over(-1), {uniform({3, 8}, -60, 60)}, 8});
    out.push_back({name + "no rows", over(-1), {normal({0, 4})}});
    out.push_back({name + "empty rows", over(-1), {normal({3, 0})}});
  }
}

}  // namespace binade::test
