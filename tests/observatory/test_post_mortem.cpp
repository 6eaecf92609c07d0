// The post-mortem: overflows planted in a known place are found there, forward and backward.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "binade/core/amp/autocast.h"
#include "binade/core/amp/grad_scaler.h"
#include "binade/core/amp/post_mortem.h"
#include "binade/core/autograd/checkpoint.h"
#include "binade/core/autograd/module_path.h"
#include "binade/core/base/random.h"
#include "binade/core/optim/optimizers.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/ops/nn/nn.h"

namespace {

using namespace binade;
using amp::Cause;
using amp::PostMortem;

constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();

struct Net : nn::Module {
  nn::Linear a = add("a", nn::Linear(8, 8)), b = add("b", nn::Linear(8, 8)), c = add("c", nn::Linear(8, 4));
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return c(relu(b(relu(a(x)))));
  }
};
void fill(const Tensor& x, double value) {
  const NoGrad guard;
  Tensor y = x;
  y.fill_(value);
}

std::string found(const PostMortem& post_mortem) {
  if (!post_mortem.first()) return "nothing";
  const amp::Casualty& c = *post_mortem.first();
  return (c.backward ? "backward " : "forward ") + c.operation + " in " + c.module + ": " + c.tensor + ": " +
         std::string(name(c.cause));
}

TEST(PostMortem, NothingInAHealthyStep) {
  const Net net;
  PostMortem post_mortem;
  const ObserverScope watching(post_mortem);
  cross_entropy(net(randn({4, 8})), randint(0, 4, {4})).backward();
  post_mortem.step();
  EXPECT_EQ(found(post_mortem), "nothing");
  EXPECT_EQ(post_mortem.steps_with_casualties(), 0);
  EXPECT_NE(post_mortem.explain().find("every value was finite in 1 steps"), std::string::npos);
}

TEST(PostMortem, ForwardOverflowInANamedLayer) {
  const Net net;
  PostMortem post_mortem({.rank = 3});
  const ObserverScope watching(post_mortem);
  for (int step = 0; step < 3; ++step) {
    if (step == 1) {
      fill(net.b.weight, 200);
      fill(net.a.bias, 100);  // relu(a) is near 100: b sums 8 * 200 * 100 = 160000
    }
    {
      const amp::Autocast autocast(DType::f16);
      cross_entropy(net(rand({4, 8})), randint(0, 4, {4})).backward();
    }
    post_mortem.step();
  }
  ASSERT_EQ(found(post_mortem), "forward linear in b: output: f16_product");
  const amp::Casualty& c = *post_mortem.first();
  EXPECT_EQ(c.step, 1);
  EXPECT_EQ(c.rank, 3);
  EXPECT_EQ(c.values.dtype, DType::f16);
  EXPECT_EQ(c.values.positive_infs, 32);
  ASSERT_EQ(c.sources.size(), 3U);
  EXPECT_EQ(c.sources[0].from, "relu");  // Net's own operation: Net is the root
  EXPECT_NEAR(c.sources[0].values.largest_finite, 100, 3);
  EXPECT_EQ(c.sources[0].values.dtype, DType::f16);
  EXPECT_EQ(c.sources[1].from, "parameter b.weight");  // though the operation saw its cast
  EXPECT_EQ(c.sources[1].values.largest_finite, 200);
  EXPECT_EQ(c.sources[2].from, "parameter b.bias");
  EXPECT_EQ(post_mortem.last()->step, 2);
  EXPECT_EQ(post_mortem.steps_with_casualties(), 2);
  for (const char* part : {"step 1, rank 3, forward: linear in b", "32 infinities", "parameter b.weight", "BF16"})
    EXPECT_NE(c.text().find(part), std::string::npos) << part << "\n" << c.text();
}

TEST(PostMortem, BackwardOverflowInANamedLayer) {
  const Net net;
  fill(net.b.weight, 30);
  fill(net.c.weight, 30);
  fill(net.a.bias, 1e-3);
  PostMortem post_mortem;
  const ObserverScope watching(post_mortem);
  Tensor y;
  {
    const amp::Autocast autocast(DType::f16);
    y = net(full({4, 8}, 1e-3));
  }
  // dy = 40 in f16; through c 4 * 30 * 40 = 4800; through b 8 * 30 * 4800 > 65504
  (sum(y) * 40.0).backward();
  EXPECT_EQ(found(post_mortem), "backward linear in b: gradient of input 0: gradient");
  ASSERT_EQ(post_mortem.first()->sources.size(), 1U);
  EXPECT_EQ(post_mortem.first()->sources[0].values.largest_finite, 4800);
  EXPECT_TRUE(post_mortem.first()->sources[0].values.finite());
}

