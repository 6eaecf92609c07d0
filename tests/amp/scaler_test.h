// What the tests of GradScaler start from: two parameters, an optimizer of both that counts its steps, one of the second.
#pragma once
#include <gtest/gtest.h>

#include "binade/core/optim/optimizer.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/test_device.h"

namespace binade::test {

struct CountingOptimizer : optim::Optimizer {
  explicit CountingOptimizer(Tensors params) : Optimizer({{.params = std::move(params)}}) {}
  void update(const Tensor& skip) override {  // as an optimizer does that only knows the host
    if (skip && skip.item<float>() != 0) return;
    ++steps;
  }
  std::vector<std::string> state_names() const override { return {}; }
  int steps = 0;
};

struct ScalerTest : testing::Test {
  Tensor x = ones({3}, {.device = test_device(), .requires_grad = true});
  Tensor y = ones({2}, {.device = test_device(), .requires_grad = true});
  CountingOptimizer optimizer{{x, y}}, other{{y}};
  void give(double gradient) { x.set_grad(full({3}, gradient, {.device = test_device()})); }
};

}  // namespace binade::test
