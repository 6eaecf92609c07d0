// What recorded steps find anew in each replay: the learning rate, the 16-bit copies of parameters, tables.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "binade/core/autograd/rounded_copy.h"
#include "binade/core/backend/graphed_step.h"
#include "binade/core/backend/kernel_slot.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/distributed/sharded_optimizer.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/cuda/networks.h"
#include "binade/tests/cuda/simulated.h"

namespace binade::test {

namespace {

using cuda::GraphedStep;

class GraphedTraining : public CudaDevice {};
class GraphedTrainingCounts : public SimulatedDevice {};

void expect_same_parameters(const nn::Module& a, const nn::Module& b, const std::string& what) {
  for (std::size_t p = 0; p < a.parameters().size(); ++p) expect_same_bits(a.parameters()[p], b.parameters()[p], what);
}

// ---- numbers

using Make = std::function<std::unique_ptr<optim::Optimizer>(std::vector<optim::ParamGroup>)>;
const std::vector<std::pair<std::string, Make>>& optimizers() {
  static const std::vector<std::pair<std::string, Make>> all = {
      {"adamw", [](auto groups) { return std::make_unique<optim::AdamW>(std::move(groups)); }},
      {"adam", [](auto groups) { return std::make_unique<optim::Adam>(std::move(groups)); }},
      {"sgd", [](auto groups) { return std::make_unique<optim::SGD>(std::move(groups), optim::SGDOptions{.momentum = 0.9}); }}};
  return all;
}

// Ten steps with a learning rate of its own each, of two groups, and a weight decay that changes once.
nn::Sequential scheduled(const Make& make, Device gpu, bool graphed) {
  manual_seed(6);
  nn::Sequential model(nn::Linear(12, 24), nn::Tanh(), nn::Linear(24, 3));
  model.to(gpu);
  const Tensors all = model.parameters();
  const auto optimizer = make({{.params = {all[0], all[2]}, .lr = 1e-2, .weight_decay = 0.1}, {.params = {all[1], all[3]}, .lr = 1e-2}});
  const optim::Schedule schedule = optim::cosine({.lr = 0.05, .warmup = 4, .steps = 10});
  const Tensor x = randn({16, 12}).to(gpu), y = randint(0, 3, {16}).to(gpu);
  const auto body = [&](const Tensors& in) -> Tensors {
    const Tensor loss = cross_entropy(model(in[0]), in[1]);
    loss.backward();
    optim::clipped_step(*optimizer, 0.5);
    optimizer->zero_grad();
    return {loss};
  };
  GraphedStep step(body, {.device = gpu});
  for (int t = 0; t < 10; ++t) {
    schedule.set_lr(*optimizer, t);
    optimizer->param_groups()[1].lr *= 2;
    if (t == 6) optimizer->param_groups()[0].weight_decay = 0.7;
    graphed ? step({x, y}) : body({x, y});
  }
  EXPECT_EQ(step.captured(), graphed);
  return model;
}
TEST_F(GraphedTraining, FollowsASchedule) {
  for (const auto& [name, make] : optimizers())
    expect_same_parameters(scheduled(make, gpu, true), scheduled(make, gpu, false), name);
}

// Its forward leaves gradients on the device, which backward multiplies: nothing of that is the host's.
TEST_F(GraphedTraining, ALossByChunks) {
  const auto train = [&](bool graphed) {
    manual_seed(6);
    nn::Sequential model(nn::Linear(12, 24), nn::Tanh());
    nn::Linear classifier(24, 50);
    model.to(gpu);
    classifier.to(gpu);
    Tensors all = model.parameters();
    for (const Tensor& x : classifier.parameters()) all.push_back(x);
    optim::AdamW optimizer(all, {.lr = 0.01});
    amp::GradScaler scaler;
    const auto body = [&](const Tensors& in) -> Tensors {
      Tensor loss;
      {
        const amp::Autocast autocast(DType::f16);
        loss = linear_cross_entropy(model(in[0]), classifier.weight, in[1],
                                    {.linear_bias = classifier.bias, .batch_chunk_size = 7});
      }
      scaler.scale(loss).backward();
      scaler.step(optimizer);
      scaler.update();
      optimizer.zero_grad();
      return {loss};
    };
    GraphedStep step(body, {.device = gpu});
    for (int t = 0; t < 6; ++t) {
      const Tensors in{randn({16, 12}).to(gpu), randint(0, 50, {16}).to(gpu)};
      graphed ? step(in) : body(in);
    }
    EXPECT_EQ(step.captured(), graphed);
    return all;
  };
  const Tensors eager = train(false), graphed = train(true);
  for (std::size_t p = 0; p < eager.size(); ++p) expect_same_bits(graphed[p], eager[p], std::to_string(p));
}

TEST_F(GraphedTraining, WholeTrainingStepsFollowASchedule) {
  for (const Mode mode : all_modes) {
    const auto train = [&](bool graphed) {
      auto training = std::make_unique<MlpTraining>(mode, gpu);
      const optim::Schedule schedule = optim::linear({.lr = 1e-2, .warmup = 2, .steps = 8});
      GraphedStep step([&](const Tensors& in) -> Tensors { return {training->step_on(in[0], in[1])}; }, {.device = gpu});
      for (std::size_t t = 0; t < 8; ++t) {
        schedule.set_lr(*training->optimizer, static_cast<std::int64_t>(t));
        const Tensors in{training->inputs[t], training->targets[t]};
        graphed ? step(in)[0] : training->step_on(in[0], in[1]);
      }
      return training;
    };
    expect_same_parameters(train(true)->model, train(false)->model, name_of(mode));
  }
}

TEST_F(GraphedTraining, ALearningRateThatIsNoneIsRefusedBeforeTheReplay) {
  Tensor w = ones({4}, {.device = gpu, .requires_grad = true});
  optim::SGD sgd({w}, {.lr = 1});
  GraphedStep step(
      [&](const Tensors&) -> Tensors {
        sum(w).backward();
        sgd.step();
        sgd.zero_grad();
        return {};
      },
      {.device = gpu, .warm_up = 1});
  step({});
  step({});
  sgd.param_groups()[0].lr = std::nan("");
  expect_error([&] { step({}); }, "optim: lr must be finite");
  EXPECT_EQ(w.at(0), -1);
  sgd.param_groups()[0].lr = 0.5;
  step({});
  EXPECT_EQ(w.at(0), -1.5);
}

// The part of a sharded optimizer has groups of its own, which follow those the schedule sets.
TEST_F(GraphedTraining, AShardedOptimizerFollowsASchedule) {
  const auto train = [&](bool graphed) {
    manual_seed(3);
    nn::Linear model(8, 8);
    model.to(gpu);
    const dist::DataParallel parallel(model, {.group = dist::single_group({.device = gpu})});
    const auto optimizer = dist::shard<optim::AdamW>(parallel, optim::AdamWOptions{.lr = 1e-2});
    const auto body = [&](const Tensors& in) -> Tensors {
      sum(model(in[0]) * model(in[0])).backward();
      optim::clipped_step(*optimizer, 1);
      optimizer->zero_grad();
      return {};
    };
    GraphedStep step(body, {.device = gpu});
    const Tensor x = randn({4, 8}).to(gpu);
    for (int t = 0; t < 6; ++t) {
      optimizer->param_groups()[0].lr = 0.01 * (t + 1);
      graphed ? step({x}) : body({x});
    }
    EXPECT_EQ(step.captured(), graphed);
    return model;
  };
  expect_same_parameters(train(true), train(false), "sharded");
}

TEST_F(GraphedTrainingCounts, ANewLearningRateIsOneLaunchAndNoWait) {
  MlpTraining training(Mode::bf16, gpu);
  GraphedStep step([&](const Tensors& in) -> Tensors { return {training.step_on(in[0], in[1])}; }, {.device = gpu});
  for (int t = 0; t < 4; ++t) step({training.inputs[0], training.targets[0]});
  for (const bool changes : {false, true}) {
    const simt::Counters before = simulator->counters();
    for (int t = 0; t < 5; ++t) {
      if (changes) training.optimizer->param_groups()[0].lr *= 0.9;
      step({training.inputs[0], training.targets[0]});
    }
    const simt::Counters after = simulator->counters();
    EXPECT_EQ(after.graph_launches - before.graph_launches, 5U);
    EXPECT_EQ(after.launches - before.launches, changes ? 10U : 5U) << "the learning rate, and where the random stream is";
    EXPECT_EQ(after.allocations - before.allocations, 0U);
    EXPECT_EQ(after.host_syncs - before.host_syncs, 0U);
    EXPECT_EQ(after.bytes_to_device - before.bytes_to_device, 0U);
  }
}

// ---- copies of parameters

class Casts : public KernelObserver {  // calls of the copy kernel
 public:
  Casts() { kernel_observer = this; }
  ~Casts() { kernel_observer = nullptr; }
  Casts(const Casts&) = delete;
  Casts& operator=(const Casts&) = delete;
  void on_kernel(std::string_view name, Device, double) override { count += name == "copy"; }
  int count = 0;
};

TEST_F(GraphedTraining, CastsNoWeights) {
  for (const Mode mode : {Mode::bf16, Mode::fp16}) {
    MlpTraining training(mode, gpu);
    std::vector<int> casts;
    GraphedStep step(
        [&](const Tensors& in) -> Tensors {
          const Casts counted;
          const Tensor loss = training.step_on(in[0], in[1]);
          casts.push_back(counted.count);
          return {loss};
        },
        {.device = gpu});
    for (std::size_t t = 0; t < 3; ++t) step({training.inputs[t], training.targets[t]});
    EXPECT_TRUE(step.captured());
    const int weights = static_cast<int>(training.model.parameters().size());
    EXPECT_EQ(casts, (std::vector<int>{casts[1] + weights, casts[1], casts[1]})) << "the second is eager, the third recorded";
    for (const Tensor& param : training.model.parameters()) {
      const auto& copy = param.impl()->rounded;
      ASSERT_TRUE(copy);
      EXPECT_EQ(copy->replays, cuda::replayed_steps()) << "the replay wrote it: an evaluation casts nothing";
      expect_same_bits(copy->values, param.detach().to(autocast_dtype(mode)), "copy");
    }
  }
}

// Steps of one model by two recordings and eagerly, with changes of its weights, evaluations and a reset in between.
TEST_F(GraphedTraining, CopiesHoldWhateverComesBetweenReplays) {
  for (const Mode mode : {Mode::bf16, Mode::fp16}) {
    const auto outputs = [&](bool graphed) {
      MlpTraining training(mode, gpu);
      const auto body = [&](const Tensors& in) -> Tensors { return {training.step_on(in[0], in[1])}; };
      const auto evaluation = [&](const Tensors& in) -> Tensors {
        const NoGrad no_grad;
        const amp::Autocast autocast(autocast_dtype(mode));
        return {training.model(in[0])};
      };
      GraphedStep step(body, {.device = gpu}), other(body, {.device = gpu, .warm_up = 1}),
          evaluate(evaluation, {.device = gpu, .warm_up = 1});
      std::vector<std::vector<float>> all;
      const auto run = [&](GraphedStep& recorded, const GraphedStep::Step& function, std::size_t batch) {
        const Tensors in{training.inputs[batch], training.targets[batch]};
        all.push_back((graphed ? recorded(in) : function(in))[0].to_vector<float>());
      };
      const auto eagerly = [&](std::size_t batch) { all.push_back(body({training.inputs[batch], training.targets[batch]})[0].to_vector<float>()); };
      for (std::size_t t = 0; t < 14; ++t) {
        run(step, body, t % 8);
        if (t % 3 == 2) run(other, body, 1);
        if (t > 3) run(evaluate, evaluation, 2);
        if (t == 5 || t == 6 || t == 11) eagerly(3);
        if (t == 7 || t == 11) {
          const NoGrad no_grad;
          for (Tensor param : training.model.parameters()) param.mul_(0.75);
        }
        if (t == 8) {  // an evaluation in the other 16-bit dtype takes the copy's place
          const NoGrad no_grad;
          const amp::Autocast autocast(mode == Mode::bf16 ? DType::f16 : DType::bf16);
          all.push_back(training.model(training.inputs[0]).to_vector<float>());
        }
        if (t == 9) step.reset();
      }
      EXPECT_EQ(step.captured() && other.captured() && evaluate.captured(), graphed);
      return all;
    };
    const auto replayed = outputs(true), eager = outputs(false);
    ASSERT_EQ(replayed.size(), eager.size());
    for (std::size_t i = 0; i < eager.size(); ++i) EXPECT_EQ(replayed[i], eager[i]) << name_of(mode) << ", result " << i;
  }
}

// A step that changes weights by itself writes no copy: the recorded forward pass must not read the old one.
TEST_F(GraphedTraining, CopiesThatTheStepDoesNotWriteAreCastBeforeEachReplay) {
  const auto outputs = [&](bool graphed) {
    const Tensor w = full({4, 4}, 1, {.device = gpu, .requires_grad = true});
    const auto body = [&](const Tensors& in) -> Tensors {
      Tensor y;
      {
        const amp::Autocast autocast(DType::bf16);
        y = linear(in[0], w);
      }
      const NoGrad no_grad;
      Tensor(w).add_(ones({4, 4}, {.device = gpu}), 1);
      return {y};
    };
    GraphedStep step(body, {.device = gpu});
    const Tensor x = ones({1, 4}, {.device = gpu});
    std::vector<float> all;
    for (int t = 0; t < 6; ++t) {
      if (t == 2) {  // current when the recording begins
        const NoGrad no_grad;
        const amp::Autocast autocast(DType::bf16);
        linear(x, w);
      }
      all.push_back((graphed ? step({x}) : body({x}))[0].to_vector<float>()[0]);
    }
    return all;
  };
  EXPECT_EQ(outputs(false), (std::vector<float>{4, 8, 12, 16, 20, 24}));
  EXPECT_EQ(outputs(true), outputs(false));
}

// An optimizer step alone, recorded after an eager forward pass: no replay may write a copy that is not kept for it.
TEST_F(GraphedTraining, CopiesThatTheStepDoesNotReadAreGivenUp) {
  Tensor w = full({64, 64}, 1, {.device = gpu, .requires_grad = true});
  w.set_grad(ones({64, 64}, {.device = gpu}));
  optim::SGD sgd({w}, {.lr = 1});
  const auto seen = [&] {
    const NoGrad no_grad;
    const amp::Autocast autocast(DType::bf16);
    return linear(full({1, 64}, 1.0 / 64, {.device = gpu}), w).at(0);
  };
  GraphedStep step(
      [&](const Tensors&) -> Tensors {
        sgd.step();
        return {};
      },
      {.device = gpu, .warm_up = 1});
  Tensor elsewhere;
  for (int t = 0; t < 4; ++t) {
    EXPECT_EQ(seen(), 1 - t);
    step({});
    if (t != 1) continue;
    EXPECT_TRUE(step.captured());
    EXPECT_FALSE(w.impl()->rounded);
    elsewhere = full({64, 64}, 77, {.dtype = DType::bf16, .device = gpu});  // where the copy was
  }
  EXPECT_EQ(elsewhere.at(7), 77);
}

// ---- tables

TEST_F(GraphedTraining, RotaryEmbeddingNeedsOneEagerStep) {
  const Tensor x = randn({2, 2, 37, 16}).to(gpu);
  const RotaryOptions options{.base = 500, .start = 3};  // a table of its own
  const auto body = [&](const Tensors& in) -> Tensors {
    const Tensor leaf = in[0].detach().requires_grad_();
    const Tensor y = rotary_embedding(leaf, options);
    sum(y * y * y).backward();
    return {y, leaf.grad()};
  };
  const Tensors eager = body({x});
  GraphedStep step(body, {.device = gpu, .warm_up = 1});
  for (int t = 0; t < 4; ++t) {
    const Tensors got = step({x});
    EXPECT_EQ(step.captured(), t > 0);
    for (std::size_t i = 0; i < 2; ++i) expect_same_bits(got[i], eager[i], "result " + std::to_string(i));
    if (t != 1) continue;
    // Other tables take its place, and something else the memory it had.
    for (int base = 0; base < 40; ++base) rotary_embedding(x, {.base = 600.0 + base});
    Tensors others;
    for (int i = 0; i < 200; ++i) others.push_back(full({37, 8}, 1e9, {.device = gpu}));
  }
}

}  // namespace

}  // namespace binade::test