TEST(PostMortem, SumOfFiniteContributions) {
  const Tensor x = full({2}, 1, {.dtype = DType::f16, .requires_grad = true}), y = x * 1.0;
  PostMortem post_mortem;
  const ObserverScope watching(post_mortem);
  (y + y).backward(full({2}, 40000, {.dtype = DType::f16}));
  EXPECT_EQ(found(post_mortem), "backward mul in : gradient of the output: gradient");
}

TEST(PostMortem, AccumulationIntoAParameter) {
  Tensor w = full({2}, 1, {.dtype = DType::f16, .requires_grad = true});
  set_name(w, "w");
  PostMortem post_mortem;
  const ObserverScope watching(post_mortem);
  const Tensor g = full({2}, 40000, {.dtype = DType::f16});
  w.to(DType::f32).backward(g.to(DType::f32));
  EXPECT_EQ(found(post_mortem), "nothing");
  w.to(DType::f32).backward(g.to(DType::f32));
  EXPECT_EQ(found(post_mortem), "backward accumulation in : gradient of w: gradient");
}

// The logits, 8 * 100 * 100 = 80000, are nowhere but inside the operation, whose result is f32.
TEST(PostMortem, LogitsThatOverflowInsideTheLoss) {
  PostMortem post_mortem;
  const ObserverScope watching(post_mortem);
  const Tensor x = full({4, 8}, 100), weight = full({5, 8}, 100, {.requires_grad = true}), targets = zeros({4}, {.dtype = DType::i64});
  {
    const amp::Autocast autocast(DType::bf16);
    linear_cross_entropy(x, weight, targets);
  }
  EXPECT_EQ(found(post_mortem), "nothing");
  {
    const amp::Autocast autocast(DType::f16);
    linear_cross_entropy(x, weight, targets);
  }
  EXPECT_EQ(found(post_mortem), "forward linear_cross_entropy in : output: f16_product");
}

TEST(PostMortem, UnderCheckpoint) {
  const Net net;
  fill(net.b.weight, 1e4);
  fill(net.a.bias, 10);
  PostMortem post_mortem;
  const ObserverScope watching(post_mortem);
  const amp::Autocast autocast(DType::f16);
  sum(checkpoint([&](const Tensors& in) { return net(in[0]); }, {ones({4, 8})})).backward();
  EXPECT_EQ(found(post_mortem), "forward linear in b: output: f16_product");
}

TEST(PostMortem, Causes) {
  const auto cause = [](const std::function<void()>& body) {
    PostMortem post_mortem;
    const ObserverScope watching(post_mortem);
    body();
    return post_mortem.first() ? std::string(name(post_mortem.first()->cause)) : "nothing";
  };
  const Net net;
  const auto f16 = [](double value) { return full({1, 2, 3, 4}, value, {.dtype = DType::f16}); };
  EXPECT_EQ(cause([&] { net(full({4, 8}, nan)); }), "bad_data");
  EXPECT_EQ(cause([&] { net(full({4, 8}, inf)); }), "bad_data");
  EXPECT_EQ(cause([&] { matmul(f16(300), f16(300).transpose(2, 3)); }), "attention_scores");
  EXPECT_EQ(cause([&] { f16(300) * f16(300); }), "f16_range");
  EXPECT_EQ(cause([&] { full({2}, 1e5).to(DType::f16); }), "f16_range");
  EXPECT_EQ(cause([&] { log(zeros({2})); }), "singular_point");
  EXPECT_EQ(cause([&] { sqrt(full({2}, -1)); }), "singular_point");
  EXPECT_EQ(cause([&] { ones({2}) / zeros({2}); }), "singular_point");
  EXPECT_EQ(cause([&] { exp(full({2}, 89)); }), "exp_overflow");
  EXPECT_EQ(cause([&] { full({2}, 1e38) * 10.0; }), "divergence");
  EXPECT_EQ(cause([&] {
    const Tensor x = zeros({2}, {.requires_grad = true});
    sum(sqrt(x)).backward();
  }), "singular_point");
  fill(net.c.bias, nan);
  EXPECT_EQ(cause([&] { net(ones({4, 8})); }), "bad_parameter");
}

