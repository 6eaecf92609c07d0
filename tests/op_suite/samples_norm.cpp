// Samples of layer_norm and rms_norm, alone and of a sum. Dropout takes the same draw in each call.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_norm(SampleMap& out) {
  const auto layer = [](Inputs in) { return layer_norm(in[0], in[1], in[2]); };
  out.push_back({"layer_norm", layer, {normal({5, 9}), normal({9}), normal({9})}, 9});
  out.push_back({"layer_norm long odd rows", layer, {normal({3, 517}), normal({517}), normal({517})}, 517});
  out.push_back({"layer_norm many rows", layer, {normal({700, 4}), normal({4}), normal({4})}, 700});
  out.push_back({"layer_norm without weight", layer, {normal({2, 3, 7}), undefined(), undefined()}, 7});
  out.push_back({"layer_norm without bias", layer, {normal({4, 6}), normal({6}), undefined()}, 6});
  out.push_back({"layer_norm without weight, with bias", layer, {normal({4, 6}), undefined(), normal({6})}, 6});
  out.push_back({"layer_norm two dims", layer, {normal({3, 4, 5}), normal({4, 5}), normal({4, 5})}, 20});
  out.push_back({"layer_norm large eps",
                 [](Inputs in) { return layer_norm(in[0], in[1], in[2], 0.5); },
                 {normal({4, 6}), normal({6}), normal({6})},
                 6});
  out.push_back({"layer_norm no rows", layer, {normal({0, 5}), normal({5}), normal({5})}});

  const auto rms = [](Inputs in) { return rms_norm(in[0], in[1]); };
  out.push_back({"rms_norm", rms, {normal({5, 9}), normal({9})}, 9});
  out.push_back({"rms_norm long odd rows", rms, {normal({3, 517}), normal({517})}, 517});
  out.push_back({"rms_norm without weight", rms, {normal({2, 3, 7}), undefined()}, 7});
  out.push_back({"rms_norm two dims", rms, {normal({3, 4, 5}), normal({4, 5})}, 20});
  out.push_back(
      {"rms_norm one element", [](Inputs in) { return rms_norm(in[0], in[1], 0.5); }, {normal({1}), normal({1})}});
  out.push_back({"rms_norm no rows", rms, {normal({0, 5}), normal({5})}});

  const auto of_sum = [](double dropout) {
    return [dropout](Inputs in) {
      const NormedSum made = add_layer_norm(in[0], in[1], in[2], in[3], {.dropout = dropout});
      return made.sum * 0.5 + made.normed;
    };
  };
  for (const double p : {0.0, 0.3}) {
    const std::string name = p > 0 ? "dropout_add, layer_norm" : "add, layer_norm";
    out.push_back({name, of_sum(p), {normal({5, 9}), normal({5, 9}), normal({9}), normal({9})}, 9});
    out.push_back(
        {name + " vectors", of_sum(p), {normal({3, 4, 32}), normal({3, 4, 32}), normal({32}), normal({32})}, 32});
    out.push_back(
        {name + " two dims", of_sum(p), {normal({3, 4, 5}), normal({3, 4, 5}), normal({4, 5}), normal({4, 5})}, 20});
    out.push_back(
        {name + " many rows", of_sum(p), {normal({700, 4}), normal({700, 4}), normal({4}), normal({4})}, 700});
    out.push_back({name + " no rows", of_sum(p), {normal({0, 5}), normal({0, 5}), normal({5}), normal({5})}});
  }
  const auto rms_of_sum = [](Inputs in) {
    const NormedSum made = add_rms_norm(in[0], in[1], in[2], {.dropout = 0.3});
    return made.sum * 0.5 + made.normed;
  };
  out.push_back({"dropout_add, rms_norm", rms_of_sum, {normal({5, 517}), normal({5, 517}), normal({517})}, 517});
  out.push_back(
      {"dropout_add, rms_norm without weight", rms_of_sum, {normal({2, 3, 7}), normal({2, 3, 7}), undefined()}, 7});
}

}  // namespace binade::test
