// nn::GPT with PyTorch's weights: logits, loss and every gradient.
#include "binade/core/amp/autocast.h"
#include "binade/ops/nn/nn.h"
#include "binade/tests/train/golden.h"

namespace binade::test {

namespace {

nn::GPT golden_model(const io::TensorMap& file) {
  nn::GPT model({.vocab_size = 61, .block_size = 16, .n_layer = 3, .n_head = 4, .n_embd = 32});
  io::TensorMap state;
  for (const auto& [name, tensor] : file)
    if (name.starts_with("param.")) state[name.substr(6)] = tensor;
  model.load_state_dict(state);
  return model;
}

void expect_gradients(const nn::GPT& model, const io::TensorMap& file, double tolerance) {
  std::size_t compared = 0;
  for (const auto& [name, parameter] : model.named_parameters()) {
    const Tensor expected = file.at("grad." + name);
    ASSERT_TRUE(parameter.grad()) << name;
    Tensor got = parameter.grad();
    if (name.ends_with("attn.qkv.bias")) {
      // The key third is zero but for rounding: softmax does not change when one number is added to a row.
      for (const double v : got.narrow(0, 32, 32).to_vector<double>()) EXPECT_NEAR(v, 0, tolerance * 1e-2) << name;
      for (const std::int64_t start : {0, 64})
        EXPECT_LE(relative_error(got.narrow(0, start, 32), expected.narrow(0, start, 32)), tolerance) << name;
    } else {
      EXPECT_LE(relative_error(got, expected), tolerance) << name;
    }
    ++compared;
  }
  std::size_t in_file = 0;
  for (const auto& [name, tensor] : file) in_file += name.starts_with("grad.") ? 1 : 0;
  EXPECT_EQ(compared, in_file);
}

TEST(GoldenGPT, LogitsLossAndGradients) {
  const io::TensorMap file = golden("gpt");
  nn::GPT model = golden_model(file);
  expect_close(model(file.at("tokens")), file.at("logits"), 1e-4, 1e-5, "logits");
  const Tensor loss = model.loss(file.at("tokens"), file.at("targets"));
  const double expected = file.at("loss").item<double>();
  EXPECT_NEAR(loss.item<double>(), expected, 1e-5 * expected);
  loss.backward();
  expect_gradients(model, file, 1e-4);
}

TEST(GoldenGPT, DoublePrecision) {
  const io::TensorMap file = golden("gpt");
  nn::GPT model = golden_model(file);
  model.to(DType::f64);
  const Tensor loss = model.loss(file.at("tokens"), file.at("targets"));
  EXPECT_NEAR(loss.item<double>(), file.at("loss").item<double>(), 2e-7 * loss.item<double>());
  loss.backward();
  expect_gradients(model, file, 1e-6);
}

TEST(GoldenGPT, MixedPrecisionStaysNear) {
  const io::TensorMap file = golden("gpt");
  for (const DType dtype : {DType::bf16, DType::f16}) {
    nn::GPT model = golden_model(file);
    Tensor loss;
    {
      const amp::Autocast autocast(dtype);
      loss = model.loss(file.at("tokens"), file.at("targets"));
    }
    const double expected = file.at("loss").item<double>(), eps = epsilon(dtype);
    EXPECT_NEAR(loss.item<double>(), expected, 4 * eps * expected) << name(dtype);
    loss.backward();
    // A dozen roundings lie between a weight and the loss, each of half a unit.
    for (const auto& [parameter_name, parameter] : model.named_parameters()) {
      EXPECT_EQ(parameter.grad().dtype(), DType::f32);
      if (parameter_name.ends_with("attn.qkv.bias")) continue;
      EXPECT_LE(relative_error(parameter.grad(), file.at("grad." + parameter_name)), 8 * eps)
          << parameter_name << " in " << name(dtype);
    }
  }
}

}  // namespace

}  // namespace binade::test
