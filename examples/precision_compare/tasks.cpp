#include "precision_compare/tasks.h"

#include <cmath>
#include <memory>

#include "common/batches.h"
#include "common/models.h"
#include "common/program.h"

namespace example {

using namespace binade;
using compare::Task;

namespace {

struct Mlp : nn::Module {
  std::vector<nn::Linear> layers;
  bool sigmoid;

  Mlp(std::int64_t in, const MlpShape& shape, std::int64_t out) : sigmoid(shape.sigmoid) {
    std::vector<std::int64_t> widths = shape.hidden;
    widths.push_back(out);
    for (const std::int64_t width : widths) {
      layers.push_back(add(std::to_string(layers.size()), nn::Linear(in, width)));
      in = width;
    }
  }
  Tensor operator()(Tensor x) const {
    for (std::size_t i = 0; i + 1 < layers.size(); ++i) x = sigmoid ? binade::sigmoid(layers[i](x)) : relu(layers[i](x));
    return layers.back()(x);
  }
};

data::TensorDataset first_samples(const data::TensorDataset& set, std::int64_t count) {
  if (count == 0 || count >= set.size()) return set;
  return data::TensorDataset(set.inputs().narrow(0, 0, count), set.targets().narrow(0, 0, count));
}

data::TrainTest standardised(const data::TrainTest& sets) {
  const double center = mean(sets.train.inputs()).item<double>();
  const double deviation = std::sqrt(var(sets.train.inputs()).item<double>());
  const auto moved = [&](const data::TensorDataset& set) {
    return data::TensorDataset((set.inputs() - center) / deviation, set.targets());
  };
  return {moved(sets.train), moved(sets.test)};
}

// This process's part of the batches.
data::LoaderOptions sharded(data::LoaderOptions options, const Group& group) {
  if (group) options.rank = group->rank(), options.world_size = group->size();
  return options;
}
// Averages the model's gradients as long as the result is kept.
std::shared_ptr<dist::DataParallel> in_parallel(const nn::Module& model, const Group& group) {
  if (!group || group->size() == 1) return nullptr;
  return std::make_shared<dist::DataParallel>(model, dist::DataParallelOptions{.group = group});
}

}  // namespace

TaskFactory mlp_task(const MlpShape& shape, std::int64_t batch, Device device, const Group& group) {
  const MemoryTagScope tag(MemoryTag::data);
  const data::TrainTest sets = shape.standardised ? standardised(data::fashion_mnist()) : data::fashion_mnist();
  require_batch(batch, sets.train.size());
  const data::TensorDataset validation = first_samples(sets.test, shape.validation_images);
  return [=](std::uint64_t seed) {
    manual_seed(seed);
    const Mlp model(sets.train.inputs().size(1), shape, 10);
    Task task{.model = model, .items_per_step = batch};
    task.model.to(device);
    const auto batches = std::make_shared<Batches>(
        sets.train, sharded({.batch_size = batch, .shuffle = true, .drop_last = true, .seed = seed, .device = device}, group));
    task.training_loss = [=, parallel = in_parallel(task.model, group)] {
      const auto& [images, labels] = batches->next();
      return cross_entropy(model(images), labels);
    };
    task.validation_loss = [=] { return evaluate(model, validation, device).loss; };
    return task;
  };
}

TaskFactory gpt_task(const std::string& size, std::int64_t batch, Device device, const Group& group) {
  const GptSize shape = gpt_size(size);
  const data::TextDataset text = data::text_file(default_text());
  require_batch(batch, text.train(shape.context).size());
  return [=](std::uint64_t seed) {
    manual_seed(seed);
    const nn::GPT model({.vocab_size = text.vocab_size(),
                         .block_size = shape.context,
                         .n_layer = shape.layers,
                         .n_head = shape.heads,
                         .n_embd = shape.width});
    Task task{.model = model, .items_per_step = batch * shape.context};
    task.model.to(device);
    const auto batches = std::make_shared<Batches>(
        text.train(shape.context), sharded({.batch_size = batch, .shuffle = true, .seed = seed, .device = device}, group));
    task.training_loss = [=, parallel = in_parallel(task.model, group)] {
      const auto& [tokens, targets] = batches->next();
      return model.loss(tokens, targets);
    };
    const auto validation = text.validation(shape.context);
    task.validation_loss = [=] { return validation_loss(model, validation, batch, 20); };
    return task;
  };
}

const std::vector<Case>& cases() {
  static const std::vector<Case> list = [] {
    const auto deep = [](std::size_t layers, bool sigmoid) {
      return MlpShape{std::vector<std::int64_t>(layers, 128), sigmoid, 2048, true};
    };
    return std::vector<Case>{
        {"A", "5 sigmoid layers, decay in the gradient: FP16 collapses without loss scaling, matches FP32 with it",
         deep(5, true), 512, 400, 5, 1e-3, 1e-4, "fp32,fp16-noscale,fp16"},
        {"B", "13 ReLU layers: FP16 collapses without loss scaling; dynamic scaling against a fixed 2^12",
         deep(13, false), 1024, 250, 3, 1e-3, 1e-5, "fp32,fp16-noscale,fp16,fp16-static-12"},
        {"C", "as A without decay: FP16 without loss scaling is only late", deep(5, true), 512, 400, 5, 1e-3, 0,
         "fp32,fp16-noscale,fp16"},
        {"bf16", "small updates: BF16 without FP32 master weights stagnates, stochastic rounding does not",
         MlpShape{{256, 256}, false, 2048, true}, 128, 1000, 3, 1e-4, 0, "fp32,bf16,bf16-pure,bf16-sr"},
        {"fp8", "5 ReLU layers: FP8 with scaling matches FP32", deep(5, false), 512, 250, 3, 1e-3, 0,
         "fp32,fp8-unscaled,fp8-current,fp8-delayed,mxfp8"},
        {"fp8-deep", "9 ReLU layers, batch 1024: FP8 without scaling loses the gradients", deep(9, false), 1024, 200, 3,
         1e-3, 1e-5, "fp32,fp8-unscaled,fp8-current,fp8-delayed,mxfp8"},
        {"window", "as A: which fixed loss scales train", deep(5, true), 512, 400, 3, 1e-3, 1e-4,
         "fp32,fp16-static-0,fp16-static-2,fp16-static-4,fp16-static-12,fp16-static-24,fp16-static-25,fp16-static-26,"
         "fp16-static-27"},
    };
  }();
  return list;
}

const Case& find_case(const std::string& name) {
  std::string names;
  for (const Case& c : cases()) {
    if (c.name == name) return c;
    names += (names.empty() ? "" : ", ") + c.name;
  }
  throw UsageError("--case: unknown case '" + name + "', expected " + names);
}

compare::Options case_options(const Case& c) {
  compare::Options o;
  o.modes = compare::modes(c.modes);
  o.seeds = c.seeds;
  o.steps = c.steps;
  o.lr = c.lr;
  o.clip_norm = 0;
  o.lr_at = [lr = c.lr](std::int64_t) { return lr; };
  o.optimizer = [lr = c.lr, decay = c.weight_decay](const Tensors& params, const compare::Mode& mode) {
    return std::make_unique<optim::Adam>(
        params, optim::AdamOptions{.lr = lr,
                                   .weight_decay = decay,
                                   .master_weights = mode.parameters == DType::f32,
                                   .stochastic_rounding = mode.stochastic_rounding});
  };
  o.model = "mlp";
  o.size = "case " + c.name;
  o.batch = c.batch;
  return o;
}

}  // namespace example
