// Samples of linear_cross_entropy: whole, and in chunks that do and do not divide the tokens.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_linear_cross_entropy(SampleMap& out) {
  const auto add = [&](const std::string& what, LinearCrossEntropyLoss options, std::vector<SampleInput> inputs,
                       double reduction) {
    out.push_back({"linear_cross_entropy " + what,
                   [options](Inputs in) {
                     LinearCrossEntropyLoss all = options;
                     if (in.size() > 3) all.linear_bias = in[3];
                     return linear_cross_entropy(in[0], in[1], in[2], all);
                   },
                   std::move(inputs), reduction});
  };
  const SampleInput x = uniform({9, 6}, -1, 1), weight = uniform({13, 6}, -1, 1), bias = uniform({13}, -1, 1);
  const SampleInput targets = index({9}, 13);
  for (const Reduction reduction : {Reduction::mean, Reduction::sum, Reduction::none}) {
    const char* names[] = {"mean", "sum", "none"};
    const std::string name = names[static_cast<int>(reduction)];
    for (const std::int64_t chunk : {16, 4, 3, 1}) {
      const LinearCrossEntropyLoss plain{.reduction = reduction, .batch_chunk_size = chunk};
      add(name + " chunk " + std::to_string(chunk), plain, {x, weight, targets}, 9 * 13);
      LinearCrossEntropyLoss smoothed = plain;
      smoothed.label_smoothing = 0.1;
      add(name + " smoothed, bias, chunk " + std::to_string(chunk), smoothed, {x, weight, targets, bias}, 9 * 13);
    }
    // The first chunk has ignored targets only.
    out.push_back({"linear_cross_entropy " + name + " some ignored",
                   [reduction](Inputs in) {
                     const std::vector<std::int64_t> some = {-100, -100, 3, 0, -100, 6};
                     return linear_cross_entropy(in[0], in[1], from_vector(some, {6}).to(in[0].device()),
                                                 {.reduction = reduction, .batch_chunk_size = 2});
                   },
                   {uniform({6, 5}, -1, 1), uniform({7, 5}, -1, 1)},
                   6 * 7});
  }
  add("[batch, time, in]", {.batch_chunk_size = 4},
      {uniform({2, 5, 3}, -1, 1), uniform({5, 3}, -1, 1), index({2, 5}, 5)}, 50);
  add("one token", {}, {uniform({6}, -1, 1), uniform({4, 6}, -1, 1), index({}, 4)}, 24);
  add("many classes", {.batch_chunk_size = 2}, {uniform({3, 8}, -1, 1), uniform({1037, 8}, -1, 1), index({3}, 1037)},
      3 * 1037);
  add("own ignore_index", {.ignore_index = 1, .batch_chunk_size = 3},
      {uniform({8, 4}, -1, 1), uniform({3, 4}, -1, 1), index({8}, 3)}, 24);
  add("sure of itself", {.batch_chunk_size = 3}, {uniform({4, 3}, -8, 8), uniform({6, 3}, -2, 2), index({4}, 6)}, 24);
  add("no tokens", {.reduction = Reduction::sum}, {normal({0, 5}), normal({4, 5}), index({0}, 4)}, 1);
  out.push_back({"linear_cross_entropy i32 targets",
                 [](Inputs in) { return linear_cross_entropy(in[0], in[1], in[2].to(DType::i32)); },
                 {uniform({4, 3}, -1, 1), uniform({5, 3}, -1, 1), index({4}, 5)},
                 20});
}

}  // namespace binade::test
