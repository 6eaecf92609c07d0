// The two tasks of the comparison: an MLP on Fashion-MNIST and a GPT on the King James text.
#include "common/batches.h"
#include "common/models.h"
#include "precision_compare/comparison.h"

namespace example {

using namespace binade;

namespace {

class MlpTask : public Task {
 public:
  MlpTask(std::uint64_t seed, std::int64_t hidden, std::int64_t batch, Device device, const data::TrainTest& sets)
      : batch_(batch),
        device_(device),
        test_(sets.test),
        model_(nn::Linear(sets.train.inputs().size(1), hidden), nn::ReLU(), nn::Linear(hidden, 10)),
        batches_(sets.train, {.batch_size = batch, .shuffle = true, .drop_last = true, .seed = seed, .device = device}) {
    model_.to(device);
  }
  std::string unit() const override { return "images"; }
  std::int64_t items_per_step() const override { return batch_; }
  Tensors parameters() const override { return model_.parameters(); }
  Tensor training_loss() override {
    const auto& [images, labels] = batches_.next();
    return cross_entropy(model_(images), labels);
  }
  double validation_loss() override { return evaluate(model_, test_, device_).loss; }

 private:
  std::int64_t batch_;
  Device device_;
  data::TensorDataset test_;
  nn::Sequential model_;
  Batches batches_;
};

class GptTask : public Task {
 public:
  GptTask(std::uint64_t seed, const GptSize& size, std::int64_t batch, Device device, const data::TextDataset& text)
      : batch_(batch),
        context_(size.context),
        validation_(text.validation(size.context)),
        model_({.vocab_size = text.vocab_size(),
                .block_size = size.context,
                .n_layer = size.layers,
                .n_head = size.heads,
                .n_embd = size.width}),
        batches_(text.train(size.context), {.batch_size = batch, .shuffle = true, .seed = seed, .device = device}) {
    model_.to(device);
  }
  std::string unit() const override { return "tokens"; }
  std::int64_t items_per_step() const override { return batch_ * context_; }
  Tensors parameters() const override { return model_.parameters(); }
  Tensor training_loss() override {
    const auto& [tokens, targets] = batches_.next();
    return model_.loss(tokens, targets);
  }
  double validation_loss() override { return example::validation_loss(model_, validation_, batch_, 20); }

 private:
  std::int64_t batch_, context_;
  data::TextWindows validation_;
  nn::GPT model_;
  Batches batches_;
};

}  // namespace

TaskFactory mlp_task(const std::string& size, std::int64_t batch, Device device) {
  require(size == "tiny" || size == "small", "--size: unknown size '", size, "', expected tiny or small");
  const std::int64_t hidden = size == "tiny" ? 64 : 256;
  const data::TrainTest sets = data::fashion_mnist();
  require_batch(batch, sets.train.size());
  return [=](std::uint64_t seed) {
    manual_seed(seed);
    return std::make_unique<MlpTask>(seed, hidden, batch, device, sets);
  };
}

TaskFactory gpt_task(const std::string& size, std::int64_t batch, Device device) {
  const GptSize shape = gpt_size(size);
  const data::TextDataset text = data::text_file(default_text());
  require_batch(batch, text.train(shape.context).size());
  return [=](std::uint64_t seed) {
    manual_seed(seed);
    return std::make_unique<GptTask>(seed, shape, batch, device, text);
  };
}

}  // namespace example
