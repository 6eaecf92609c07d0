// The GPT model against PyTorch's results in tests/golden, and generation.
#include <gtest/gtest.h>

#include "binade/core/amp/autocast.h"
#include "binade/core/autograd/observer.h"
#include "binade/core/backend/memory.h"
#include "binade/core/base/random.h"
#include "binade/core/io/safetensors.h"
#include "binade/ops/nn/nn.h"

namespace {

using namespace binade;

constexpr nn::GPTConfig golden_config{.vocab_size = 61, .block_size = 16, .n_layer = 3, .n_head = 4, .n_embd = 32};

struct Golden {
  io::TensorMap all = io::load(BINADE_SOURCE_DIR "/tests/golden/gpt.safetensors");
  io::TensorMap parameters() const {
    io::TensorMap out;
    for (const auto& [name, x] : all) {
      if (name.starts_with("param.")) out[name.substr(6)] = x;
    }
    return out;
  }
};

// Largest difference, relative to the largest element of `expected`.
double difference(const Tensor& got, const Tensor& expected) {
  const std::vector<double> a = got.to_vector<double>(), b = expected.to_vector<double>();
  double worst = 0, scale = 1e-30;
  for (std::size_t i = 0; i < b.size(); ++i) {
    worst = std::max(worst, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(b[i]));
  }
  return worst / scale;
}

void compare_with_golden(DType dtype, double logits_tolerance, double gradient_tolerance, std::int64_t loss_chunk = 0) {
  const Golden golden;
  nn::GPTConfig config = golden_config;
  config.loss_chunk = loss_chunk;
  nn::GPT gpt(config);
  gpt.to(dtype);
  gpt.load_state_dict(golden.parameters());
  const Tensor& tokens = golden.all.at("tokens");
  EXPECT_LT(difference(gpt(tokens), golden.all.at("logits")), logits_tolerance);
  const Tensor loss = gpt.loss(tokens, golden.all.at("targets"));
  EXPECT_NEAR(loss.item<double>(), golden.all.at("loss").item<double>(), 5 * logits_tolerance);
  loss.backward();
  for (const auto& [name, x] : gpt.named_parameters()) {
    ASSERT_TRUE(x.grad().defined()) << name;
    // The key part of the qkv biases has no gradient but rounding: measured against the whole tensor.
    EXPECT_LT(difference(x.grad(), golden.all.at("grad." + name)), gradient_tolerance) << name;
  }
}

TEST(GPTGolden, Double) { compare_with_golden(DType::f64, 1e-6, 1e-6); }  // the files hold f32
TEST(GPTGolden, Single) { compare_with_golden(DType::f32, 1e-5, 1e-4); }
TEST(GPTGolden, DoubleWithALossByChunks) { compare_with_golden(DType::f64, 1e-6, 1e-6, 7); }
TEST(GPTGolden, SingleWithALossByChunks) { compare_with_golden(DType::f32, 1e-5, 1e-4, 7); }

// The same bits, dropout and 16-bit products included, and less memory.
TEST(GPT, ActivationCheckpointing) {
  struct Result {
    double loss;
    std::vector<std::vector<float>> gradients;
    std::size_t activations;
  };
  const auto run = [](bool checkpointing) {
    manual_seed(5);
    nn::GPTConfig config = golden_config;
    config.n_layer = 6;
    config.dropout = 0.1;
    config.activation_checkpointing = checkpointing;
    const nn::GPT gpt(config);
    const Tensor tokens = randint(0, 61, {8, 16});
    reset_peak_memory();
    const std::size_t before = memory_stats().peak_total;
    Tensor loss;
    {
      const amp::Autocast autocast(DType::bf16);
      loss = gpt.loss(tokens, tokens);
    }
    loss.backward();
    Result result{loss.item<double>(), {}, memory_stats().peak_total - before};
    for (const Tensor& x : gpt.parameters()) result.gradients.push_back(x.grad().to_vector<float>());
    return result;
  };
  const Result plain = run(false), checkpointed = run(true);
  EXPECT_EQ(checkpointed.loss, plain.loss);
  EXPECT_EQ(checkpointed.gradients, plain.gradients);
  EXPECT_LT(checkpointed.activations, plain.activations);
  std::printf("    %zu bytes beyond the parameters at the peak, %zu with checkpointing\n", plain.activations, checkpointed.activations);
}

// All 64 tokens in one chunk: dy / 64 is a power of two, so that no bit differs, through the tied embedding as well.
TEST(GPT, OneChunkOfTheLossHasTheSameBits) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const auto run = [&](std::int64_t loss_chunk) {
      manual_seed(5);
      nn::GPTConfig config = golden_config;
      config.loss_chunk = loss_chunk;
      const nn::GPT gpt(config);
      const Tensor tokens = randint(0, 61, {4, 16});
      Tensor loss;
      {
        const amp::Autocast autocast(dtype);
        loss = gpt.loss(tokens, tokens);
      }
      loss.backward(full({}, 1024));  // above f16's subnormals, which only the plain path has
      std::vector<std::vector<float>> all{loss.to_vector<float>()};
      for (const Tensor& x : gpt.parameters()) all.push_back(x.grad().to_vector<float>());
      return all;
    };
    EXPECT_EQ(run(64), run(0)) << to_text(dtype);
  }
}

