// Batch norm as cuDNN's plans on the simulated device, whose plans are loops of their own: which calls become plans,
// what they compute, and what goes to our own kernels.
#include <gtest/gtest.h>

#include "binade/core/backend/graphed_step.h"
#include "binade/core/backend/kernels.h"
#include "binade/tests/cuda/cudnn.h"

namespace binade::test {

namespace {

struct Running {
  Tensor mean, var;
};
Running running_of(std::int64_t channels, Device device, DType dtype = DType::f32) {
  return {full({channels}, 0.25, {.dtype = dtype, .device = device}),
          full({channels}, 2, {.dtype = dtype, .device = device})};
}
// Parameters in f32 where x is narrower, as layers have them.
Tensor as_parameter(const Tensor& x) { return x.dtype() == DType::f64 ? x : x.to(DType::f32); }
Function batch_norm_of(bool with_running, BatchNormOptions options = {}) {
  return [=](const Tensors& in) {
    const Tensor weight = as_parameter(in[1]), bias = as_parameter(in[2]);
    const Running running = with_running ? running_of(weight.size(0), in[0].device(), weight.dtype()) : Running{};
    return batch_norm(in[0], weight, bias, running.mean, running.var, options);
  };
}
Tensors inputs_of(const Shape& shape) {
  manual_seed(21);
  return {randn(shape), randn({shape[1]}), randn({shape[1]})};
}

class CudnnBatchNorm : public CudnnTest {
 protected:
  void expect_own(const std::string& reason, const Function& function, const Tensors& inputs,
                  DType dtype = DType::f16) {
    expect_own_kernels("batch_norm", reason, function, inputs, dtype);
  }
};

TEST_F(CudnnBatchNorm, ForwardAndGradientsAsPlans) {
  for (const Shape& shape : {Shape{4, 16, 5, 3}, Shape{9, 8}, Shape{2, 24, 33}})
    for (const bool with_running : {false, true}) {
      const Tensors inputs = inputs_of(shape);
      const std::string name = to_text(shape) + (with_running ? " running " : " ");
      for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
        EXPECT_EQ(library_calls(batch_norm_of(with_running), inputs, dtype), 2U) << name;
        expect_close(batch_norm_of(with_running), inputs, dtype, static_cast<double>(shape.numel() / shape[1]),
                     name + to_text(dtype), gpu);
      }
    }
}

TEST_F(CudnnBatchNorm, EpsilonAndMomentumBelongToThePlan) {
  const Tensors inputs = inputs_of({4, 8, 5});
  for (const double eps : {1e-5, 0.5})
    expect_close(batch_norm_of(true, {.eps = eps}), inputs, DType::f32, 20, "eps " + std::to_string(eps), gpu);
}

TEST_F(CudnnBatchNorm, RunningStatisticsFollowTheCpus) {
  const Tensors inputs = inputs_of({6, 16, 7});
  for (const double momentum : {0.1, 1.0, 0.0}) {
    const Running here = running_of(16, Device{}, DType::f64), there = running_of(16, gpu);
    for (int step = 0; step < 3; ++step) {
      const Tensor x = (inputs[0] + static_cast<double>(step)).to(DType::f16);
      batch_norm(x.to(DType::f64), inputs[1].to(DType::f64), inputs[2].to(DType::f64), here.mean, here.var,
                 {.momentum = momentum});
      const std::string lines = traced([&] {
        batch_norm(x.to(gpu), inputs[1].to(gpu), inputs[2].to(gpu), there.mean, there.var, {.momentum = momentum});
      });
      EXPECT_TRUE(contains(lines, "batch_norm on cuda:0: cuDNN: ")) << lines;
    }
    for (const auto& [a, b] : {std::pair{here.mean, there.mean}, std::pair{here.var, there.var}}) {
      const std::vector<double> expected = a.to_vector<double>(), got = b.to_vector<double>();
      for (std::size_t i = 0; i < got.size(); ++i)  // sums of 42 terms in f32, at most about 5
        EXPECT_NEAR(got[i], expected[i], 4 * epsilon(DType::f32) * std::sqrt(42.0) * 5) << momentum << " " << i;
    }
  }
}

TEST_F(CudnnBatchNorm, ForwardAndBackwardMayTakeDifferentRoads) {  // they agree on mean and rstd
  expect_different_roads(batch_norm_of(true), inputs_of({4, 8, 15}), DType::f32, 60);
}

TEST_F(CudnnBatchNorm, WhatPlansCannotDoGoesToOwnKernelsWithTheReason) {
  expect_own("the channels are not a multiple of 8", batch_norm_of(true), inputs_of({4, 12, 5}));
  expect_own("the channels are not a multiple of 8, in f32 of 4", batch_norm_of(true), inputs_of({4, 6, 5}),
             DType::f32);
  expect_own("not f32, f16 or bf16", batch_norm_of(true), inputs_of({4, 8, 5}), DType::f64);
  expect_own(
      "parameters or statistics are not f32", [](const Tensors& in) { return batch_norm(in[0], in[1], in[2], {}, {}); },
      inputs_of({4, 8, 5}));
  expect_own("no weight", [](const Tensors& in) { return batch_norm(in[0], {}, {}, {}, {}); }, {randn({4, 8, 5})});
  {
    const OwnKernelsOnly own;
    expect_own("BINADE_CUDNN is 0", batch_norm_of(true), inputs_of({4, 8, 5}));
  }
  const Tensors inputs = inputs_of({4, 8, 5});
  const std::string evaluation = traced(
      [&] { EXPECT_EQ(library_calls(batch_norm_of(true, {.training = false}), inputs), 0U) << "evaluation is ours"; });
  EXPECT_TRUE(contains(evaluation, "batch_norm_backward on cuda:0: own kernels: given statistics")) << evaluation;
  Tensor x = inputs[0].to(gpu);
  x.requires_grad_();
  const Tensor y = batch_norm(x, inputs[1].to(gpu), inputs[2].to(gpu), {}, {});
  const std::string lines = traced([&] { y.backward(ones(y.shape(), {.device = gpu})); });
  EXPECT_TRUE(contains(lines, "own kernels: not all gradients are wanted")) << lines;
  const Tensor shifted = randn({9}).to(gpu).slice(0, 1, 9);
  EXPECT_TRUE(contains(traced([&] { batch_norm(x, shifted, shifted, {}, {}); }), "not contiguous and aligned"));
}

TEST_F(CudnnBatchNorm, StridedImagesGoToOwnKernels) {  // operations pass contiguous ones
  const Tensors inputs = inputs_of({4, 5, 8});
  const auto normed = [&](Device device) {
    const auto strided = [&](const Tensor& x) { return x.to(device).transpose(1, 2); };
    const Tensor weight = ones({8}, {.device = device}), bias = zeros({8}, {.device = device});
    const Tensor mean = empty_like(bias), rstd = empty_like(bias), dweight = empty_like(bias), dbias = empty_like(bias);
    const Tensor x = strided(inputs[0]), y = strided(zeros({4, 5, 8})), dx = strided(zeros({4, 5, 8}));
    kernel::batch_norm_training(x, weight, bias, y, mean, rstd, {});
    kernel::batch_norm_backward(x, mean, rstd, weight, y, dx, dweight, dbias, true);
    return cat({y.flatten(), dx.flatten(), dweight, dbias}, 0);
  };
  Tensor there;
  const std::string lines = traced([&] { there = cpu(normed(gpu)); });
  EXPECT_TRUE(contains(lines, "batch_norm on cuda:0: own kernels: images are not contiguous")) << lines;
  EXPECT_TRUE(contains(lines, "batch_norm_backward on cuda:0: own kernels: images are not contiguous")) << lines;
  const Tensor here = normed({});
  for (std::int64_t i = 0; i < here.numel(); ++i) ASSERT_NEAR(there.at(i), here.at(i), 1e-5) << i;  // sums of 20 in f32
}

TEST_F(CudnnBatchNorm, CapturedStepsReplayPlans) {
  manual_seed(22);
  const Tensor weight = randn({8}, {.device = gpu}), bias = randn({8}, {.device = gpu});
  const Running recorded = running_of(8, gpu), plain = running_of(8, gpu);
  cuda::GraphedStep graphed(
      [&](const Tensors& in) -> Tensors { return {batch_norm(in[0], weight, bias, recorded.mean, recorded.var)}; },
      {.device = gpu});
  for (int t = 0; t < 6; ++t) {
    const Tensor x = randn({4, 8, 6}).to(gpu);
    const Tensor there = graphed({x})[0].clone();
    expect_same_bits(there, batch_norm(x, weight, bias, plain.mean, plain.var), "step " + std::to_string(t));
    expect_same_bits(recorded.var, plain.var, "running variance, step " + std::to_string(t));
  }
  EXPECT_TRUE(graphed.captured());
}

}  // namespace

}  // namespace binade::test
