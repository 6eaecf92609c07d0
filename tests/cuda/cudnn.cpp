// Which calls become cuDNN plans and which go to our own kernels, with what they compute, on the simulated device,
// whose plans are loops of their own: pointers, strides, caches and fallbacks, not the library's numerics.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "binade/core/backend/graphed_step.h"
#include "binade/core/backend/trace.h"
#include "binade/tests/cuda/cudnn.h"

namespace binade::test {

namespace {

Tensor attend(const Tensors& in, SdpaOptions options = {}) {
  return scaled_dot_product_attention(in[0], in[1], in[2], in.size() > 3 ? in[3] : Tensor(), options);
}

using cuda::GraphedStep;

class CudnnDispatch : public CudnnTest {};

struct AttentionCase {
  const char* name;
  std::int64_t heads, kv_heads, time_q, time_k, d;
  bool causal;
};
constexpr AttentionCase attention_cases[] = {
    {"square, causal", 3, 3, 33, 33, 16, true},       {"more keys, causal", 2, 2, 17, 40, 8, true},
    {"fewer keys, causal", 2, 2, 40, 17, 8, true},    {"grouped-query", 6, 2, 19, 23, 32, false},
    {"one key head, causal", 4, 1, 20, 20, 64, true}, {"widest", 1, 1, 9, 21, 128, false},
};

TEST_F(CudnnDispatch, AttentionAndItsGradientsAsPlans) {
  for (const AttentionCase& c : attention_cases) {
    manual_seed(11);
    const Tensors inputs{randn({2, c.heads, c.time_q, c.d}), randn({2, c.kv_heads, c.time_k, c.d}),
                         randn({2, c.kv_heads, c.time_k, c.d})};
    const Function function = [&](const Tensors& in) { return attend(in, {.is_causal = c.causal, .scale = 0.3}); };
    EXPECT_EQ(library_calls(function, inputs), 2U) << c.name;
    for (const DType dtype : {DType::f16, DType::bf16})
      expect_close(
          function, inputs, dtype,
          std::max<double>(2.0 * static_cast<double>(c.time_k * c.heads / c.kv_heads), static_cast<double>(c.d)),
          std::string(c.name) + " " + to_text(dtype), gpu);
  }
}

TEST_F(CudnnDispatch, PackedAndTransposedViewsGoInAsTheyLie) {
  manual_seed(12);
  const Function packed = [](const Tensors& in) { return packed_self_attention(in[0], 3, {.is_causal = true}); };
  const Function transposed = [](const Tensors& in) {
    return attend({in[0].transpose(1, 2), in[1].transpose(1, 2), in[2].transpose(1, 2)});
  };
  const Tensors qkv{randn({2, 21, 72})}, separate{randn({2, 9, 3, 8}), randn({2, 11, 3, 8}), randn({2, 11, 3, 8})};
  EXPECT_EQ(library_calls(packed, qkv), 2U);
  EXPECT_EQ(library_calls(transposed, separate), 2U);
  for (const DType dtype : {DType::f16, DType::bf16}) {
    expect_close(packed, qkv, dtype, 42, "packed " + to_text(dtype), gpu);
    expect_close(transposed, separate, dtype, 22, "transposed " + to_text(dtype), gpu);
  }
}

TEST_F(CudnnDispatch, ForwardAndBackwardMayTakeDifferentRoads) {  // they agree on the logsumexp
  manual_seed(13);
  const Tensors inputs{randn({1, 2, 19, 16}), randn({1, 2, 19, 16}), randn({1, 2, 19, 16})};
  expect_different_roads([](const Tensors& in) { return attend(in, {.is_causal = true}); }, inputs, DType::bf16, 38);
}

TEST_F(CudnnDispatch, WhatPlansCannotDoGoesToOwnKernelsWithTheReason) {
  manual_seed(14);
  const auto inputs = [](std::int64_t d) {
    return Tensors{randn({1, 2, 9, d}), randn({1, 2, 9, d}), randn({1, 2, 9, d})};
  };
  Tensors masked = inputs(8);
  masked.push_back(randn({9, 9}));
  const auto expect_own = [&](const std::string& reason, const Tensors& in, SdpaOptions options = {},
                              DType dtype = DType::f16) {
    expect_own_kernels("attention", reason, [&](const Tensors& x) { return attend(x, options); }, in, dtype);
  };
  expect_own("d is not a multiple of 8", inputs(12));
  expect_own("d is not a multiple of 8 up to 256", inputs(4));
  expect_own("dropout", inputs(8), {.dropout = 0.5});
  expect_own("a mask", masked);
  expect_own("not f16 or bf16", inputs(8), {}, DType::f32);
  expect_own("cuDNN (simulated device): the head dimension must be", inputs(136));  // the library's own word
  {
    const OwnKernelsOnly own;
    expect_own("BINADE_CUDNN is 0", inputs(8));
  }
  const Tensor base = randn({2 * 9 * 8 + 1}).to(DType::f16).to(gpu);
  const Tensor shifted = base.slice(0, 1, 2 * 9 * 8 + 1).view({1, 2, 9, 8});
  EXPECT_TRUE(contains(traced([&] { attend({shifted, shifted, shifted}); }), "not aligned to 16 bytes"));
  const Tensor keys = randn({1, 1, 9, 8}).to(DType::f16).to(gpu).expand({1, 2, 9, 8});
  EXPECT_TRUE(contains(traced([&] { attend({keys, keys, keys}); }), "repeats elements"));
  const Tensor rows = randn({1, 2, 9, 12}).to(DType::f16).to(gpu).slice(3, 0, 8);
  EXPECT_TRUE(contains(traced([&] { attend({rows, rows, rows}); }), "rows are not aligned to 16 bytes"));
}

TEST_F(CudnnDispatch, UnwantedGradientsOfAttentionAreLeftToOwnKernels) {
  Tensor q = randn({1, 2, 9, 8}).to(DType::f16).to(gpu);
  const Tensor k = randn({1, 2, 9, 8}).to(DType::f16).to(gpu);
  q.requires_grad_();
  const Tensor y = attend({q, k, k});
  const std::string lines = traced([&] { y.backward(ones(y.shape(), {.dtype = DType::f16, .device = gpu})); });
  EXPECT_TRUE(contains(lines, "attention_backward on cuda:0: own kernels: not all gradients are wanted")) << lines;
}

struct ConvCase {
  const char* name;
  Shape x, weight;
  bool bias;
  Conv2dOptions options;
};
const ConvCase conv_cases[] = {
    {"3x3 with bias", {2, 8, 9, 7}, {16, 8, 3, 3}, true, {.padding = {1, 1}}},
    {"strided, dilated",
     {1, 8, 12, 11},
     {8, 8, 3, 2},
     false,
     {.stride = {2, 1}, .padding = {1, 2}, .dilation = {1, 2}}},
    {"groups with bias", {2, 8, 6, 6}, {24, 4, 2, 3}, true, {.padding = {0, 1}, .groups = 2}},
    {"pointwise", {2, 16, 5, 4}, {8, 16, 1, 1}, false, {}},
};

TEST_F(CudnnDispatch, ConvolutionsAndTheirGradientsAsPlans) {
  for (const ConvCase& c : conv_cases) {
    manual_seed(15);
    Tensors inputs{randn(c.x), randn(c.weight)};
    if (c.bias) inputs.push_back(randn({c.weight[0]}));
    const Function function = [&](const Tensors& in) {
      return conv2d(in[0], in[1], c.bias ? in[2] : Tensor(), c.options);
    };
    EXPECT_EQ(library_calls(function, inputs), 3U) << c.name;
    for (const DType dtype : {DType::f16, DType::bf16})
      expect_close(function, inputs, dtype, static_cast<double>(c.x.numel()), std::string(c.name) + to_text(dtype),
                   gpu);
  }
  const Tensors small{randn({1, 2, 5, 5}), randn({2, 2, 3, 3})};
  const Function convolve = [](const Tensors& in) { return conv2d(in[0], in[1], {}); };
  EXPECT_EQ(library_calls(convolve, small, DType::f32), 0U);
}

Tensor innermost(const Tensor& x) { return x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2}); }

