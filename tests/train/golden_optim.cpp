// Optimizers against PyTorch's: eight steps on given gradients.
#include <functional>
#include <memory>

#include "binade/core/optim/optimizers.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/tests/train/golden.h"

namespace binade::test {

namespace {

using Make = std::function<std::unique_ptr<optim::Optimizer>(const Tensors&)>;

struct OptimCase {
  std::string name;
  std::vector<std::string> params;
  Make make;
  double relative = 2e-6, absolute = 1e-7;  // f32 state: a few roundings per step
};

void PrintTo(const OptimCase& c, std::ostream* out) { *out << c.name; }

std::vector<OptimCase> cases() {
  const auto muon = [](optim::MuonScale scale) {
    return [scale](const Tensors& p) {
      return std::make_unique<optim::Muon>(
          p, optim::MuonOptions{.lr = 0.02, .weight_decay = 0.1, .momentum = 0.95, .scale = scale});
    };
  };
  const std::vector<std::string> both{"p0", "p1"}, matrices{"p0", "p2"};
  return {
      {"adamw", both,
       [](const Tensors& p) {
         return std::make_unique<optim::AdamW>(
             p, optim::AdamWOptions{.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1});
       }},
      {"adam", both,
       [](const Tensors& p) {
         return std::make_unique<optim::Adam>(
             p, optim::AdamOptions{.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.01});
       }},
      {"sgd_nesterov", both,
       [](const Tensors& p) {
         return std::make_unique<optim::SGD>(
             p, optim::SGDOptions{.lr = 0.1, .momentum = 0.9, .weight_decay = 1e-3, .nesterov = true});
       }},
      {"sgd_momentum", both,
       [](const Tensors& p) { return std::make_unique<optim::SGD>(p, optim::SGDOptions{.lr = 0.1, .momentum = 0.9}); }},
      // PyTorch runs the Newton-Schulz steps in bf16.
      {"muon_original", matrices, muon(optim::MuonScale::original), 0, 0.004},
      {"muon_match_rms_adamw", matrices, muon(optim::MuonScale::match_rms_adamw), 0, 0.004},
  };
}

class GoldenOptim : public ::testing::TestWithParam<OptimCase> {};

TEST_P(GoldenOptim, EightSteps) {
  const OptimCase& c = GetParam();
  const io::TensorMap file = golden("optim");
  Tensors params;
  for (const std::string& p : c.params) params.push_back(file.at("init." + p).clone().requires_grad_());
  const std::unique_ptr<optim::Optimizer> optimizer = c.make(params);
  for (int step = 0; step < 8; ++step) {
    const std::string t = std::to_string(step);
    for (std::size_t i = 0; i < params.size(); ++i)
      params[i].set_grad(file.at("grad." + t + "." + c.params[i]).clone());
    optimizer->step();
    optimizer->zero_grad();
    for (std::size_t i = 0; i < params.size(); ++i)
      expect_close(params[i], file.at(c.name + "." + t + "." + c.params[i]), c.relative, c.absolute,
                   c.params[i] + " after step " + t);
  }
}

// Saved after four steps, loaded into a new optimizer: the other four steps are the same, bit for bit.
TEST_P(GoldenOptim, StateSurvivesSavingAndLoading) {
  const OptimCase& c = GetParam();
  const io::TensorMap file = golden("optim");
  Tensors params;
  for (const std::string& p : c.params) params.push_back(file.at("init." + p).clone().requires_grad_());
  const auto run = [&](optim::Optimizer& optimizer, const Tensors& of, int from, int to) {
    for (int step = from; step < to; ++step) {
      for (std::size_t i = 0; i < of.size(); ++i)
        Tensor(of[i]).set_grad(file.at("grad." + std::to_string(step) + "." + c.params[i]).clone());
      optimizer.step();
    }
  };
  const auto first = c.make(params);
  run(*first, params, 0, 4);
  Tensors copies;
  for (const Tensor& p : params) copies.push_back(p.detach().clone().requires_grad_());
  optim::StateDict saved;
  for (const auto& [name, x] : first->state_dict()) saved.emplace(name, x.clone());
  const auto second = c.make(copies);
  second->load_state_dict(saved);
  run(*first, params, 4, 8);
  run(*second, copies, 4, 8);
  for (std::size_t i = 0; i < params.size(); ++i)
    EXPECT_EQ(params[i].to_vector<float>(), copies[i].to_vector<float>()) << c.params[i];
}

std::string name_of(const ::testing::TestParamInfo<OptimCase>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Cases, GoldenOptim, ::testing::ValuesIn(cases()), name_of);

}  // namespace

}  // namespace binade::test
