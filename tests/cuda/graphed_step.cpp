// Steps recorded as CUDA graphs: the bits, draws and memory of eager steps, one launch each.
#include "binade/core/backend/graphed_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "binade/core/amp/autocast.h"
#include "binade/core/backend/memory.h"
#include "binade/core/base/random.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/cuda/networks.h"
#include "binade/tests/cuda/simulated.h"

namespace binade::test {

namespace {

using cuda::GraphedStep;

class GraphedSteps : public CudaDevice {};
class GraphedStepCounts : public SimulatedDevice {};

// Two layers with dropout and attention between them, trained by plain gradient descent.
struct Network {
  std::optional<DType> autocast;
  double lr = 0.1;
  Tensor first, second;
  explicit Network(Device device, std::optional<DType> dtype = {}) : autocast(dtype) {
    manual_seed(7);
    first = randn({8, 24}, {.device = device, .requires_grad = true});
    second = randn({8, 5}, {.device = device, .requires_grad = true});
  }
  Tensors step(const Tensors& batch) {
    Tensor loss;
    {
      std::optional<amp::Autocast> scope;
      if (autocast) scope.emplace(*autocast);
      const Tensor mixed = packed_self_attention(matmul(batch[0], first), 2, {.is_causal = true, .dropout = 0.2});
      const Tensor logits = matmul(dropout(relu(mixed), 0.3), second).reshape({-1, 5});
      loss = cross_entropy(logits, batch[1]);
    }
    loss.backward();
    const NoGrad guard;
    for (Tensor* weight : {&first, &second}) {
      weight->add_(weight->grad(), -lr);
      weight->zero_grad();
    }
    return {loss};
  }
};
Tensors batch_of(int number, Device device) {
  std::vector<float> x;
  std::vector<std::int64_t> y;
  for (int i = 0; i < 2 * 6 * 8; ++i) x.push_back(static_cast<float>((i * 37 + number * 11) % 17) / 8 - 1);
  for (int i = 0; i < 2 * 6; ++i) y.push_back((i * 3 + number) % 5);
  return {from_vector(x, {2, 6, 8}).to(device), from_vector(y, {12}).to(device)};
}

TEST_F(GraphedSteps, HaveTheBitsOfEagerOnes) {
  for (const std::optional<DType> dtype :
       {std::optional<DType>{}, std::optional(DType::bf16), std::optional(DType::f16)}) {
    Network eager(gpu, dtype);
    std::vector<float> losses;
    for (int t = 0; t < 8; ++t) losses.push_back(eager.step(batch_of(t, gpu))[0].item<float>());
    const PhiloxState after = random_state();
    Network replayed(gpu, dtype);
    GraphedStep step([&](const Tensors& batch) { return replayed.step(batch); }, {.device = gpu});
    for (int t = 0; t < 8; ++t) {
      EXPECT_EQ(step.captured(), t > 2) << t;
      const Tensors results = step(batch_of(t, gpu));
      ASSERT_EQ(results.size(), 1U);
      EXPECT_EQ(results[0].item<float>(), losses[static_cast<std::size_t>(t)]) << "step " << t;
    }
    expect_same_bits(replayed.first, eager.first, "first weight");
    expect_same_bits(replayed.second, eager.second, "second weight");
    EXPECT_EQ(random_state().offset, after.offset);
    EXPECT_NE(losses[7], losses[0]);
  }
}

// Scaling, clipping and the optimizer included; one step overflows and is skipped.
TEST_F(GraphedSteps, WholeTrainingStepsHaveTheBitsOfEagerOnes) {
  for (const Mode mode : all_modes) {
    MlpTraining eager(mode, gpu);
    std::vector<float> losses;
    const auto factor = [&](std::size_t t) { return full({}, mode == Mode::fp16 && t == 5 ? HUGE_VAL : 1.0, {.device = gpu}); };
    const auto run = [](MlpTraining& training, const Tensors& in) -> Tensors { return {training.step_on(in[0], in[1], in[2])}; };
    for (std::size_t t = 0; t < 8; ++t)
      losses.push_back(run(eager, {eager.inputs[t], eager.targets[t], factor(t)})[0].item<float>());
    MlpTraining replayed(mode, gpu);
    GraphedStep step([&](const Tensors& in) { return run(replayed, in); }, {.device = gpu});
    for (std::size_t t = 0; t < 8; ++t) {
      const Tensors results = step({replayed.inputs[t], replayed.targets[t], factor(t)});
      EXPECT_EQ(results[0].item<float>(), losses[t]) << name_of(mode) << ", step " << t;
    }
    EXPECT_TRUE(step.captured());
    for (std::size_t p = 0; p < eager.model.parameters().size(); ++p)
      expect_same_bits(replayed.model.parameters()[p], eager.model.parameters()[p], name_of(mode));
    if (mode == Mode::fp16) {
      EXPECT_EQ(replayed.scaler.skipped_steps(), 1);
      EXPECT_EQ(replayed.scaler.get_scale(), eager.scaler.get_scale());
    }
  }
}

// Replays change parameters without running host code: the 16-bit copies that autocast keeps must not survive them.
TEST_F(GraphedSteps, WorkBetweenReplaysSeesTheParametersTheyLeave) {
  const auto outputs = [&](bool graphed) {
    MlpTraining training(Mode::bf16, gpu);
    GraphedStep step([&](const Tensors& b) -> Tensors { return {training.step_on(b[0], b[1])}; }, {.device = gpu});
    std::vector<std::vector<float>> all;
    for (std::size_t t = 0; t < 7; ++t) {
      const Tensors batch{training.inputs[t], training.targets[t]};
      if (graphed) step(batch);
      else training.step_on(batch[0], batch[1]);
      const NoGrad no_grad;
      for (int again = 0; again < 2; ++again) {
        const amp::Autocast autocast(DType::bf16);
        all.push_back(training.model(training.inputs[0]).to_vector<float>());
        if (t == 4)  // and replays see what changes between them
          for (Tensor param : training.model.parameters()) param.mul_(0.5);
      }
    }
    EXPECT_EQ(step.captured(), graphed);
    return all;
  };
  EXPECT_EQ(outputs(true), outputs(false));
}

TEST_F(GraphedSteps, StochasticRoundingDrawsAnewInEachReplay) {
  const auto train = [&](bool graphed) {
    manual_seed(11);
    const Tensor w = ones({4096}, {.dtype = DType::bf16, .device = gpu, .requires_grad = true});
    optim::SGD optimizer({w}, {.lr = 1, .master_weights = false, .stochastic_rounding = true});
    const auto body = [&](const Tensors& in) -> Tensors {
      const Tensor loss = sum(w * in[0]);
      loss.backward();
      optimizer.step();
      optimizer.zero_grad();
      return {loss};
    };
    GraphedStep step(body, {.device = gpu});
    const Tensor g = full({4096}, -0x1p-10, {.dtype = DType::bf16, .device = gpu});  // an eighth of a unit in the last place
    for (int t = 0; t < 8; ++t) graphed ? step({g}) : body({g});
    return w.detach();
  };
  expect_same_bits(train(true), train(false), "weights");
}

TEST_F(GraphedStepCounts, OneLaunchNoWaitNoMemory) {
  Network network(gpu);
  GraphedStep step([&](const Tensors& batch) { return network.step(batch); }, {.device = gpu});
  const Tensors batch = batch_of(0, gpu);
  for (int t = 0; t < 4; ++t) step(batch);
  const simt::Counters before = simulator->counters();
  for (int t = 0; t < 5; ++t) step(batch);
  synchronize(gpu);
  const simt::Counters after = simulator->counters();
  EXPECT_EQ(after.graph_launches - before.graph_launches, 5U);
  EXPECT_EQ(after.launches - before.launches, 5U) << "of the kernel that says how far the random stream is";
  EXPECT_EQ(after.allocations - before.allocations, 0U);
  EXPECT_EQ(after.host_syncs - before.host_syncs, 1U) << "that of synchronize()";
  EXPECT_GT(after.graph_nodes - before.graph_nodes, 5 * 15U);
}

TEST_F(GraphedSteps, InputsAreChecked) {
  for (const Device device : {Device{}, gpu}) {  // the same rules where nothing is recorded
    GraphedStep step([](const Tensors& in) -> Tensors { return {add(in[0], in[0])}; }, {.device = device});
    const Tensor x = ones({4, 3}, {.device = device});
    for (int t = 0; t < 4; ++t) {
      step({x});
      expect_error(
          [&] {
            step({ones({2, 3})});
          },
          "GraphedStep: input 0 was f32 [4, 3] in the first call, got f32 [2, 3]", "drop_last");
      expect_error(
          [&] {
            step({ones({4, 3}, {.dtype = DType::f16})});
          },
          "GraphedStep: input 0 was f32 [4, 3] in the first call, got f16 [4, 3]");
      expect_error([&] { step({x, x}); }, "GraphedStep: the first call had 1 inputs, this one has 2");
      expect_error([&] { step({Tensor()}); }, "GraphedStep: input 0 is undefined");
    }
    EXPECT_EQ(step({full({4, 3}, 5)})[0].at(7), 10);  // from the host, too
  }
  expect_error([] { GraphedStep(nullptr); }, "GraphedStep: the function is empty");
  expect_error([] { GraphedStep([](const Tensors& in) { return in; }, {.warm_up = 0}); },
               "GraphedStep: warm_up must be at least 1, got 0");
}

TEST_F(GraphedSteps, WhatNeedsTheHostIsRefused) {
  const Tensor x = ones({3}, {.device = gpu});
  bool reads = false, copies = false, waits = false;
  GraphedStep step(
      [&](const Tensors& in) -> Tensors {
        const Tensor y = add(in[0], in[0]);
        if (reads) y.at(0);
        if (copies) return {add(y, ones({3}).to(gpu))};
        if (waits) synchronize(gpu);
        return {y};
      },
      {.device = gpu});
  step({x});
  step({x});
  for (bool* mistake : {&reads, &waits}) {
    *mistake = true;
    expect_error([&] { step({x}); }, "GraphedStep: the step reads a value on the host (item(), to_vector(), at()",
                 "while it is recorded; do that outside the step");
    *mistake = false;
    EXPECT_FALSE(step.captured());
  }
  copies = true;
  expect_error([&] { step({x}); }, "GraphedStep: the step copies from the host while it is recorded");
  copies = false;
  EXPECT_EQ(step({full({3}, 4)})[0].at(1), 8);  // the device and the object still work
  EXPECT_TRUE(step.captured());
  EXPECT_EQ(step({full({3}, 6)})[0].at(1), 12);
}

TEST_F(GraphedSteps, DrawsAdvance) {
  const auto draw = [&](const Tensors&) -> Tensors {
    const Tensor ones_there = ones({70}, {.device = gpu});
    return {rand({70}, {.device = gpu}), randn({70}, {.device = gpu}), randint(0, 1000, {70}, {.device = gpu}),
            dropout(ones_there, 0.5), add_layer_norm(ones_there, ones_there, {}, {}, {.dropout = 0.5}).sum};
  };
  GraphedStep step(draw, {.device = gpu});
  manual_seed(3);
  for (int t = 0; t < 7; ++t) {
    if (t == 5) manual_seed(99);  // another seed is followed
    if (t == 6) rand({1});        // and draws taken elsewhere
    const PhiloxState before = random_state();
    Tensors got;
    for (const Tensor& x : step({})) got.push_back(x.clone());
    const PhiloxState after = random_state();
    set_random_state(before);
    const Tensors expected = draw({});
    EXPECT_EQ(random_state().offset, after.offset) << t;
    for (std::size_t i = 0; i < got.size(); ++i) expect_same_bits(got[i], expected[i], "draw " + std::to_string(i));
  }
}

TEST_F(GraphedSteps, TheirMemoryIsTheirOwn) {
  const std::size_t before = memory_stats(gpu).current_total;
  {
    GraphedStep step([](const Tensors& in) -> Tensors { return {mul(add(in[0], in[0]), add(in[0], in[0]))}; },
                     {.device = gpu});
    for (int t = 0; t < 3; ++t) step({full({1000}, t, {.device = gpu})});
    std::vector<Tensor> others;  // would lie where the recording's intermediate results were
    for (int i = 0; i < 6; ++i) others.push_back(full({1000}, -1 - i, {.device = gpu}));
    EXPECT_EQ(step({full({1000}, 3, {.device = gpu})})[0].at(999), 36);
    for (int i = 0; i < 6; ++i) EXPECT_EQ(others[static_cast<std::size_t>(i)].at(500), -1 - i);
  }
  EXPECT_EQ(memory_stats(gpu).current_total, before);
  release_cached_memory(gpu);
  EXPECT_EQ(memory_stats(gpu).reserved, memory_stats(gpu).current_total);
}

TEST_F(GraphedSteps, NumbersStayUntilReset) {
  double factor = 1;
  GraphedStep step(
      [&](const Tensors& in) -> Tensors {
        const Tensor y = in[0].clone();
        Tensor(y).mul_(factor);
        return {y};
      },
      {.device = gpu, .warm_up = 1});
  const Tensor x = full({2}, 3, {.device = gpu});
  for (int t = 0; t < 3; ++t) EXPECT_EQ(step({x})[0].at(0), 3);
  factor = 2;
  EXPECT_EQ(step({x})[0].at(0), 3);
  step.reset();
  EXPECT_FALSE(step.captured());
  for (int t = 0; t < 3; ++t) EXPECT_EQ(step({x})[0].at(0), 6);
}

TEST(GraphedStepOnTheCpu, RunsTheFunction) {
  int calls = 0;
  GraphedStep step(
      [&](const Tensors& in) -> Tensors {
        ++calls;
        return {add(in[0], in[0]), {}};
      },
      {.device = Device{}});
  for (int t = 1; t < 6; ++t) {
    const Tensors results = step({full({2}, t)});
    EXPECT_EQ(results[0].at(1), 2 * t);
    EXPECT_FALSE(results[1]);
    EXPECT_EQ(calls, t);
    EXPECT_FALSE(step.captured());
  }
}

}  // namespace

}  // namespace binade::test
