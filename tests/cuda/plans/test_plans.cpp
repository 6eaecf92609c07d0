// The real cuDNN builds every plan of the examples, of GPT-2 and of a small convolutional network for six GPUs, of
// which none need be there: that the library accepts shapes, layouts and dtypes, not that its kernels are right
// (docs/gpu_truth.md).
#include <cuda_occupancy.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>

#include "binade/core/base/error.h"
#include "binade/cuda/libs/cudnn_plans.h"
#include "binade/tests/cuda/plans/devices.h"

namespace binade::test {

namespace {

using namespace cuda;

// [a, b, c, d] where the dim named first in `order` lies innermost.
PlanTensor laid_out(DType dtype, std::array<std::int64_t, 4> dims, std::array<int, 4> order = {3, 2, 1, 0}) {
  PlanTensor tensor{true, dtype, dims, {}};
  std::int64_t stride = 1;
  for (const int d : order) {
    tensor.strides[static_cast<std::size_t>(d)] = stride;
    stride *= dims[static_cast<std::size_t>(d)];
  }
  return tensor;
}

struct Attention {
  const char* name;
  std::int64_t batch, heads, kv_heads, time, d;
  bool causal = true, packed = true;  // packed: views of [batch, time, 3 heads d], as nn::GPT has them
  std::int64_t keys = 0;              // 0: as many as queries
  bool padded = false;                // sequences have lengths
};
// Dropout is not among them: it goes to our own kernels (docs/gpu_truth.md).
constexpr Attention attentions[] = {
    {"gpt tiny", 12, 4, 4, 64, 32},
    {"gpt small", 8, 6, 6, 256, 64},
    {"gpt2, 1024 tokens", 4, 12, 12, 1024, 64},
    {"gpt2-xl, 25 heads", 4, 25, 25, 1024, 64},  // medium and large differ in the number of heads only
    {"separate, not causal", 2, 8, 8, 512, 128, false, false},
    {"grouped-query", 2, 8, 2, 512, 64, true, false},
    {"fewer queries than keys", 2, 8, 8, 64, 64, true, false, 320},
};
constexpr Attention padded[] = {
    {"padded", 4, 12, 12, 512, 64, false, true, 0, true},
    {"padded, no multiple, causal", 3, 4, 4, 77, 32, true, true, 0, true},
    {"padded, separate, d 128", 2, 8, 8, 512, 128, true, false, 0, true},
    {"padded, grouped-query", 2, 8, 2, 320, 64, false, false, 0, true},
    {"padded, fewer keys, causal", 2, 8, 8, 320, 64, true, false, 64, true},
};
// A sequence that grows token by token, as GPT::generate makes: forward only.
constexpr Attention growing[] = {
    {"generate, 1 token", 1, 4, 4, 1, 32},
    {"generate, 63 tokens", 1, 4, 4, 63, 32},
    {"generate, 201 tokens", 1, 6, 6, 201, 64},
};

// A view of [batch, time, parts heads d] as the backend describes it.
PlanTensor heads_of(const Attention& a, DType dtype, std::int64_t heads, std::int64_t parts) {
  const std::int64_t row = parts * heads * a.d;
  return plan_tensor({.data = nullptr,
                      .shape = {a.batch, heads, a.time, a.d},
                      .strides = {a.time * row, a.d, row, 1},
                      .dtype = dtype,
                      .device = {}});
}
SdpaForward forward_of(const Attention& a, DType dtype) {
  const std::int64_t parts = a.packed ? 3 : 1, keys = a.keys ? a.keys : a.time;
  const auto of = [&](std::int64_t heads, std::int64_t count, std::int64_t time) {
    return a.packed ? heads_of(a, dtype, heads, count) : laid_out(dtype, {a.batch, heads, time, a.d});
  };
  const PlanTensor lengths = a.padded ? laid_out(DType::i32, {a.batch, 1, 1, 1}) : PlanTensor{};
  return {of(a.heads, parts, a.time),
          of(a.kv_heads, parts, keys),
          of(a.kv_heads, parts, keys),
          lengths,
          lengths,
          of(a.heads, 1, a.time),
          laid_out(DType::f32, {a.batch, a.heads, a.time, 1}),
          0.125,
          a.causal};
}
SdpaBackward backward_of(const Attention& a, DType dtype) {
  const SdpaForward f = forward_of(a, dtype);
  return {f.q, f.k, f.v, f.o, f.o, f.lse, f.q_lengths, f.kv_lengths, f.q, f.k, f.v, f.scale, f.causal};
}

struct Convolution {
  const char* name;
  std::int64_t batch, c_in, c_out, size, kernel, stride, padding;
  bool channels_last, result_last;  // the innermost dim of x and weight, and of y
};
constexpr Convolution convolutions[] = {
    {"3x3, channels last", 16, 32, 64, 28, 3, 1, 1, true, true},
    {"3x3", 16, 32, 64, 28, 3, 1, 1, false, false},
    {"strided 3x3", 16, 64, 128, 14, 3, 2, 1, false, false},
    {"first layer 5x5", 16, 1, 32, 28, 5, 1, 2, false, false},
    {"3x3, last into first", 16, 32, 64, 28, 3, 1, 1, true, false},
    {"compare_my_model, first", 64, 1, 16, 8, 3, 1, 1, false, false},
    {"compare_my_model, second", 64, 16, 32, 4, 3, 1, 1, false, false},
};
std::vector<PlanSpec> plans_of(const Convolution& c, DType dtype) {
  constexpr std::array<int, 4> last{1, 3, 2, 0}, first{3, 2, 1, 0};
  const std::array<int, 4> order = c.channels_last ? last : first;
  const std::int64_t out = (c.size + 2 * c.padding - c.kernel) / c.stride + 1;
  const PlanTensor x = laid_out(dtype, {c.batch, c.c_in, c.size, c.size}, order);
  const PlanTensor weight = laid_out(dtype, {c.c_out, c.c_in, c.kernel, c.kernel}, order);
  const PlanTensor y = laid_out(dtype, {c.batch, c.c_out, out, out}, c.result_last ? last : first);
  const PlanTensor bias = laid_out(dtype, {1, c.c_out, 1, 1}, {1, 3, 2, 0});
  const ConvGeometry g{{c.stride, c.stride}, {c.padding, c.padding}, {1, 1}};
  return {ConvForward{x, weight, {}, y, g}, ConvForward{x, weight, bias, y, g},
          ConvForward{x, weight, bias, y, g, true}, ConvDataGradient{y, weight, x, g},
          ConvWeightGradient{x, y, weight, g}};
}

// Batch norm of [batch, channels, positions], as ops/channel_norm.cpp describes images of any size.
struct Norm {
  const char* name;
  std::int64_t batch, channels, positions;
};
constexpr Norm norms[] = {
    {"after 3x3", 16, 32, 28 * 28},
    {"after strided 3x3", 16, 64, 14 * 14},
    {"[batch, channels]", 64, 128, 1},
};
BatchNormForward forward_of(const Norm& n, DType dtype, bool running) {
  const PlanTensor x = laid_out(dtype, {n.batch, n.channels, n.positions, 1});
  const PlanTensor channels = laid_out(DType::f32, {1, n.channels, 1, 1}), absent;
  const PlanTensor statistics = running ? channels : absent;
  return {x,        channels, channels,   statistics, statistics, x,
          channels, channels, statistics, statistics, 1e-5,       running ? 0.1 : 0};
}
BatchNormBackward backward_of(const Norm& n, DType dtype) {
  const BatchNormForward f = forward_of(n, dtype, false);
  return {f.x, f.x, f.scale, f.scale, f.scale, f.x, f.scale, f.scale};
}

// The frontend exchanges the last two dims of keys and values, with their strides: the same elements.
void expect_same(PlanTensor found, const NamedTensor& wanted, const std::string& text) {
  if ((wanted.name == "k" || wanted.name == "v") && found.strides[2] == 1) {
    std::swap(found.dims[2], found.dims[3]);
    std::swap(found.strides[2], found.strides[3]);
  }
  EXPECT_EQ(found.dims, wanted.tensor.dims) << wanted.name << " of " << text;
  EXPECT_EQ(found.strides, wanted.tensor.strides) << wanted.name << " of " << text;
  EXPECT_EQ(found.dtype, wanted.tensor.dtype) << wanted.name << " of " << text;
}

class CudnnPlans : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      library_ = plan_library();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }
  // Builds the plan, checks that it is of the specification, and prints it; "" or why the library refused.
  std::string build(const GpuDescription& gpu, const char* name, const PlanSpec& spec) {
    try {
      const auto start = std::chrono::steady_clock::now();
      const auto plan = build_plan(spec, {properties_of(gpu), {}});
      const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
      const std::string text = to_text(spec);
      fmt::print("  {:24} {:18} {:22} {:5.0f} ms, workspace {:9}, {}\n", gpu.name, text.substr(0, text.find(' ')), name,
                 time.count(), plan->workspace_bytes(), plan->engine());
      const std::vector<NamedTensor> wanted = tensors_of(spec);
      const std::vector<PlanTensor> found = plan->tensors();
      EXPECT_EQ(found.size(), wanted.size());
      for (std::size_t i = 0; i < wanted.size(); ++i) expect_same(found[i], wanted[i], text);
      ++built_;
      return {};
    } catch (const Error& error) {
      return error.what();
    }
  }
  std::string library_;
  int built_ = 0;
};

