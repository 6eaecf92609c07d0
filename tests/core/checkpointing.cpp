// checkpoint(): the same results and gradients, bit for bit, as without it.
#include <gtest/gtest.h>

#include "binade/core/amp/autocast.h"
#include "binade/core/autograd/checkpoint.h"
#include "binade/core/base/random.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/expect_error.h"

namespace binade::test {

namespace {

struct Result {
  std::vector<float> y, dx, dw;
  PhiloxState after;
  bool operator==(const Result& other) const { return y == other.y && dx == other.dx && dw == other.dw; }
};

Result block(bool checkpointed, DType autocast_to) {
  manual_seed(5);
  const Tensor x = randn({6, 8}, {.requires_grad = true}), w = randn({8, 8}, {.requires_grad = true});
  const auto function = [w](const Tensors& in) { return gelu(linear(dropout(in[0], 0.4), w)); };
  Tensor loss;
  {
    const amp::Autocast autocast(autocast_to);
    Tensor h = x;
    for (int i = 0; i < 3; ++i) h = checkpointed ? checkpoint(function, {h}) : function({h});
    loss = sum(dropout(h, 0.5));
  }
  loss.backward();
  return {loss.to_vector<float>(), x.grad().to_vector<float>(), w.grad().to_vector<float>(), random_state()};
}

TEST(Checkpoint, SameBitsWithDropoutInside) {
  const Result plain = block(false, DType::f32), saved = block(true, DType::f32);
  EXPECT_EQ(plain, saved);
  EXPECT_EQ(plain.after.offset, saved.after.offset) << "the random stream moved in backward";
}

TEST(Checkpoint, SameBitsUnderAutocast) {
  EXPECT_EQ(block(false, DType::bf16), block(true, DType::bf16));
  EXPECT_EQ(block(false, DType::f16), block(true, DType::f16));
}

TEST(Checkpoint, CapturedParametersGetGradientsThoughNoInputNeedsThem) {
  const Tensor w = ones({2, 2}, {.requires_grad = true});
  const Tensor y = checkpoint([w](const Tensors& in) { return matmul(in[0], w); }, {ones({3, 2})});
  sum(y).backward();
  EXPECT_EQ(w.grad().to_vector<float>(), std::vector<float>(4, 3));
}

TEST(Checkpoint, LastHookOfASharedParameterSeesTheFinalGradient) {
  Tensor w = ones({2, 2}, {.requires_grad = true});
  std::vector<float> seen;
  w.register_hook([&](const Tensor& grad) {
    seen.push_back(grad.to_vector<float>()[0]);
    return Tensor();
  });
  const auto function = [w](const Tensors& in) { return matmul(in[0], w); };
  sum(checkpoint(function, {checkpoint(function, {ones({2, 2})})})).backward();
  EXPECT_EQ(w.grad().to_vector<float>(), std::vector<float>(4, 8));
  // Each checkpoint's backward is a pass of its own, so the hook runs in each; the last one has it all.
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(seen.back(), 8);
}

TEST(Checkpoint, Nests) {
  const Tensor x = full({3}, 2, {.requires_grad = true});
  const auto inner = [](const Tensors& in) { return in[0] * in[0]; };
  const auto outer = [inner](const Tensors& in) { return checkpoint(inner, {checkpoint(inner, {in[0]})}); };
  sum(checkpoint(outer, {x})).backward();  // x^4
  EXPECT_EQ(x.grad().to_vector<float>(), std::vector<float>(3, 32));
}

TEST(Checkpoint, ErrorsInsidePassThrough) {
  expect_error([] { checkpoint([](const Tensors& in) { return matmul(in[0], in[0]); }, {ones({2, 3})}); }, "matmul: ");
  expect_error([] { checkpoint({}, {ones({2})}); }, "checkpoint: ");
  EXPECT_TRUE(grad_enabled());
}

}  // namespace

}  // namespace binade::test
