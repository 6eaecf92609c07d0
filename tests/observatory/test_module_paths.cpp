// Which module an operation belongs to, forward and backward; and what observers are told of gradients.
#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "binade/core/autograd/checkpoint.h"
#include "binade/core/autograd/observer.h"
#include "binade/core/base/random.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/ops/nn/nn.h"

namespace {

using namespace binade;
using Names = std::set<std::string>;

struct PathCollector final : Observer {  // "path: operation"
  Names forward, backward, delivered, leaves;
  static std::string here(const Op& op) { return module_path() + ": " + std::string(op.name()); }
  void on_forward(const OpPtr& op, Inputs, const Tensor&) override { forward.insert(here(*op)); }
  void on_backward(const Op& op, const Tensor&) override { backward.insert(here(op)); }
  void on_gradients(const BackwardCall& call) override { delivered.insert(here(call.op)); }
  void on_leaf_gradient(const Tensor& leaf) override { leaves.insert(name_of(leaf)); }
};

nn::GPT small_gpt() { return nn::GPT({.vocab_size = 11, .block_size = 8, .n_layer = 2, .n_head = 2, .n_embd = 8, .dropout = 0.1}); }
Tensor tokens() { return randint(0, 11, {2, 6}); }

TEST(ModulePaths, GptForwardAndBackward) {
  const nn::GPT gpt = small_gpt();
  PathCollector seen;
  const ObserverScope watching(seen);
  gpt.loss(tokens(), tokens()).backward();
  for (const char* expected :
       {"h.0.attn.qkv: linear", "h.1.attn.proj: linear", "h.0.mlp.fc: linear", "h.1.mlp.proj: linear",
        "h.0.ln_1: layer_norm", "h.0.ln_2: layer_norm", "h.1.ln_1: layer_norm", "h.1.ln_2: layer_norm",
        "ln_f: layer_norm", "wte: embedding", "drop: dropout", "h.0: dropout_add", "h.1: dropout_add", ": linear",
        ": cross_entropy", ": add"}) {
    EXPECT_TRUE(seen.forward.contains(expected)) << expected;
    EXPECT_TRUE(seen.backward.contains(expected)) << expected;
  }
  // Sums are the blocks' own, although a kernel computes each with a norm of another module.
  for (const std::string& name : seen.forward)
    EXPECT_TRUE(!name.ends_with("dropout_add") || name == "h.0: dropout_add" || name == "h.1: dropout_add") << name;
  EXPECT_EQ(seen.backward, seen.delivered);
  Names names;
  for (const auto& [name, x] : gpt.named_parameters()) names.insert(name);
  EXPECT_EQ(seen.leaves, names);
}

TEST(ModulePaths, NothingIsEnteredOutsideOfModules) {
  const nn::GPT gpt = small_gpt();
  const Tensor loss = gpt.loss(tokens(), tokens());
  EXPECT_EQ(module_path(), "");
  EXPECT_FALSE(current_module());
  loss.backward();
  EXPECT_FALSE(current_module());
  const nn::Linear linear(3, 4);
  EXPECT_THROW(linear(zeros({2, 5})), Error);
  EXPECT_FALSE(current_module());
}

struct Scoped : nn::Module {
  nn::Linear a = add("a", nn::Linear(4, 4));
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return relu(a(x));
  }
};
struct Unscoped : nn::Module {
  nn::Linear b = add("b", nn::Linear(4, 4));
  Tensor operator()(const Tensor& x) const { return tanh(b(x)); }
};
struct Whole : nn::Module {
  Scoped one = add("one", Scoped());
  Unscoped two = add("two", Unscoped());
  Tensor operator()(const Tensor& x) const { return sum(two(one(x))); }
};

TEST(ModulePaths, UserModules) {
  const Whole whole;
  PathCollector seen;
  const ObserverScope watching(seen);
  whole(ones({2, 4})).backward();
  EXPECT_EQ(seen.forward, (Names{"one.a: linear", "one: relu", "two.b: linear", ": tanh", ": sum"}));
  EXPECT_EQ(seen.backward, seen.forward);
}

TEST(ModulePaths, SharedModulesKeepTheirFirstNameWhileItLives) {
  const nn::Linear linear(4, 4);
  EXPECT_EQ(linear.path(), "");
  {
    const nn::Sequential first(nn::ReLU(), linear);
    nn::Module second;
    second.add("again", linear);
    EXPECT_EQ(linear.path(), "1");
    EXPECT_EQ(name_of(linear.weight), "1.weight");
  }
  nn::Module third;
  third.add("third", linear);
  EXPECT_EQ(linear.path(), "third");
  EXPECT_EQ(name_of(linear.weight), "third.weight");
}

TEST(ModulePaths, ParametersKnowTheirNames) {
  const nn::GPT gpt = small_gpt();
  for (const auto& [name, x] : gpt.named_parameters()) EXPECT_EQ(name_of(x), name);
  Tensor w = ones({2}, {.requires_grad = true});
  EXPECT_EQ(name_of(w), "");
  set_name(w, "w");
  EXPECT_EQ(name_of(w), "w");
  EXPECT_THROW(set_name(w * 2.0, "y"), Error);
}