constexpr DType half_types[] = {DType::f16, DType::bf16};

TEST_F(CudnnPlans, AttentionOfTheExamplesAndOfGpt2) {
  fmt::print("{}\n", library_);
  for (const GpuDescription& gpu : gpus)
    for (const DType dtype : half_types)
      for (const Attention& a : attentions) {
        EXPECT_EQ(build(gpu, a.name, forward_of(a, dtype)), "") << gpu.name;
        EXPECT_EQ(build(gpu, a.name, backward_of(a, dtype)), "") << gpu.name;
      }
  fmt::print("{} plans\n", built_);
}

TEST_F(CudnnPlans, AttentionOfPaddedSequences) {
  for (const GpuDescription& gpu : gpus)
    for (const DType dtype : half_types)
      for (const Attention& a : padded) {
        EXPECT_EQ(build(gpu, a.name, forward_of(a, dtype)), "") << gpu.name;
        EXPECT_EQ(build(gpu, a.name, backward_of(a, dtype)), "") << gpu.name;
      }
  fmt::print("{} plans\n", built_);
}

TEST_F(CudnnPlans, AttentionOverSequencesOfAnyLength) {
  for (const GpuDescription& gpu : gpus)
    for (const DType dtype : half_types)
      for (const Attention& a : growing) EXPECT_EQ(build(gpu, a.name, forward_of(a, dtype)), "") << gpu.name;
  fmt::print("{} plans\n", built_);
}

