// Training with linear_cross_entropy under autocast and GradScaler, against linear and cross_entropy.
#include <binade/binade.h>

#include <gtest/gtest.h>

#include <cmath>

#include "binade/tests/core/test_device.h"

namespace {

using namespace binade;
using binade::test::test_device;
using binade::test::tests_the_cpu;

struct Trained {
  std::vector<std::vector<float>> losses, parameters;
  std::int64_t skipped = 0;
};

// Eight tokens a step, so that loss scale / tokens is a power of two. The weights are twice what was learned from 16
// bits.
template <class Loss>
Trained train(DType dtype, double init_scale, int bad_step, const Loss& loss_of) {
  manual_seed(11);
  const nn::Sequential body(nn::Linear(12, 16), nn::GELU());
  nn::Linear classifier(16, 23);
  nn::Sequential model(body);
  model.to(test_device());
  classifier.to(test_device());
  Tensors parameters = model.parameters();
  for (const Tensor& x : classifier.parameters()) parameters.push_back(x);
  optim::AdamW optimizer(parameters, {.lr = 0.01});
  amp::GradScaler scaler({.init_scale = init_scale, .growth_interval = 3, .enabled = dtype == DType::f16});
  Trained run;
  for (int step = 0; step < 8; ++step) {
    Tensor x = randn({8, 12}).to(test_device());
    if (step == bad_step) x = x * 1e30;
    const Tensor targets = randint(0, 23, {8}).to(test_device());
    Tensor loss;
    {
      const amp::Autocast autocast(dtype);
      loss = loss_of(model(x), classifier, targets);
    }
    scaler.scale(loss).backward();
    scaler.step(optimizer, {.max_norm = 1});
    scaler.update();
    optimizer.zero_grad();
    run.losses.push_back(loss.to_vector<float>());
  }
  run.skipped = scaler.skipped_steps();
  for (const Tensor& x : parameters) run.parameters.push_back(x.to_vector<float>());
  return run;
}
Tensor plain(const Tensor& x, const nn::Linear& classifier, const Tensor& targets) {
  return cross_entropy(classifier(x), targets);
}
Tensor fused(const Tensor& x, const nn::Linear& classifier, const Tensor& targets) {
  return linear_cross_entropy(x, classifier.weight, targets, {.linear_bias = classifier.bias});
}

TEST(LinearCrossEntropyTraining, SameBitsAsLinearThenCrossEntropy) {
  if (!tests_the_cpu()) GTEST_SKIP() << "the epilogues of another library";
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Trained a = train(dtype, 65536, -1, plain), b = train(dtype, 65536, -1, fused);
    EXPECT_EQ(a.losses, b.losses) << to_text(dtype);
    EXPECT_EQ(a.parameters, b.parameters) << to_text(dtype);
    EXPECT_EQ(b.skipped, 0);
  }
}

// A step whose activations overflow is seen by the scaler and skipped, as without the fusion.
TEST(LinearCrossEntropyTraining, AnOverflowSkipsTheStep) {
  const Trained a = train(DType::f16, 1024, 4, plain), b = train(DType::f16, 1024, 4, fused);
  EXPECT_EQ(a.skipped, 1);
  EXPECT_EQ(b.skipped, 1);
  for (const auto& values : b.parameters)
    for (const float v : values) ASSERT_TRUE(std::isfinite(v));
}

// Loss scales that are far too high for the logits' gradients multiply dx, which is f16, and not those: at 2^24 the
// plain path has infinities in every gradient, the fused one in what lies before the classifier.
TEST(LinearCrossEntropyTraining, TheLossScaleMultipliesFloat32Sums) {
  const auto gradient = [](bool fuse) {
    manual_seed(3);
    nn::Linear classifier(16, 23);
    classifier.to(test_device());
    const Tensor x = randn({8, 16}).to(test_device()), targets = randint(0, 23, {8}).to(test_device());
    amp::GradScaler scaler({.init_scale = 0x1p24});
    Tensor loss;
    {
      const amp::Autocast autocast(DType::f16);
      loss = (fuse ? fused : plain)(x, classifier, targets);
    }
    scaler.scale(loss).backward();
    bool finite = true;
    for (const float v : classifier.weight.grad().to_vector<float>()) finite = finite && std::isfinite(v);
    return finite;
  };
  EXPECT_FALSE(gradient(false));
  EXPECT_TRUE(gradient(true));
}

}  // namespace
