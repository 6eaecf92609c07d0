// Small models for tests of the precision tools.
#pragma once
#include "binade/core/autograd/module_path.h"
#include "binade/ops/nn/nn.h"

namespace binade::test {

// One parameter whose gradient is what the test likes: d/dw sum(w * g) = g.
struct Given {
  Tensor w;
  explicit Given(std::int64_t n, const std::string& name = "w") : w(zeros({n}, {.requires_grad = true})) {
    set_name(w, name);
  }
  void backward(const std::vector<float>& g, double scale = 1) {
    w.zero_grad();
    (sum(w * from_vector(g, {static_cast<std::int64_t>(g.size())})) * scale).backward();
  }
};

inline nn::Sequential deep_sigmoid() {
  nn::Sequential model;
  for (int i = 0; i < 4; ++i) {
    model.push_back(nn::Linear(i == 0 ? 20 : 16, 16));
    model.push_back(nn::Sigmoid());
  }
  model.push_back(nn::Linear(16, 10));
  return model;
}

}  // namespace binade::test