// Results lie in order, so a call in which x or the weight does not is not a plan's, unless there is one position.
TEST_F(CudnnDispatch, OtherLayoutsOfConvolutionsGoToOwnKernels) {
  struct View {
    const char* name;
    std::function<Tensor(const Tensor&)> x, weight;
    std::uint64_t calls;  // forward and gradients
  };
  const auto same = [](const Tensor& t) { return t; };
  const auto turned = [](const Tensor& t) { return t.transpose(2, 3).contiguous().transpose(2, 3); };
  const auto exchanged = [](const Tensor& t) { return t.transpose(0, 1).contiguous().transpose(0, 1); };
  const auto with_gaps = [](const Tensor& t) { return cat({t, t}, 3).slice(3, 0, t.size(3)); };
  const View views[] = {
      {"channels innermost in both", innermost, innermost, 0},
      {"channels of x innermost", innermost, same, 1},
      {"width outside height", turned, same, 1},
      {"filters within channels", same, exchanged, 1},
      {"gaps in x", with_gaps, same, 1},
      {"gaps in the weight", same, with_gaps, 1},
      {"the batch within channels", exchanged, same, 1},
  };
  for (const View& view : views) {
    manual_seed(20);
    const Tensors inputs{randn({2, 8, 6, 8}), randn({16, 8, 3, 2}), randn({16})};
    const Function function = [&](const Tensors& in) { return conv2d(view.x(in[0]), view.weight(in[1]), in[2]); };
    std::uint64_t calls = 0;
    const std::string lines = traced([&] { calls = library_calls(function, inputs); });
    EXPECT_EQ(calls, view.calls) << view.name;
    EXPECT_TRUE(contains(lines, "conv2d on cuda:0: own kernels: the tensors lie neither all in order")) << lines;
    for (const DType dtype : {DType::f16, DType::bf16})
      expect_close(function, inputs, dtype, 2 * 8 * 48, std::string(view.name) + to_text(dtype), gpu);
  }
  const Function spread_bias = [](const Tensors& in) { return conv2d(in[0], in[1], in[2].slice(0, 0, 32, 2)); };
  const Tensors inputs{randn({2, 8, 6, 8}), randn({16, 8, 3, 2}), randn({32})};
  EXPECT_TRUE(contains(traced([&] { library_calls(spread_bias, inputs); }), "own kernels: the bias is not contiguous"));
  expect_close(spread_bias, inputs, DType::f16, 2 * 8 * 48, "spread bias", gpu);
}