TEST_F(CudnnPlans, ConvolutionsOfASmallNetwork) {
  for (const GpuDescription& gpu : gpus)
    for (const DType dtype : half_types)
      for (const Convolution& c : convolutions)
        for (const PlanSpec& spec : plans_of(c, dtype)) EXPECT_EQ(build(gpu, c.name, spec), "") << gpu.name;
  fmt::print("{} plans\n", built_);
}

TEST_F(CudnnPlans, BatchNormInTraining) {
  for (const GpuDescription& gpu : gpus)
    for (const DType dtype : {DType::f16, DType::bf16, DType::f32})
      for (const Norm& n : norms) {
        for (const bool running : {true, false}) EXPECT_EQ(build(gpu, n.name, forward_of(n, dtype, running)), "");
        EXPECT_EQ(build(gpu, n.name, backward_of(n, dtype)), "") << gpu.name;
      }
  fmt::print("{} plans\n", built_);
}

// Each differs in one thing from a specification that is accepted.
TEST_F(CudnnPlans, WrongSpecificationsAreRefused) {
  for (const GpuDescription& gpu : gpus) {
    const SdpaForward good = forward_of({"", 2, 4, 4, 128, 64, true, false}, DType::f16);
    EXPECT_EQ(build(gpu, "good", good), "");
    const SdpaForward wide = forward_of({"", 2, 4, 4, 128, 260, true, false}, DType::f16);
    EXPECT_NE(build(gpu, "d 260", wide), "") << gpu.name;
    SdpaForward other_keys = good;
    other_keys.k = forward_of({"", 2, 4, 4, 128, 32, true, false}, DType::f16).k;
    EXPECT_NE(build(gpu, "k with another d", other_keys), "") << gpu.name;
    const SdpaForward with_lengths = forward_of(padded[2], DType::f16);
    EXPECT_EQ(build(gpu, "good", with_lengths), "");
    SdpaForward one_sided = with_lengths;  // the simulated device refuses both too, and lengths that are not i32
    one_sided.kv_lengths = {};
    EXPECT_NE(build(gpu, "lengths of queries alone", one_sided), "") << gpu.name;
    SdpaForward long_lengths = with_lengths;
    long_lengths.q_lengths = laid_out(DType::i32, {3, 1, 1, 1});
    EXPECT_NE(build(gpu, "three lengths for two sequences", long_lengths), "") << gpu.name;

    const auto convolution = std::get<ConvForward>(plans_of(convolutions[0], DType::f16)[0]);
    EXPECT_EQ(build(gpu, "good", convolution), "");
    ConvForward channels = convolution;
    channels.weight = laid_out(DType::f16, {64, 24, 3, 3}, {1, 3, 2, 0});
    EXPECT_NE(build(gpu, "24 of 32 channels", channels), "") << gpu.name;
    ConvForward size = convolution;
    size.y = laid_out(DType::f16, {16, 64, 27, 27}, {1, 3, 2, 0});
    EXPECT_NE(build(gpu, "y too small", size), "") << gpu.name;
    auto relu = std::get<ConvForward>(plans_of(convolutions[1], DType::f16)[2]);
    EXPECT_EQ(build(gpu, "good", relu), "") << gpu.name;
    relu.bias = {};  // the simulated device refuses it too
    EXPECT_NE(build(gpu, "relu without bias", relu), "") << gpu.name;

    const Norm twelve{"12 channels", 16, 12, 196};
    EXPECT_EQ(build(gpu, "good", forward_of(twelve, DType::f32, true)), "") << gpu.name;
    EXPECT_NE(build(gpu, "12 channels in f16", forward_of(twelve, DType::f16, true)), "") << gpu.name;
    EXPECT_NE(build(gpu, "12 channels in f16", backward_of(twelve, DType::f16)), "") << gpu.name;
  }
  SdpaForward doubles = forward_of(attentions[0], DType::f16);
  doubles.q.dtype = DType::f64;
  EXPECT_NE(build(gpus[0], "f64", doubles).find("f64"), std::string::npos);
}

