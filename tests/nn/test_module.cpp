// Modules: names, sharing, state dicts, load errors, conversion in place.
#include <gtest/gtest.h>

#include "binade/core/tensor/grad_mode.h"
#include "binade/core/base/random.h"
#include "binade/ops/nn/nn.h"
#include "binade/tests/core/expect_error.h"

namespace {

using namespace binade;
using binade::test::error_of;

struct Net : nn::Module {
  nn::Linear a = add("a", nn::Linear(4, 8));
  nn::Sequential body = add("body", nn::Sequential(nn::Linear(8, 3), nn::ReLU(), nn::Dropout(0.5)));
};

std::vector<std::string> names(const nn::NamedTensors& tensors) {
  std::vector<std::string> out;
  for (const auto& [name, x] : tensors) out.push_back(name);
  return out;
}

TEST(Module, NamesAreNested) {
  const Net net;
  EXPECT_EQ(names(net.named_parameters()),
            (std::vector<std::string>{"a.weight", "a.bias", "body.0.weight", "body.0.bias"}));
  EXPECT_EQ(net.parameter_count(), 4 * 8 + 8 + 8 * 3 + 3);
  for (const Tensor& x : net.parameters()) EXPECT_TRUE(x.requires_grad());
}

TEST(Module, NamesAreChecked) {
  nn::Module module;
  module.add_parameter("weight", ones({2}));
  EXPECT_NE(error_of([&] { module.add_buffer("weight", ones({2})); }).find("already taken"), std::string::npos);
  EXPECT_NE(error_of([&] { module.add_buffer("a.b", ones({2})); }).find("dots"), std::string::npos);
  EXPECT_NE(error_of([&] { module.add("", nn::ReLU()); }).find("empty"), std::string::npos);
}

TEST(Module, CopiesShareParametersAndMode) {
  Net net;
  Net other = net;
  const Net moved = std::move(other);
  EXPECT_TRUE(net.a.weight.is_same(moved.a.weight));
  EXPECT_EQ(names(other.named_parameters()).size(), 4U);  // NOLINT: a moved-from module is a copy, by design
  net.eval();
  EXPECT_FALSE(moved.training());
  EXPECT_FALSE(moved.body.training());
  net.body.train();
  EXPECT_TRUE(moved.body.training());
  EXPECT_FALSE(moved.training());
}

TEST(Module, SharedParametersAreListedOnceAndSavedUnderEachName) {
  nn::Module module;
  const nn::Linear layer(3, 3);
  module.add("first", layer);
  module.add("second", layer);
  EXPECT_EQ(names(module.named_parameters()), (std::vector<std::string>{"first.weight", "first.bias"}));
  EXPECT_EQ(module.state_dict().size(), 4U);
}

TEST(Module, StateDictRoundTrip) {
  manual_seed(1);
  Net from;
  manual_seed(2);
  Net to;
  const Tensor weight = to.a.weight;
  EXPECT_NE(from.a.weight.to_vector<float>(), weight.to_vector<float>());
  to.load_state_dict(from.state_dict());
  EXPECT_EQ(from.a.weight.to_vector<float>(), weight.to_vector<float>());  // in place: the old handle sees it
  EXPECT_FALSE(weight.shares_memory_with(from.a.weight));
}

TEST(Module, LoadErrorsListEverythingAndChangeNothing) {
  Net net;
  const std::vector<float> before = net.a.weight.to_vector<float>();
  std::map<std::string, Tensor> state = net.state_dict();
  state["a.weight"] = zeros({8, 4});
  state["a.bias"] = zeros({9});
  state.erase("body.0.bias");
  state["extra"] = zeros({1});
  const std::string message = error_of([&] { net.load_state_dict(state); });
  EXPECT_NE(message.find("shape of a.bias: expected [8], got [9]"), std::string::npos) << message;
  EXPECT_NE(message.find("missing: body.0.bias"), std::string::npos) << message;
  EXPECT_NE(message.find("unexpected: extra"), std::string::npos) << message;
  EXPECT_EQ(net.a.weight.to_vector<float>(), before);
}

TEST(Module, ConversionKeepsHandles) {
  nn::Sequential model(nn::Linear(4, 2), nn::BatchNorm1d(2));
  const Tensors held = model.parameters();
  const std::vector<float> before = held[0].to_vector<float>();
  model.to(DType::bf16);
  EXPECT_EQ(held[0].dtype(), DType::bf16);
  EXPECT_TRUE(held[0].requires_grad());
  EXPECT_EQ(model.named_buffers()[0].second.dtype(), DType::f32);
  model.to(DType::f32);
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(held[0].at(static_cast<std::int64_t>(i)), static_cast<double>(static_cast<float>(BFloat16(before[i]))));
  }
  EXPECT_THROW(model.to(DType::i64), Error);
}