TEST_F(CudnnDispatch, ConvolutionsWithAllChannelsInnermostArePlans) {  // a result of one position lies either way
  manual_seed(22);
  const Tensors inputs{randn({3, 8, 4, 3}), randn({16, 8, 4, 3})};
  const Function function = [](const Tensors& in) {
    return conv2d(innermost(in[0]), innermost(in[1]), {}, {.activation = Activation::relu});
  };
  std::uint64_t calls = 0;
  const std::string lines = traced([&] { calls = library_calls(function, inputs); });
  EXPECT_EQ(calls, 1U) << lines;
  EXPECT_TRUE(contains(lines, "conv2d with relu on cuda:0: cuDNN: ")) << lines;
  for (const DType dtype : {DType::f16, DType::bf16})
    expect_close(function, inputs, dtype, 3 * 8 * 12, "innermost " + to_text(dtype), gpu);
}

TEST_F(CudnnDispatch, ConvolutionBiasAndReluAreOnePlan) {
  for (const ConvCase& c : conv_cases) {
    manual_seed(17);
    Tensors inputs{randn(c.x), randn(c.weight), randn({c.weight[0]})};
    const Function function = [&](const Tensors& in) {
      Conv2dOptions options = c.options;
      options.activation = Activation::relu;
      return conv2d(in[0], in[1], in[2], options);
    };
    std::uint64_t calls = 0;
    const std::string lines = traced([&] { calls = library_calls(function, inputs); });
    EXPECT_EQ(calls, 3U) << c.name;
    EXPECT_TRUE(contains(lines, "conv2d with relu on cuda:0: cuDNN: ")) << lines;
    for (const DType dtype : {DType::f16, DType::bf16})
      expect_close(function, inputs, dtype, static_cast<double>(c.x.numel()), std::string(c.name) + to_text(dtype),
                   gpu);
    const Tensors there{inputs[0].to(DType::f16).to(gpu), inputs[1].to(DType::f16).to(gpu),
                        inputs[2].to(DType::f16).to(gpu)};
    function(there);
    const std::uint64_t before = simulator->counters().launches;
    function(there);
    EXPECT_EQ(simulator->counters().launches - before, 1U) << c.name << ": nothing but the plan";
  }
}

