// A norm in a residual block: it writes autocast's dtype straight away, adds its gradient into the stream's, and is
// computed with the sum before it. All must have the bits of the plain way.
#include <gtest/gtest.h>

#include <optional>

#include "binade/binade.h"
#include "binade/core/autograd/observer.h"
#include "binade/tests/core/kernel_calls.h"

namespace {

using namespace binade;
using test::KernelCalls;

struct Norm {
  Tensor x = randn({33, 40}), weight = randn({40}), bias = randn({40});
  Norm() {
    for (Tensor* t : {&x, &weight, &bias}) t->requires_grad_();
  }
  std::vector<std::vector<float>> gradients() const {
    return {x.grad().to_vector<float>(), weight.grad().to_vector<float>(), bias.grad().to_vector<float>()};
  }
};

TEST(ResidualNorm, NarrowResultHasTheBitsOfACast) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    manual_seed(5);
    const Norm one;
    manual_seed(5);
    const Norm other;
    const Tensor narrow = layer_norm(one.x, one.weight, one.bias, 1e-5, dtype);
    const Tensor cast = layer_norm(other.x, other.weight, other.bias).to(dtype);
    ASSERT_EQ(narrow.dtype(), dtype);
    EXPECT_EQ(narrow.to_vector<float>(), cast.to_vector<float>());
    const Tensor dy = randn({33, 40}).to(dtype);
    narrow.backward(dy);
    cast.backward(dy);
    EXPECT_EQ(one.gradients(), other.gradients());
  }
}

TEST(ResidualNorm, OnlyAnF32InputIsNarrowed) {
  EXPECT_EQ(layer_norm(randn({4, 8}, {.dtype = DType::f64}), {}, {}, 1e-5, DType::bf16).dtype(), DType::f64);
  EXPECT_THROW(layer_norm(randn({4, 8}), {}, {}, 1e-5, DType::i64), Error);
}

struct Watching final : Observer {};  // sees contributions one by one, so they are added afterwards

template <class Block>
std::vector<std::vector<float>> train(bool observed, const Block& block) {
  manual_seed(6);
  const Norm norm;
  Watching nothing;
  std::optional<ObserverScope> scope;
  if (observed) scope.emplace(nothing);
  const Tensor stream = norm.x * 2.0;  // the sum belongs to an operation, not to a leaf
  sum(mul(block(stream, norm), randn({33, 40}))).backward();
  return norm.gradients();
}

TEST(ResidualNorm, AddsIntoTheStreamsGradient) {
  const auto layer = [](const Tensor& x, const Norm& n) { return x + layer_norm(x, n.weight, n.bias); };
  EXPECT_EQ(train(false, layer), train(true, layer));
  const auto twice = [&](const Tensor& x, const Norm& n) { return layer(layer(x, n), n); };
  EXPECT_EQ(train(false, twice), train(true, twice));
  const auto rms = [](const Tensor& x, const Norm& n) { return x + rms_norm(x, n.weight) * n.bias; };
  EXPECT_EQ(train(false, rms), train(true, rms));
  // the stream's gradient is shared with another consumer's and must not change under it
  const auto shared = [](const Tensor& x, const Norm& n) { return (x + x) + layer_norm(x, n.weight, n.bias); };
  EXPECT_EQ(train(false, shared), train(true, shared));
  // the norm comes last in forward, so that it is the first to deliver
  const auto first = [](const Tensor& x, const Norm& n) { return layer_norm(x, n.weight, n.bias) + x; };
  EXPECT_EQ(train(false, first), train(true, first));
}

TEST(ResidualNorm, AHookSeesTheWholeSum) {
  manual_seed(7);
  const Norm norm;
  Tensor stream = norm.x * 2.0;
  Tensor seen;
  stream.register_hook([&](const Tensor& g) {
    seen = g.clone();
    return Tensor();
  });
  sum(stream + layer_norm(stream, norm.weight, norm.bias)).backward();
  const auto whole = seen.to_vector<float>(), of_x = norm.x.grad().to_vector<float>();
  for (std::size_t i = 0; i < whole.size(); ++i) EXPECT_EQ(2 * whole[i], of_x[i]);
}

// What a block means, written with the public parts.
Tensor by_parts(const nn::TransformerBlock& block, const Tensor& x) {
  const Tensor y = x + block.attn(block.ln_1(x));
  return y + block.mlp(block.ln_2(y));
}

TEST(ResidualNorm, ABlockIsItsParts) {
  for (const bool training : {true, false}) {
    manual_seed(8);
    nn::TransformerBlock block(16, 2, {.causal = true, .dropout = 0.3}), other(16, 2, {.causal = true, .dropout = 0.3});
    const nn::LayerNorm last(16);
    for (nn::Module* module : {static_cast<nn::Module*>(&block), static_cast<nn::Module*>(&other)})
      module->train(training);
    const Tensor x = randn({2, 5, 16});
    manual_seed(9);
    const Tensor expected = by_parts(other, by_parts(block, x));
    manual_seed(9);
    EXPECT_EQ(other(block(x)).to_vector<float>(), expected.to_vector<float>());
    manual_seed(9);
    const NormedSum stacked = other(block(NormedSum{x, block.ln_1(x)}, other.ln_1), last);
    EXPECT_EQ(stacked.sum.to_vector<float>(), expected.to_vector<float>());
    EXPECT_EQ(stacked.normed.to_vector<float>(), last(expected).to_vector<float>());
  }
}

// Two sums a block, each with the norm that reads it; alone are the first block's first norm, the sum of embeddings and
// the dropout after it. A checkpointed block ends in its sum, which the next one's norm then reads.
TEST(ResidualNorm, AGptComputesItsNormsWithItsSums) {
  for (const double p : {0.0, 0.25})
    for (const bool checkpointing : {false, true}) {
      const nn::GPT gpt({.vocab_size = 11,
                         .block_size = 8,
                         .n_layer = 3,
                         .n_head = 2,
                         .n_embd = 8,
                         .dropout = p,
                         .activation_checkpointing = checkpointing});
      const amp::Autocast autocast(DType::bf16);
      KernelCalls kernels;
      gpt.hidden(randint(0, 11, {2, 6}));
      EXPECT_EQ(kernels.calls["add_norm"], checkpointing ? 3 : 6);
      EXPECT_EQ(kernels.calls["layer_norm"], checkpointing ? 4 : 1);
      EXPECT_EQ(kernels.calls["add"], checkpointing ? 4 : 1);
      EXPECT_EQ(kernels.calls["dropout"], p == 0 ? 0 : checkpointing ? 4 : 1);
    }
}

}  // namespace