TEST(Layers, DefaultStart) {
  manual_seed(3);
  const nn::Linear linear_layer(100, 40);
  const nn::Conv2d conv(4, 6, 5, {.groups = 2, .bias = false});
  EXPECT_EQ(conv.weight.shape(), (Shape{6, 2, 5, 5}));
  EXPECT_FALSE(conv.bias.defined());
  double largest = 0;
  for (const double x : linear_layer.weight.to_vector<double>()) largest = std::max(largest, std::abs(x));
  EXPECT_LE(largest, 0.1);
  EXPECT_GT(largest, 0.09);
  largest = 0;
  for (const double x : conv.weight.to_vector<double>()) largest = std::max(largest, std::abs(x));
  EXPECT_LE(largest, 1 / std::sqrt(50.0));
  EXPECT_GT(largest, 0.9 / std::sqrt(50.0));
  EXPECT_THROW(nn::Conv2d(3, 6, 5, {.groups = 2}), Error);
  EXPECT_THROW(nn::Linear(0, 2), Error);
  EXPECT_THROW(nn::Dropout(1.0), Error);
}

TEST(Layers, ConvolutionsTakeAnActivation) {
  manual_seed(4);
  const nn::Conv2d plain(3, 4, 3, {.padding = {1, 1}});
  nn::Conv2d active(3, 4, 3, {.padding = {1, 1}, .activation = Activation::relu});
  active.load_state_dict(plain.state_dict());
  const Tensor image = randn({2, 3, 6, 5});
  EXPECT_EQ(active(image).to_vector<float>(), relu(plain(image)).to_vector<float>());
  const nn::Conv1d line(3, 4, 2, {.activation = Activation::silu});
  const Tensor x = randn({2, 3, 7});
  EXPECT_EQ(line(x).to_vector<float>(), silu(conv1d(x, line.weight, line.bias)).to_vector<float>());
}

TEST(Layers, BatchNormState) {
  const nn::BatchNorm2d norm(3);
  const auto state = norm.state_dict();
  EXPECT_EQ(state.size(), 4U);
  EXPECT_TRUE(state.contains("running_mean") && state.contains("running_var"));
  EXPECT_EQ(norm.named_parameters().size(), 2U);
}

TEST(GPT, NamesTyingAndStart) {
  manual_seed(4);
  const nn::GPT gpt({.vocab_size = 61, .block_size = 16, .n_layer = 2, .n_head = 4, .n_embd = 32});
  const auto state = gpt.state_dict();
  for (const char* name : {"wte.weight", "wpe.weight", "h.0.ln_1.weight", "h.0.attn.qkv.weight", "h.1.attn.proj.bias",
                           "h.1.ln_2.bias", "h.1.mlp.fc.weight", "h.1.mlp.proj.weight", "ln_f.weight", "ln_f.bias"}) {
    EXPECT_TRUE(state.contains(name)) << name;
  }
  EXPECT_EQ(state.size(), 2U + 2 * 12 + 2);  // the classifier is wte: no tensor of its own
  const auto stddev = [&](const std::string& name) {
    double sum = 0;
    const std::vector<double> values = state.at(name).to_vector<double>();
    for (const double x : values) sum += x * x;
    return std::sqrt(sum / static_cast<double>(values.size()));
  };
  EXPECT_NEAR(stddev("wte.weight"), 0.02, 0.002);
  EXPECT_NEAR(stddev("h.0.mlp.proj.weight"), 0.01, 0.001);  // 0.02 / sqrt(2 * 2)
  EXPECT_EQ(stddev("h.0.attn.qkv.bias"), 0);
  EXPECT_EQ(stddev("ln_f.weight"), 1);
  const nn::GPT bare({.vocab_size = 5, .block_size = 4, .n_layer = 1, .n_head = 1, .n_embd = 4, .bias = false});
  for (const auto& [name, x] : bare.named_parameters()) EXPECT_FALSE(name.ends_with("bias")) << name;
  EXPECT_THROW(nn::GPT({.n_head = 5, .n_embd = 32}), Error);
}

}  // namespace
