#include "common/models.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "common/program.h"

namespace example {

using namespace binade;

GptSize gpt_size(const std::string& name) {
  if (name == "tiny") return {.layers = 4, .heads = 4, .width = 128, .context = 64, .batch = 12, .lr = 3e-3};
  if (name == "small") return {.layers = 6, .heads = 6, .width = 384, .context = 256, .batch = 8, .lr = 1e-3};
  if (name == "gpt2") return {.layers = 12, .heads = 12, .width = 768, .context = 1024, .batch = 4, .lr = 6e-4};
  throw UsageError("--size: unknown size '" + name + "', expected tiny, small or gpt2");
}

std::string default_text() {
  const char* folder = std::getenv("BINADE_DATA");
  const std::string path = std::string(folder ? folder : "data") + "/kjv.txt";
  if (std::filesystem::exists(path)) return path;
  throw Error("gpt: the default text " + path + " is missing; run scripts/get_data.sh, set BINADE_DATA to the folder "
              "that holds kjv.txt, or give a text with --data FILE");
}

double validation_loss(const nn::GPT& model, const data::TextWindows& windows, std::int64_t batch,
                       std::int64_t batches) {
  // Evenly spread over the validation part, always the same windows.
  std::vector<std::int64_t> order;
  const std::int64_t wanted = std::min(windows.size(), batch * batches);
  for (std::int64_t i = 0; i < wanted; ++i) order.push_back(i * windows.size() / wanted);
  const Device device = model.parameters().front().device();
  double loss = 0;
  std::int64_t rows = 0;
  for (std::int64_t at = 0; at < wanted; at += batch) {
    const auto count = std::min(batch, wanted - at);
    const auto [tokens, targets] =
        windows.get(std::span(order).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(count)));
    loss += model.loss(tokens.to(device), targets.to(device)).item<double>() * static_cast<double>(count);
    rows += count;
  }
  return loss / static_cast<double>(rows);
}

static std::vector<std::int64_t> token_ids(const Tensor& tokens) { return tokens.to_vector<std::int64_t>(); }

CountingBaselines counting_baselines(const data::TextDataset& text) {
  const auto vocab = static_cast<std::size_t>(text.vocab_size());
  std::vector<double> single(vocab, 1), pairs(vocab * vocab, 1), first(vocab, static_cast<double>(vocab));
  double total = static_cast<double>(vocab);
  // A long window is a stretch of text: inputs, and targets one position later.
  const std::int64_t stretch = std::min<std::int64_t>(1024, text.size() / 10 - 1);
  check(stretch > 0, "counting_baselines: needs a text of at least 20 tokens, got ", text.size());
  const auto each_pair = [&](const data::TextWindows& windows, auto&& use) {
    for (std::int64_t i = 0; i < windows.size(); ++i) {
      const data::Batch window = windows.get(std::span(&i, 1));
      const std::vector<std::int64_t> a = token_ids(window.inputs), b = token_ids(window.targets);
      for (std::size_t k = 0; k < a.size(); ++k) use(static_cast<std::size_t>(a[k]), static_cast<std::size_t>(b[k]));
    }
  };
  each_pair(text.train(stretch, data::Windows::sequential), [&](std::size_t a, std::size_t b) {
    ++single[b];
    ++total;
    ++pairs[a * vocab + b];
    ++first[a];
  });
  CountingBaselines result;
  double count = 0;
  each_pair(text.validation(stretch, data::Windows::sequential), [&](std::size_t a, std::size_t b) {
    result.unigram -= std::log(single[b] / total);
    result.bigram -= std::log(pairs[a * vocab + b] / first[a]);
    ++count;
  });
  result.unigram /= count;
  result.bigram /= count;
  return result;
}

}  // namespace example