TEST(GPT, Generate) {
  const Golden golden;
  nn::GPT gpt(golden_config);
  gpt.load_state_dict(golden.parameters());
  const Tensor start = from_vector<std::int64_t>({1, 2, 3, 4}, {2, 2});
  const Tensor likeliest = gpt.generate(start, 20, {.temperature = 0});  // longer than block_size
  ASSERT_EQ(likeliest.shape(), (Shape{2, 22}));
  EXPECT_EQ(likeliest.to_vector<std::int64_t>(), gpt.generate(start, 20, {.top_k = 1}).to_vector<std::int64_t>());
  manual_seed(5);
  const auto first = gpt.generate(start, 8).to_vector<std::int64_t>();
  manual_seed(5);
  EXPECT_EQ(gpt.generate(start, 8).to_vector<std::int64_t>(), first);
  for (const std::int64_t token : first) EXPECT_TRUE(token >= 0 && token < 61);
  EXPECT_TRUE(gpt.training());
  EXPECT_THROW(gpt.generate(start, 1, {.temperature = -1}), Error);
}

TEST(GPT, ALossByChunksHasNoLogits) {
  struct Largest final : Observer {
    std::int64_t numel = 0;
    void on_forward(const OpPtr&, Inputs, const Tensor& output) override { numel = std::max(numel, output.numel()); }
  };
  const auto largest = [](std::int64_t loss_chunk) {
    nn::GPTConfig config = golden_config;
    config.vocab_size = 611;
    config.loss_chunk = loss_chunk;
    const nn::GPT gpt(config);
    const Tensor tokens = randint(0, 611, {4, 16});
    Largest seen;
    const ObserverScope watching(seen);
    gpt.loss(tokens, tokens).backward();
    return seen.numel;
  };
  EXPECT_EQ(largest(0), 64 * 611);
  EXPECT_LT(largest(16), 64 * 611);
}

TEST(GPT, RejectsANegativeLossChunk) {
  nn::GPTConfig config = golden_config;
  config.loss_chunk = -1;
  EXPECT_THROW(nn::GPT{config}, Error);
}

TEST(GPT, RejectsBadTokens) {
  const nn::GPT gpt(golden_config);
  EXPECT_THROW(gpt(zeros({1, 17}, {.dtype = DType::i64})), Error);
  EXPECT_THROW(gpt(zeros({4}, {.dtype = DType::i64})), Error);
  EXPECT_THROW(gpt.loss(zeros({1, 4}, {.dtype = DType::i64}), zeros({1, 3}, {.dtype = DType::i64})), Error);
}

}  // namespace
