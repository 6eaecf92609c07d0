// Samples of cross_entropy.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_loss(SampleMap& out) {
  for (const double smoothing : {0.0, 0.1}) {
    for (const Reduction reduction : {Reduction::mean, Reduction::sum, Reduction::none}) {
      const char* names[] = {"mean", "sum", "none"};
      const std::string name =
          "cross_entropy " + std::string(names[static_cast<int>(reduction)]) + (smoothing > 0 ? " smoothed" : "");
      const CrossEntropyLoss options{.label_smoothing = smoothing, .reduction = reduction};
      out.push_back({name,
                     [options](Inputs in) { return cross_entropy(in[0], in[1], options); },
                     {normal({9, 13}), index({9}, 13)},
                     9 * 13});
      out.push_back({name + " some ignored",
                     [options](Inputs in) {
                       const std::vector<std::int64_t> targets = {3, -100, 0, -100, 6};
                       return cross_entropy(in[0], from_vector(targets, {5}).to(in[0].device()), options);
                     },
                     {normal({5, 7})},
                     5 * 7});
    }
  }
  const auto plain = [](Inputs in) { return cross_entropy(in[0], in[1]); };
  out.push_back({"cross_entropy i32 targets",
                 [](Inputs in) { return cross_entropy(in[0], in[1].to(DType::i32)); },
                 {normal({4, 5}), index({4}, 5)},
                 20});
  out.push_back({"cross_entropy [batch, time, classes]", plain, {normal({2, 3, 5}), index({2, 3}, 5)}, 30});
  out.push_back({"cross_entropy one row", plain, {normal({6}), index({}, 6)}, 6});
  out.push_back({"cross_entropy many classes", plain, {normal({3, 1037}), index({3}, 1037)}, 3 * 1037});
  out.push_back({"cross_entropy sure of itself", plain, {uniform({4, 6}, -30, 30), index({4}, 6)}, 24});
  out.push_back({"cross_entropy own ignore_index",
                 [](Inputs in) { return cross_entropy(in[0], in[1], {.ignore_index = 1}); },
                 {normal({8, 3}), index({8}, 3)},
                 24});
  out.push_back({"cross_entropy no rows",
                 [](Inputs in) { return cross_entropy(in[0], in[1], {.reduction = Reduction::sum}); },
                 {normal({0, 5}), index({0}, 5)}});
}

}  // namespace binade::test
