// Samples of convolution and transposed convolution.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_conv(SampleMap& out) {
  using Function = Tensor (*)(const Tensor&, const Tensor&, const Tensor&, Conv2dOptions);
  const auto add = [&](const char* name, Function function, Shape x, Shape weight, std::int64_t bias, double reduction,
                       Conv2dOptions options = {}) {
    out.push_back({name, [=](Inputs in) { return function(in[0], in[1], in[2], options); },
                   {normal(x), normal(weight), bias > 0 ? normal({bias}) : undefined()}, reduction});
  };
  add("conv2d plain", conv2d, {2, 3, 6, 7}, {4, 3, 3, 3}, 4, 40);
  add("conv2d without bias", conv2d, {2, 3, 5, 5}, {4, 3, 2, 3}, 0, 24);
  add("conv2d one element", conv2d, {1, 1, 1, 1}, {1, 1, 1, 1}, 1, 1);
  add("conv2d 1x1", conv2d, {2, 5, 4, 3}, {3, 5, 1, 1}, 3, 24);
  add("conv2d padding", conv2d, {2, 3, 5, 4}, {4, 3, 3, 3}, 4, 40, {.padding = {1, 2}});
  add("conv2d stride", conv2d, {2, 3, 7, 8}, {4, 3, 3, 3}, 4, 36, {.stride = {2, 3}, .padding = {1, 1}});
  add("conv2d dilation", conv2d, {1, 2, 9, 8}, {3, 2, 3, 2}, 3, 35, {.padding = {2, 1}, .dilation = {2, 3}});
  add("conv2d groups", conv2d, {2, 6, 5, 5}, {4, 3, 3, 3}, 4, 27, {.padding = {1, 1}, .groups = 2});
  add("conv2d depthwise", conv2d, {2, 4, 5, 5}, {4, 1, 3, 3}, 4, 50, {.padding = {1, 1}, .groups = 4});
  add("conv2d several tiles", conv2d, {1, 2, 37, 33}, {3, 2, 3, 3}, 3, 1221, {.padding = {1, 1}});
  add("conv2d empty batch", conv2d, {0, 3, 5, 5}, {4, 3, 3, 3}, 4, 27);
  out.push_back({"conv2d transposed views",
                 [](Inputs in) { return conv2d(in[0].t(), in[1].transpose(0, 1), in[2]); },
                 {normal({2, 3, 5, 6}), normal({3, 4, 3, 2}), normal({4})}, 40});
  // In memory [batch, h, w, channels] and [out, kh, kw, channels]; where a result has one position, all lie so.
  const auto channels_innermost = [](Inputs in) {
    return conv2d(in[0].permute({0, 3, 1, 2}), in[1].permute({0, 3, 1, 2}), in[2]);
  };
  out.push_back({"conv2d channels innermost", channels_innermost,
                 {normal({2, 5, 6, 8}), normal({16, 3, 2, 8}), normal({16})}, 80});
  out.push_back({"conv2d channels innermost, one position", channels_innermost,
                 {normal({3, 4, 3, 8}), normal({16, 4, 3, 8}), normal({16})}, 96});

  for (const auto& [name, activation] :
       {std::pair{"conv2d relu", Activation::relu}, std::pair{"conv2d gelu_erf", Activation::gelu_erf},
        std::pair{"conv2d gelu_tanh", Activation::gelu_tanh}, std::pair{"conv2d silu", Activation::silu}})
    add(name, conv2d, {2, 3, 5, 4}, {4, 3, 3, 3}, 4, 40, {.padding = {1, 1}, .activation = activation});
  add("conv2d relu without bias", conv2d, {2, 4, 4, 5}, {4, 2, 2, 3}, 0, 30,
      {.stride = {1, 2}, .groups = 2, .activation = Activation::relu});

  add("conv_transpose2d plain", conv_transpose2d, {2, 3, 4, 5}, {3, 4, 3, 3}, 4, 60);
  add("conv_transpose2d without bias", conv_transpose2d, {2, 3, 4, 5}, {3, 4, 2, 3}, 0, 40);
  add("conv_transpose2d stride and output padding", conv_transpose2d, {2, 3, 4, 3}, {3, 2, 3, 3}, 2, 64,
      {.stride = {2, 3}, .padding = {1, 1}, .output_padding = {1, 2}});
  add("conv_transpose2d dilation", conv_transpose2d, {1, 2, 4, 3}, {2, 3, 2, 3}, 3, 60, {.dilation = {2, 2}});
  add("conv_transpose2d groups", conv_transpose2d, {2, 4, 3, 4}, {4, 3, 3, 3}, 6, 60, {.groups = 2});
  add("conv_transpose2d empty batch", conv_transpose2d, {0, 3, 4, 5}, {3, 4, 3, 3}, 4, 27);

  out.push_back({"conv1d plain", [](Inputs in) { return conv1d(in[0], in[1], in[2]); },
                 {normal({2, 3, 9}), normal({4, 3, 3}), normal({4})}, 18});
  out.push_back({"conv1d options",
                 [](Inputs in) {
                   return conv1d(in[0], in[1], in[2], {.stride = 2, .padding = 3, .dilation = 2, .groups = 2});
                 },
                 {normal({2, 4, 11}), normal({6, 2, 3}), normal({6})}, 24});
  out.push_back({"conv1d silu",
                 [](Inputs in) { return conv1d(in[0], in[1], in[2], {.activation = Activation::silu}); },
                 {normal({2, 3, 9}), normal({4, 3, 3}), normal({4})}, 18});
  out.push_back({"conv_transpose1d options",
                 [](Inputs in) {
                   return conv_transpose1d(in[0], in[1], in[2], {.stride = 3, .padding = 1, .output_padding = 2});
                 },
                 {normal({2, 4, 5}), normal({4, 3, 4}), normal({3})}, 36});
}

}  // namespace binade::test