TEST_F(CudnnPlans, PlansComeBackFromTheirBytes) {
  const std::vector<PlanSpec> specs = {
      forward_of(attentions[0], DType::bf16),   backward_of(attentions[0], DType::bf16),
      forward_of(padded[1], DType::f16),        backward_of(padded[1], DType::f16),
      plans_of(convolutions[1], DType::f16)[2], forward_of(norms[0], DType::bf16, true),
      backward_of(norms[0], DType::f32)};
  for (const GpuDescription& gpu : {gpus[0], gpus[4]})
    for (const PlanSpec& spec : specs) {
      const auto plan = build_plan(spec, {properties_of(gpu), {}});
      std::vector<std::uint8_t> bytes = plan->serialize();
      const auto restored = restore_plan(spec, {properties_of(gpu), {}}, bytes);
      EXPECT_EQ(restored->engine(), plan->engine());
      EXPECT_EQ(restored->workspace_bytes(), plan->workspace_bytes());
      const std::vector<NamedTensor> wanted = tensors_of(spec);
      for (std::size_t i = 0; i < wanted.size(); ++i) expect_same(restored->tensors()[i], wanted[i], to_text(spec));
      bytes.resize(bytes.size() / 2);
      EXPECT_THROW(restore_plan(spec, {properties_of(gpu), {}}, bytes), Error);
    }
}

TEST(Gpus, AreAsTheToolkitsOccupancyTableSays) {
  for (const GpuDescription& gpu : gpus) {
    cudaOccDeviceProp properties{};
    properties.computeMajor = gpu.architecture / 100;
    properties.computeMinor = gpu.architecture / 10 % 10;
    const std::size_t capacity = static_cast<std::size_t>(gpu.shared_kib) * 1024;
    std::size_t fits = capacity, more = capacity + 1;
    EXPECT_EQ(cudaOccAlignUpShmemSizeVoltaPlus(&fits, &properties), CUDA_OCC_SUCCESS) << gpu.name;
    EXPECT_EQ(fits, capacity) << gpu.name << ": one of the capacities";
    EXPECT_NE(cudaOccAlignUpShmemSizeVoltaPlus(&more, &properties), CUDA_OCC_SUCCESS) << gpu.name << ": the largest";
    int blocks = 0;
    ASSERT_EQ(cudaOccMaxBlocksPerMultiprocessor(&blocks, &properties), CUDA_OCC_SUCCESS) << gpu.name;
    EXPECT_EQ(blocks, gpu.blocks_per_multiprocessor) << gpu.name;
  }
}

}  // namespace

}  // namespace binade::test
