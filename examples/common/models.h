// The models and data of the examples, by size name.
#pragma once
#include <binade/binade.h>

#include <cstdint>
#include <string>

namespace example {

struct GptSize {
  std::int64_t layers, heads, width, context, batch;
  double lr;
};
GptSize gpt_size(const std::string& name);  // tiny, small, gpt2; throws UsageError listing them

std::string default_text();  // the King James text the set-up wrote; throws Error saying how to get it

// Mean validation loss over at most `batches` batches; call under NoGrad, with or without autocast.
double validation_loss(const binade::nn::GPT& model, const binade::data::TextWindows& windows, std::int64_t batch,
                       std::int64_t batches);

// What counting alone achieves on the validation part, in nats per token: the mean negative log likelihood of a
// unigram and a bigram model counted on the training part, each count plus one.
struct CountingBaselines {
  double unigram = 0, bigram = 0;
};
CountingBaselines counting_baselines(const binade::data::TextDataset& text);

// Loss and share of right answers over a whole set of images.
struct Accuracy {
  double loss = 0, accuracy = 0;
};
template <class Model>
Accuracy evaluate(const Model& model, const binade::data::TensorDataset& set, binade::Device device,
                  std::int64_t batch = 1000) {
  const binade::NoGrad no_grad;
  double loss = 0, right = 0;
  for (const auto& [inputs, labels] : binade::data::Loader(set, {.batch_size = std::min(batch, set.size()),
                                                                 .device = device})) {
    const binade::Tensor logits = model(inputs);
    loss += binade::cross_entropy(logits, labels, {.reduction = binade::Reduction::sum}).template item<double>();
    right += binade::sum(binade::eq(binade::argmax(logits, -1), labels)).template item<double>();
  }
  const auto count = static_cast<double>(set.size());
  return {loss / count, right / count};
}

}  // namespace example