TEST(PostMortem, MasksAreNoCasualties) {
  PostMortem post_mortem;
  const ObserverScope watching(post_mortem);
  const Tensor mask = from_vector<float>({0, -inf, 0, 0}, {2, 2}), scores = randn({2, 2}, {.requires_grad = true});
  sum(softmax(scores + mask, -1)).backward();
  EXPECT_EQ(found(post_mortem), "nothing");
  // A row that is masked altogether gives NaN: the mask's fault.
  softmax(scores + full({2, 2}, -inf), -1);
  EXPECT_EQ(found(post_mortem), "forward softmax in : output: passed_on");
}

// The gradient of w * 100 in f16 is 100 times the loss scale: it overflows where that is over 655.
struct Scaled {
  Tensor w = full({4}, 1, {.requires_grad = true});
  amp::GradScaler scaler{{.init_scale = 16384}};
  optim::SGD optimizer{{w}, {.lr = 0}};
  PostMortem post_mortem;
  explicit Scaled(amp::PostMortemOptions options) : post_mortem([&] {
        options.loss_scale = [this] { return scaler.get_scale(); };
        return options;
      }()) {}
  void train(int steps) {
    const ObserverScope watching(post_mortem);
    for (int step = 0; step < steps; ++step) {
      scaler.scale(sum((w.to(DType::f16) * 100.0).to(DType::f32))).backward();
      scaler.step(optimizer);
      scaler.update();
      optimizer.zero_grad();
      post_mortem.step();
    }
  }
};

TEST(PostMortem, BackoffIsNotReportedButExplained) {
  Scaled run({.stop = true});
  run.train(12);
  EXPECT_LT(run.scaler.get_scale(), 656);
  EXPECT_EQ(run.scaler.skipped_steps(), 5);
  EXPECT_EQ(found(run.post_mortem), "nothing");
  ASSERT_TRUE(run.post_mortem.last());
  EXPECT_EQ(run.post_mortem.last()->step, 4);
  EXPECT_EQ(run.post_mortem.last()->loss_scale, 1024);
  EXPECT_EQ(run.post_mortem.steps_with_casualties(), 0);
  for (const char* part : {"backward: mul", "loss scale 1024", "Normal back-off"})
    EXPECT_NE(run.post_mortem.explain().find(part), std::string::npos) << run.post_mortem.explain();
}

TEST(PostMortem, BackoffIsReportedWhenAsked) {
  Scaled run({.report_backoff = true});
  run.train(3);
  EXPECT_EQ(found(run.post_mortem), "backward mul in : gradient of input 0: scaled_gradient");
  EXPECT_EQ(run.post_mortem.steps_with_casualties(), 3);
}

TEST(PostMortem, StopThrowsOnceWithTheText) {
  const Net net;
  fill(net.a.weight, nan);
  PostMortem post_mortem({.stop = true});
  const ObserverScope watching(post_mortem);
  std::string text;
  try {
    net(ones({4, 8}));
  } catch (const Error& error) {
    text = error.what();
  }
  ASSERT_TRUE(post_mortem.first());
  EXPECT_EQ(text, post_mortem.first()->text());
  EXPECT_NE(text.find("parameter a.weight"), std::string::npos) << text;
  EXPECT_NO_THROW(net(ones({4, 8})));  // what follows in the step is its consequence
  post_mortem.step();
  EXPECT_THROW(net(ones({4, 8})), Error);
}

TEST(PostMortem, StopInBackwardLeavesTheEngineClean) {
  const Tensor w = zeros({2}, {.requires_grad = true});
  {
    PostMortem post_mortem({.stop = true});
    const ObserverScope watching(post_mortem);
    EXPECT_THROW(sum(sqrt(w * 1.0)).backward(), Error);
  }
  Tensor again = w;
  again.zero_grad();
  int final_gradients = 0;
  again.register_hook([&](const Tensor&) {
    ++final_gradients;
    return Tensor();
  });
  sum(w * 2.0).backward();
  EXPECT_EQ(final_gradients, 1);
  EXPECT_EQ(w.grad().to_vector<float>(), (std::vector<float>{2, 2}));
}

TEST(PostMortem, Json) {
  const Net net;
  fill(net.a.weight, nan);
  PostMortem post_mortem;
  EXPECT_TRUE(nlohmann::json::parse(post_mortem.json())["first"].is_null());
  const ObserverScope watching(post_mortem);
  net(ones({4, 8}));
  post_mortem.step();
  const auto json = nlohmann::json::parse(post_mortem.json());
  EXPECT_EQ(json["steps"], 1);
  EXPECT_EQ(json["first"]["module"], "a");
  EXPECT_EQ(json["first"]["cause"], "bad_parameter");
  EXPECT_EQ(json["first"]["values"]["nans"], 32);
  EXPECT_EQ(json["first"]["sources"][1]["from"], "parameter a.weight");
}

}  // namespace
