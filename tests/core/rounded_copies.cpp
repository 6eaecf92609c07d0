// The 16-bit copies of parameters that autocast keeps: whoever changes a parameter, operations see it.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <thread>

#include "binade/binade.h"
#include "binade/core/autograd/autocast_state.h"
#include "binade/core/autograd/observer.h"
#include "binade/core/autograd/rounded_copy.h"

namespace binade::test {

namespace {

class SeenWeights final : public Observer {  // as products saw them
 public:
  Tensors seen;
  void on_forward(const OpPtr& op, Inputs inputs, const Tensor&) override {
    if (op->name() == "linear") seen.push_back(inputs[1]);
  }
};

Tensor parameter(Shape shape, double value = 1) { return full(shape, value, {.requires_grad = true}); }

// What a product under autocast sees of `weight`, exact for the values used here.
std::vector<float> weight_seen(const Tensor& weight, DType dtype = DType::bf16) {
  SeenWeights observer;
  const ObserverScope watching(observer);
  const amp::Autocast autocast(dtype);
  const NoGrad no_grad;
  linear(ones({1, weight.size(1)}), weight);
  return observer.seen.at(0).to_vector<float>();
}
std::vector<float> rounded(const Tensor& weight, DType dtype = DType::bf16) {
  return weight.detach().clone().to(dtype).to_vector<float>();
}

TEST(RoundedCopies, AreMadeOnceWhileTheParameterStays) {
  const Tensor weight = randn({4, 4}, {.requires_grad = true}), x = randn({2, 4});
  const auto parameters = [] { return memory_stats().current[static_cast<std::size_t>(MemoryTag::parameters)]; };
  const std::size_t before = parameters();
  SeenWeights observer;
  const ObserverScope watching(observer);
  for (int step = 0; step < 3; ++step) {
    const amp::Autocast autocast(DType::bf16);
    linear(x, weight);
  }
  ASSERT_EQ(observer.seen.size(), 3U);
  EXPECT_EQ(observer.seen[0].dtype(), DType::bf16);
  EXPECT_TRUE(observer.seen[0].shares_memory_with(observer.seen[1]));
  EXPECT_TRUE(observer.seen[0].shares_memory_with(observer.seen[2]));
  EXPECT_TRUE(autocast_state().cache.empty());
  EXPECT_GE(parameters(), before + 16 * sizeof(BFloat16)) << "what stays is no activation";
}

// Each way to change a parameter that the library offers.
TEST(RoundedCopies, NoChangeOfAParameterIsMissed) {
  const auto change = [](const std::string& how, const std::function<void(Tensor&)>& apply) {
    Tensor weight = parameter({4, 4});
    weight_seen(weight);
    {
      const NoGrad no_grad;
      apply(weight);
    }
    const std::vector<float> expected = rounded(weight);
    EXPECT_NE(expected, std::vector<float>(16, 1)) << how << " changed nothing";
    EXPECT_EQ(weight_seen(weight), expected) << how;
  };
  change("fill_", [](Tensor& w) { w.fill_(3); });
  change("zero_", [](Tensor& w) { w.zero_(); });
  change("copy_", [](Tensor& w) { w.copy_(full({4, 4}, 5)); });
  change("add_", [](Tensor& w) { w.add_(ones({4, 4}), 2); });
  change("mul_", [](Tensor& w) { w.mul_(2); });
  change("uniform_", [](Tensor& w) { w.uniform_(2, 3); });
  change("normal_", [](Tensor& w) { w.normal_(5, 1); });
  change("set", [](Tensor& w) { w.set(3, 7); });
  change("detach", [](Tensor& w) { w.detach().fill_(4); });
  change("a view", [](Tensor& w) { w.narrow(0, 1, 2).fill_(6); });
  change("a reshaped view of a view", [](Tensor& w) { w.detach().select(1, 2).reshape({2, 2}).unsqueeze(0).fill_(6); });
  change("data", [](Tensor& w) { w.data<float>()[5] = 8; });
  change("SGD", [](Tensor& w) {
    w.set_grad(ones({4, 4}));
    optim::SGD({w}, {.lr = 1}).step();
  });
  change("Adam", [](Tensor& w) {
    w.set_grad(ones({4, 4}));
    optim::Adam({w}, {.lr = 1}).step();
  });
  change("Muon", [](Tensor& w) {
    w.set_grad(ones({4, 4}));
    optim::Muon({w}, {.lr = 1}).step();
  });
}

TEST(RoundedCopies, AnAddressThatWasGivenOutIsNeverTrusted) {
  const Tensor weight = parameter({2, 2});
  const std::span<float> address = weight.data<float>();
  for (const float value : {2.0F, 3.0F, 4.0F}) {
    address[1] = value;  // nobody counts this
    EXPECT_EQ(weight_seen(weight), (std::vector<float>{1, value, 1, 1}));
  }
  const Tensor late = parameter({2, 2});  // given out after the copy was made
  weight_seen(late);
  const std::span<float> later = late.detach().data<float>();
  later[0] = 5;
  EXPECT_EQ(weight_seen(late), (std::vector<float>{5, 1, 1, 1}));
  later[0] = 6;
  EXPECT_EQ(weight_seen(late), (std::vector<float>{6, 1, 1, 1}));
}

TEST(RoundedCopies, NewMemoryIsNotTakenForTheOld) {
  nn::Linear layer(4, 4, {.bias = false});
  const std::map<std::string, Tensor> before{{"weight", layer.weight.detach().clone()}};
  const auto seen = [&] { return weight_seen(layer.weight); };
  const std::vector<float> first = seen();
  {
    const NoGrad no_grad;
    Tensor weight = layer.weight;
    weight.fill_(2);
  }
  EXPECT_EQ(seen(), std::vector<float>(16, 2));
  layer.load_state_dict(before);
  EXPECT_EQ(seen(), first);
  layer.to(DType::f64);
  {
    const NoGrad no_grad;
    Tensor weight = layer.weight;
    weight.fill_(3);
  }
  layer.to(DType::f32);
  EXPECT_EQ(seen(), std::vector<float>(16, 3));
}

TEST(RoundedCopies, OtherDtypesReplaceThem) {
  const Tensor weight = parameter({2, 2}, 1 + 0x1p-9);
  for (int turn = 0; turn < 2; ++turn) {
    EXPECT_EQ(weight_seen(weight, DType::f16), std::vector<float>(4, 1 + 0x1p-9F));
    EXPECT_EQ(weight_seen(weight, DType::bf16), std::vector<float>(4, 1));
  }
}

// Optimizers write the copy as they update; it has the bits of a cast.
TEST(RoundedCopies, OptimizersKeepThemUpToDate) {
  for (const bool adam : {true, false})
    for (const DType dtype : {DType::bf16, DType::f16}) {
      manual_seed(4);
      const Tensors params{randn({33, 70}, {.requires_grad = true}), randn({1, 20000}, {.requires_grad = true})};
      std::unique_ptr<optim::Optimizer> optimizer;
      if (adam)
        optimizer = std::make_unique<optim::AdamW>(params, optim::AdamWOptions{.lr = 0.1});
      else
        optimizer = std::make_unique<optim::SGD>(params, optim::SGDOptions{.lr = 0.1, .momentum = 0.9});
      for (int step = 0; step < 3; ++step) {
        for (Tensor param : params) {
          weight_seen(param, dtype);
          param.set_grad(randn(param.shape()));
        }
        std::vector<const Storage*> memory;
        for (const Tensor& param : params) memory.push_back(param.impl()->rounded->values.impl()->storage.get());
        optimizer->step();
        for (std::size_t i = 0; i < params.size(); ++i) {
          ASSERT_TRUE(params[i].impl()->rounded) << "given up";
          EXPECT_EQ(params[i].impl()->rounded->values.impl()->storage.get(), memory[i]);
          EXPECT_EQ(params[i].impl()->rounded->version, params[i].impl()->storage->version) << "would be cast again";
          EXPECT_EQ(weight_seen(params[i], dtype), rounded(params[i], dtype))
              << (adam ? "AdamW " : "SGD ") << to_text(dtype);
        }
      }
    }
}

TEST(RoundedCopies, ASkippedStepLeavesThem) {
  Tensor weight = randn({8, 8}, {.requires_grad = true});
  optim::AdamW optimizer({weight}, {.lr = 0.5});
  const std::vector<float> before = weight_seen(weight);
  weight.set_grad(ones({8, 8}));
  optimizer.step(ones({1}));
  EXPECT_EQ(weight_seen(weight), before);
  EXPECT_EQ(before, rounded(weight));
  optimizer.step(zeros({1}));
  EXPECT_NE(weight_seen(weight), before);
  EXPECT_EQ(weight_seen(weight), rounded(weight));
}

TEST(RoundedCopies, AChangeBetweenForwardAndTheStepIsNotLost) {
  Tensor weight = parameter({2, 2}), other = parameter({2, 2});
  optim::SGD sgd({weight, other}, {.lr = 1});
  weight_seen(weight);
  weight_seen(other);
  {
    const NoGrad no_grad;
    weight.fill_(8);  // the copy is useless now, and the step must not make it look new
  }
  weight.set_grad(zeros({2, 2}));
  other.set_grad(ones({2, 2}));
  sgd.step();
  EXPECT_EQ(weight_seen(weight), std::vector<float>(4, 8));
  EXPECT_EQ(weight_seen(other), std::vector<float>(4, 0));
  {
    const NoGrad no_grad;
    weight.fill_(5);
  }
  sgd.step(ones({1}));  // skipped: it writes no copy
  EXPECT_EQ(weight_seen(weight), std::vector<float>(4, 5));
  EXPECT_EQ(weight_seen(other), std::vector<float>(4, 0));
}

// A graph that is kept computes with the weights of its own forward, before and after the step.
TEST(RoundedCopies, AGraphThatIsKeptKeepsItsWeights) {
  const Tensor weight = parameter({1, 1}, 2), x = full({1, 1}, 3, {.requires_grad = true});
  optim::SGD sgd({weight}, {.lr = 1});
  Tensor y;
  {
    const amp::Autocast autocast(DType::bf16);
    y = linear(x, weight);
  }
  y.backward(ones({1, 1}, {.dtype = DType::bf16}), {.retain_graph = true});
  EXPECT_EQ(x.grad().item<float>(), 2);
  sgd.step();
  EXPECT_EQ(weight.item<float>(), -1);
  y.backward(ones({1, 1}, {.dtype = DType::bf16}));
  EXPECT_EQ(x.grad().item<float>(), 4) << "2 + 2";
  EXPECT_EQ(weight_seen(weight), std::vector<float>{-1});
}

TEST(RoundedCopies, AreGivenUpWhenNobodyReadsThem) {
  Tensor weight = parameter({2, 2});
  optim::SGD sgd({weight}, {.lr = 1});
  weight_seen(weight);
  weight.set_grad(ones({2, 2}));
  sgd.step();
  EXPECT_TRUE(weight.impl()->rounded);
  sgd.step();  // without a forward pass under autocast in between
  EXPECT_FALSE(weight.impl()->rounded);
  EXPECT_EQ(weight_seen(weight), std::vector<float>(4, -1));
}

TEST(RoundedCopies, ThreadsShareThem) {
  const Tensor weight = randn({16, 16}, {.requires_grad = true});
  const std::vector<float> expected = rounded(weight);
  std::vector<std::thread> threads;
  std::vector<std::vector<float>> seen(4);
  for (std::size_t i = 0; i < seen.size(); ++i) threads.emplace_back([&, i] { seen[i] = weight_seen(weight); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& values : seen) EXPECT_EQ(values, expected);
}

// A whole training with kept copies has the bits of one that casts in every step.
TEST(RoundedCopies, TrainingHasTheBitsOfCastsInEveryStep) {
  const auto losses = [](bool keep) {
    manual_seed(9);
    nn::Sequential model(nn::Linear(8, 16), nn::ReLU(), nn::Linear(16, 3));
    if (!keep)
      for (const Tensor& param : model.parameters()) param.data<float>();
    optim::AdamW optimizer(model.parameters(), {.lr = 1e-2});
    amp::GradScaler scaler({.init_scale = 0x1p20});  // the first steps overflow and are skipped
    const Tensor x = randn({32, 8}), y = randint(0, 3, {32});
    std::vector<float> all;
    for (int step = 0; step < 12; ++step) {
      Tensor loss;
      {
        const amp::Autocast autocast(DType::f16);
        loss = cross_entropy(model(x), y);
      }
      scaler.scale(loss).backward();
      scaler.step(optimizer);
      scaler.update();
      optimizer.zero_grad();
      all.push_back(loss.item<float>());
    }
    return all;
  };
  const std::vector<float> kept = losses(true);
  EXPECT_EQ(kept, losses(false));
  EXPECT_LT(kept.back(), kept.front());
}

}  // namespace

}  // namespace binade::test