TEST(ModulePaths, UnderCheckpoint) {
  const Whole whole;
  PathCollector plain, checkpointed;
  const Tensor x = ones({2, 4}, {.requires_grad = true});
  {
    const ObserverScope watching(plain);
    sum(whole.one(x)).backward();
  }
  {
    const ObserverScope watching(checkpointed);
    const ModuleScope inside = whole.two.enter();  // what the function does by itself belongs here, when run again too
    sum(checkpoint([&](const Tensors& in) { return sigmoid(whole.one(in[0])); }, {x})).backward();
  }
  for (const auto* names : {&checkpointed.forward, &checkpointed.backward})
    for (const char* expected : {"one.a: linear", "one: relu", "two: sigmoid", "two: checkpoint"})
      EXPECT_TRUE(names->contains(expected)) << expected;
  EXPECT_TRUE(checkpointed.leaves.contains("one.a.weight"));
  const Tensor loss = [&] {
    const ModuleScope inside = whole.two.enter();
    return sum(checkpoint([&](const Tensors& in) { return sigmoid(in[0]); }, {x}));
  }();
  PathCollector later;
  const ObserverScope watching(later);
  loss.backward();
  EXPECT_EQ(later.forward, (Names{"two: sigmoid"}));
}

TEST(ModulePaths, EachThreadHasItsOwn) {
  const Whole whole;
  const ModuleScope inside = whole.one.enter();
  std::string there = "unset";
  PathCollector mine;
  const ObserverScope watching(mine);
  std::thread([&] {
    there = module_path();
    whole(ones({2, 4})).backward();
  }).join();
  EXPECT_EQ(there, "");
  EXPECT_EQ(module_path(), "one");
  EXPECT_TRUE(mine.forward.empty());
}

struct GradientLog final : Observer {
  struct Entry {
    std::string operation;
    std::size_t input;
    std::vector<float> values;
    DType dtype;
    bool accumulated;
  };
  std::vector<Entry> delivered;
  std::vector<std::pair<std::string, std::vector<float>>> leaves;
  std::vector<std::uint64_t> forward, backward;
  void on_forward_call(const ForwardCall& call) override { forward.push_back(call.sequence); }
  void on_gradients(const BackwardCall& call) override {
    backward.push_back(call.sequence);
    for (const DeliveredGradient& g : call.gradients)
      delivered.push_back({std::string(call.op.name()), g.input, g.gradient.to_vector<float>(), g.gradient.dtype(), g.accumulated});
  }
  void on_leaf_gradient(const Tensor& leaf) override { leaves.emplace_back(name_of(leaf), leaf.grad().to_vector<float>()); }
};
using Floats = std::vector<float>;

TEST(ObservedGradients, ValuesAndInputs) {
  Tensor w = from_vector<float>({2, 3}, {1, 2}, {.requires_grad = true});
  set_name(w, "w");
  GradientLog log;
  const ObserverScope watching(log);
  const Tensor x = from_vector<float>({5, 7}, {1, 2});
  const Tensor y = linear(x, w, {});            // 31
  const Tensor z = linear(y, from_vector<float>({4}, {1, 1}), {});
  sum(linear(x, w, {}) + z).backward();         // w is used twice
  std::vector<GradientLog::Entry> linears;
  for (const auto& entry : log.delivered)
    if (entry.operation == "linear") linears.push_back(entry);
  ASSERT_EQ(linears.size(), 3U);  // newest first
  EXPECT_EQ(linears[0].values, (Floats{5, 7}));
  EXPECT_EQ(linears[0].input, 1U);
  EXPECT_FALSE(linears[0].accumulated);
  EXPECT_EQ(linears[1].values, (Floats{4}));
  EXPECT_EQ(linears[1].input, 0U);
  EXPECT_EQ(linears[2].values, (Floats{25, 35}));  // 20, 28 and the 5, 7 that were there
  EXPECT_TRUE(linears[2].accumulated);
  ASSERT_EQ(log.leaves.size(), 1U);  // once, when final
  EXPECT_EQ(log.leaves[0], (std::pair<std::string, Floats>("w", {25, 35})));
  EXPECT_EQ(Floats(log.backward.rbegin(), log.backward.rend()), Floats(log.forward.begin(), log.forward.end()));
}

TEST(ObservedGradients, LeafHooksRanBefore) {
  Tensor w = ones({2}, {.requires_grad = true});
  w.register_hook([](const Tensor& grad) { return grad * 10.0; });
  GradientLog log;
  const ObserverScope watching(log);
  sum(w * 3.0).backward();
  ASSERT_EQ(log.leaves.size(), 1U);
  EXPECT_EQ(log.leaves[0].second, (Floats{30, 30}));
}

TEST(ObservedGradients, InTheDtypeOfTheTensorTheyBelongTo) {
  const Tensor w = full({2}, 0.1, {.dtype = DType::f16, .requires_grad = true});
  GradientLog log;
  const ObserverScope watching(log);
  sum(w.to(DType::f32) * 0.1).backward();  // the cast's gradient arrives in f32, the leaf keeps f16
  EXPECT_EQ(log.delivered.back().operation, "cast");
  EXPECT_EQ(log.delivered.back().dtype, DType::f16);
  EXPECT_EQ(log.delivered.back().values, w.grad().to_vector<float>());
}

TEST(ObservedGradients, ObservingChangesNothing) {
  const auto gradients = [](bool observed) {
    manual_seed(7);
    const nn::GPT gpt = small_gpt();
    const Tensor in = tokens(), out = tokens();
    GradientLog log;
    std::optional<ObserverScope> watching;
    if (observed) watching.emplace(log);
    for (int pass = 0; pass < 2; ++pass) gpt.loss(in, out).backward();  // the second accumulates
    std::vector<Floats> all;
    for (const Tensor& x : gpt.parameters()) all.push_back(x.grad().to_vector<float>());
    return all;
  };
  EXPECT_EQ(gradients(false), gradients(true));
}

}  // namespace
