// Transformer blocks on batches of padded sequences.
#include <gtest/gtest.h>

#include "binade/core/base/random.h"
#include "binade/ops/nn/nn.h"

namespace {

using namespace binade;

struct Outcome {
  std::vector<double> valid;                   // the result where the sequences are
  std::vector<std::vector<double>> gradients;  // of x there, and of the parameters
};

// What a block makes of sequences of 7, 2 and 4 tokens with padding drawn from a seed; its loss looks at the
// sequences alone.
Outcome run_padded(std::uint64_t padding_seed, bool causal, bool with_lengths = true) {
  const std::vector<std::int64_t> lengths{7, 2, 4};
  std::vector<float> is_token;
  for (const std::int64_t length : lengths)
    for (std::int64_t i = 0; i < 7 * 16; ++i) is_token.push_back(i / 16 < length ? 1.0F : 0.0F);
  const Tensor inside = from_vector(is_token, {3, 7, 16});
  manual_seed(8);
  const nn::TransformerBlock block(16, 2, {.causal = causal});
  const Tensor tokens = randn({3, 7, 16}) * inside;
  manual_seed(padding_seed);
  const Tensor x = (tokens + randn({3, 7, 16}) * (ones({3, 7, 16}) - inside)).detach().requires_grad_();
  const Tensor y = block(x, with_lengths ? from_vector(lengths, {3}) : Tensor()) * inside;
  sum(y * y).backward();
  Outcome outcome{y.to_vector<double>(), {(x.grad() * inside).to_vector<double>()}};
  for (const Tensor& p : block.parameters()) outcome.gradients.push_back(p.grad().to_vector<double>());
  return outcome;
}

TEST(PaddedSequences, PaddingDoesNotMatter) {
  for (const bool causal : {false, true}) {
    const Outcome a = run_padded(1, causal), b = run_padded(2, causal);
    EXPECT_EQ(a.valid, b.valid);
    EXPECT_EQ(a.gradients, b.gradients);
  }
  EXPECT_NE(run_padded(1, false, false).valid, run_padded(2, false, false).valid) << "without lengths it does";
}

}  // namespace