TEST_F(CudnnDispatch, WhereReluFindsNoPlanTheConvolutionStillDoes) {
  manual_seed(18);
  const Tensors inputs{randn({2, 8, 9, 7}), randn({16, 8, 3, 3})};
  const Function function = [](const Tensors& in) {
    return conv2d(in[0], in[1], {}, {.activation = Activation::relu});
  };
  std::uint64_t calls = 0;
  const std::string lines = traced([&] { calls = library_calls(function, inputs); });
  EXPECT_EQ(calls, 3U);
  EXPECT_TRUE(contains(lines, "conv2d with relu on cuda:0: own kernels: cuDNN (simulated device): relu")) << lines;
  EXPECT_TRUE(contains(lines, "conv2d on cuda:0: cuDNN: ")) << lines;
  expect_close(function, inputs, DType::bf16, 2 * 9 * 7 * 8, "relu without bias", gpu);
}

TEST_F(CudnnDispatch, ActivationsOfConvolutions) {  // relu in our own kernel, the others after either road
  for (const Activation activation :
       {Activation::relu, Activation::gelu_erf, Activation::gelu_tanh, Activation::silu}) {
    manual_seed(19);
    const Tensors inputs{randn({2, 8, 6, 5}), randn({8, 8, 3, 3}), randn({8})};
    const Function function = [&](const Tensors& in) {
      return conv2d(in[0], in[1], in[2], {.padding = {1, 1}, .activation = activation});
    };
    const std::string name = "activation " + std::to_string(static_cast<int>(activation));
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16})
      expect_close(function, inputs, dtype, 2 * 8 * 30, name + to_text(dtype), gpu);
    const OwnKernelsOnly own;
    expect_close(function, inputs, DType::f16, 2 * 8 * 30, name + " own", gpu);
  }
}

TEST_F(CudnnDispatch, ReluOfConvolutionsKeepsNaN) {
  Tensor x = full({1, 8, 3, 3}, -1);
  x.data<float>()[4] = std::numeric_limits<float>::quiet_NaN();
  const Tensor weight = ones({8, 8, 1, 1}), bias = zeros({8});
  const auto relu_of = [&](Device device) {
    const auto there = [&](const Tensor& t) { return t.to(DType::f16).to(device); };
    const Tensor y = conv2d(there(x), there(weight), there(bias), {.activation = Activation::relu});
    return y.to_vector<float>();
  };
  const std::vector<float> expected = relu_of(Device{});
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(std::isnan(expected[i]), i % 9 == 4) << i;
    EXPECT_TRUE(i % 9 == 4 || expected[i] == 0) << i;
  }
  for (const bool own : {false, true}) {
    if (own) setenv("BINADE_CUDNN", "0", 1);
    const std::vector<float> got = relu_of(gpu);
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(std::isnan(got[i]), std::isnan(expected[i])) << i << own;
  }
  unsetenv("BINADE_CUDNN");
}

