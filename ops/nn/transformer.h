// The pre-norm transformer (Vaswani et al. 2017; Radford et al. 2019, GPT-2) and its parts.
#pragma once
#include <cstdint>

#include "binade/ops/nn/layers.h"
#include "binade/ops/nn/module.h"

namespace binade::nn {

struct AttentionSettings {
  bool causal = false;
  double dropout = 0;  // of the probabilities and of the result
  bool bias = true;
};
// Self-attention: x [batch, time, channels] -> the same. With lengths, i32 or i64 [batch], of padded sequences, nothing
// attends to what lies beyond them (SelfAttentionOptions).
struct MultiHeadAttention : Module {
  MultiHeadAttention(std::int64_t channels, std::int64_t head_count, AttentionSettings settings = {});
  Tensor operator()(const Tensor& x, const Tensor& lengths = {}) const;
  // without the dropout of the result, which a sum may take along
  Tensor before_dropout(const Tensor& x, const Tensor& lengths = {}) const;
  double result_dropout() const { return training() ? dropout_p : 0; }
  std::int64_t heads;
  bool causal;
  double dropout_p;
  Linear qkv, proj;  // [3 * channels, channels], [channels, channels]
};

struct MLPSettings {
  double dropout = 0;
  bool bias = true;
};
struct MLP : Module {  // proj(gelu(fc(x))), GELU in its tanh form, computed with fc
  MLP(std::int64_t channels, std::int64_t hidden, MLPSettings settings = {});
  Tensor operator()(const Tensor& x) const;
  Tensor before_dropout(const Tensor& x) const;  // as MultiHeadAttention's
  double result_dropout() const { return training() ? dropout_p : 0; }
  double dropout_p;
  Linear fc, proj;
};

struct TransformerBlock : Module {  // x + attn(ln_1(x), lengths), then x + mlp(ln_2(x))
  TransformerBlock(std::int64_t channels, std::int64_t heads, AttentionSettings settings = {});
  Tensor operator()(const Tensor& x, const Tensor& lengths = {}) const;
  // The same within a stack, where each sum is computed together with the norm that reads it, the next block's first or
  // the stack's last: x.normed is ln_1 of x.sum, and the result's normed is next of the result's sum.
  NormedSum operator()(const NormedSum& x, const LayerNorm& next, const Tensor& lengths = {}) const;
  LayerNorm ln_1;
  MultiHeadAttention attn;
  LayerNorm ln_2;
  MLP mlp;

 private:
  NormedSum attended(const Tensor& x, const Tensor& normed, const Tensor& lengths) const;  // x + attn(normed), ln_2 of it
};

struct GPTConfig {
  std::int64_t vocab_size = 50257, block_size = 1024;  // block_size: the longest sequence
  std::int64_t n_layer = 12, n_head = 12, n_embd = 768;
  double dropout = 0;
  bool bias = true;  // in linear layers and layer norms
  // Keep of each block its input only and compute the rest again in backward (core/autograd/checkpoint.h): the same bits,
  // about a third more work, memory for one block's activations instead of n_layer's.
  bool activation_checkpointing = false;
  // loss() computes the classifier and the cross-entropy by chunks of at most so many tokens (linear_cross_entropy), so that
  // the logits never exist as a whole; 0: at once (on a GPU as one chunk, whose products linear_cross_entropy pads to the
  // sizes that Tensor Cores are fast with). Less memory where the tokens of a step outnumber n_embd, or twice that in 16 bits.
  std::int64_t loss_chunk = 0;
};

struct GenerateOptions {
  double temperature = 1;  // 0: the most likely token
  std::int64_t top_k = 0;  // 0: all
};

// Tokens are i64 [batch, time], time <= block_size. The classifier is wte's weight, transposed: one tensor.
struct GPT : Module {
  explicit GPT(const GPTConfig& settings);
  Tensor operator()(const Tensor& tokens) const { return forward(tokens); }
  Tensor forward(const Tensor& tokens) const;  // logits [batch, time, vocab_size]
  Tensor hidden(const Tensor& tokens) const;   // before the classifier [batch, time, n_embd]
  Tensor loss(const Tensor& tokens, const Tensor& targets) const;  // mean cross-entropy; a target of -100 is ignored
  // Appends `count` tokens to each row, drawn from the library's random stream; sees the last block_size tokens.
  Tensor generate(const Tensor& tokens, std::int64_t count, GenerateOptions options = {});

  GPTConfig config;
  Embedding wte, wpe;
  Dropout drop;
  std::vector<TransformerBlock> h;
  LayerNorm ln_f;
};

}  // namespace binade::nn
