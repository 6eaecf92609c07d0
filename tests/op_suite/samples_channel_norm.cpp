// Samples of batch_norm and group_norm.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_channel_norm(SampleMap& out) {
  const auto batch = [](Inputs in) { return batch_norm(in[0], in[1], in[2], {}, {}); };
  out.push_back({"batch_norm images", batch, {normal({3, 4, 5, 5}), normal({4}), normal({4})}, 75});
  out.push_back({"batch_norm [batch, channels]", batch, {normal({9, 5}), normal({5}), normal({5})}, 9});
  out.push_back({"batch_norm short lines", batch, {normal({6, 2, 3}), normal({2}), normal({2})}, 18});
  out.push_back({"batch_norm without weight", batch, {normal({4, 3, 2}), undefined(), undefined()}, 8});
  out.push_back({"batch_norm one channel", batch, {normal({2, 1, 33}), normal({1}), normal({1})}, 66});
  out.push_back({"batch_norm running statistics",
                 [](Inputs in) {
                   const TensorOptions there{.device = in[0].device()};
                   const Tensor mean = zeros({3}, there), var = ones({3}, there);
                   return batch_norm(in[0], in[1], in[2], mean, var);
                 },
                 {normal({4, 3, 5}), normal({3}), normal({3})},
                 20});
  out.push_back({"batch_norm evaluation",
                 [](Inputs in) {
                   const TensorOptions there{.device = in[0].device()};
                   const Tensor mean = from_vector(std::vector<float>{0.5F, -1, 0}, {3}, there);
                   const Tensor var = from_vector(std::vector<float>{1, 0.25F, 2}, {3}, there);
                   return batch_norm(in[0], in[1], in[2], mean, var, {.training = false});
                 },
                 {normal({4, 3, 5}), normal({3}), normal({3})},
                 20});

  const auto groups_of = [](std::int64_t groups) {
    return [groups](Inputs in) { return group_norm(in[0], groups, in[1], in[2]); };
  };
  // with a weight, dx goes through dy weight in x's dtype: one rounding more
  const std::string rounding = "16-bit: the gradient times weight is rounded once on the way";
  out.push_back({"group_norm", groups_of(2), {normal({3, 4, 5}), normal({4}), normal({4})}, 15, 6, rounding});
  out.push_back(
      {"group_norm one group", groups_of(1), {normal({2, 3, 2, 2}), normal({3}), normal({3})}, 12, 6, rounding});
  out.push_back(
      {"group_norm each channel", groups_of(3), {normal({2, 3, 17}), normal({3}), normal({3})}, 34, 6, rounding});
  out.push_back({"group_norm without weight", groups_of(2), {normal({3, 4, 5}), undefined(), undefined()}, 15});
  out.push_back(
      {"group_norm [batch, channels]", groups_of(2), {normal({3, 6}), normal({6}), normal({6})}, 6, 6, rounding});
}

}  // namespace binade::test