TEST_F(CudnnDispatch, PlansAreMadeOnceAndKeptOnDisk) {
  const std::string folder = testing::TempDir() + "/binade_cudnn_cache";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directory(folder);
  const Variable wish("BINADE_CUDNN_CACHE", folder);
  const auto run_on = [&](int device, std::int64_t time, std::int64_t batch = 1) {
    const Tensor x = randn({batch, 1, time, 8}).to(DType::f16).to(Device{DeviceType::cuda, device});
    return traced([&] { attend({x, x, x}); });
  };
  EXPECT_TRUE(contains(run_on(0, 101), "cuDNN plan built"));
  EXPECT_FALSE(contains(run_on(0, 101), "cuDNN plan")) << "the plan is remembered";
  const Tensor same = randn({1, 101, 1, 8}).to(DType::f16).to(gpu).transpose(1, 2);  // one head, another stride
  const auto attend_same = [&] { scaled_dot_product_attention(same, same, same); };
  EXPECT_FALSE(contains(traced(attend_same), "cuDNN plan")) << "strides of dims of size 1 do not matter";
  EXPECT_TRUE(contains(run_on(0, 102), "cuDNN plan built")) << "another specification";
  EXPECT_TRUE(contains(run_on(0, 103, 2), "cuDNN plan built"));
  EXPECT_TRUE(contains(run_on(0, 103, 3), "cuDNN plan built")) << "only the batch differs, not the strides";
  EXPECT_TRUE(contains(run_on(1, 101), "cuDNN plan read from disk")) << "another device of the same kind";
  const auto count = std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
  EXPECT_EQ(count, 4);
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    std::ofstream(entry.path(), std::ios::app) << "damage";
  EXPECT_TRUE(contains(run_on(1, 102), "cuDNN plan built")) << "a damaged file";
  std::filesystem::remove_all(folder);
}

TEST_F(CudnnDispatch, CapturedStepsReplayPlans) {
  manual_seed(16);
  const Tensor weight = randn({24, 24}, {.device = gpu}), image = randn({8, 8, 3, 3}).to(DType::f16).to(gpu);
  const auto step = [&](const Tensors& in) -> Tensors {
    const Tensor qkv = matmul(in[0], weight).to(DType::f16);
    const Tensor y = packed_self_attention(qkv, 1, {.is_causal = true});
    return {conv2d(y.reshape({2, 1, 8, 8}).expand({2, 8, 8, 8}).contiguous(), image, {}).to(DType::f32)};
  };
  GraphedStep graphed(step, {.device = gpu});
  for (int t = 0; t < 6; ++t) {
    const Tensors batch{randn({2, 8, 24}).to(gpu)};
    const bool replayed = graphed.captured();
    const std::uint64_t before = simulator->counters().library_launches;
    const Tensor there = graphed(batch)[0].clone();
    EXPECT_EQ(simulator->counters().library_launches - before, replayed ? 0U : 3U) << t;
    expect_same_bits(there, step(batch)[0], "step " + std::to_string(t));
  }
  EXPECT_TRUE(graphed.captured());
}

TEST(Trace, SaysWhatIsAskedFor) {
  EXPECT_FALSE(traces("dispatch"));
  for (const auto& [value, expected] :
       {std::pair{"dispatch", true}, {"memory,dispatch", true}, {"dispatches", false}, {"", false}}) {
    const Variable wish("BINADE_TRACE", value);
    EXPECT_EQ(traces("dispatch"), expected) << value;
  }
}

}  // namespace

}  // namespace binade::test
