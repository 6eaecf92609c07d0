// Every sample: forward under autocast, then gradients of the same bits whether autocast has ended by then or another
// one is active. So no operation's backward asks autocast anything.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdint>

#include "binade/core/amp/autocast.h"
#include "binade/tests/op_suite/check.h"

namespace binade::test {

namespace {

std::vector<std::vector<float>> gradients(const Sample& sample, DType forward, DType during_backward) {
  Tensors inputs = draw_inputs(sample, DType::f32, Layout::contiguous).inputs;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (sample.inputs[i].differentiable && inputs[i] && is_arithmetic_float(inputs[i].dtype()))
      inputs[i].requires_grad_();
  Tensor y;
  {
    const amp::Autocast autocast(forward);
    y = call(sample, inputs);
  }
  if (!y.requires_grad()) return {};
  const amp::Autocast other(during_backward);
  y.backward(loss_weights(y.shape(), y.dtype(), y.device()));
  std::vector<std::vector<float>> all;
  for (const Tensor& x : inputs)
    if (x && x.requires_grad() && x.grad()) all.push_back(x.grad().to_vector<float>());
  return all;
}

bool same_bits(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!std::ranges::equal(a[i], b[i], {}, std::bit_cast<std::uint32_t, float>, std::bit_cast<std::uint32_t, float>))
      return false;
  return true;
}

TEST(Autocast, BackwardOfEverySampleIgnoresTheAutocastOfThatTime) {
  SampleMap samples;
  all_samples(samples);
  int compared = 0;
  for (const Sample& sample : samples) {
    const auto ended = gradients(sample, DType::bf16, DType::f32);
    compared += ended.empty() ? 0 : 1;
    EXPECT_TRUE(same_bits(gradients(sample, DType::bf16, DType::bf16), ended)) << sample.name << ", bf16 active";
    EXPECT_TRUE(same_bits(gradients(sample, DType::bf16, DType::f16), ended)) << sample.name << ", f16 active";
  }
  EXPECT_GT(compared, 100);
}

}  // namespace

}  // namespace binade::test
