// Optimizers against PyTorch's trajectories in tests/golden, their state dictionaries, and the errors of their options.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "binade/core/io/safetensors.h"
#include "binade/core/optim/clip.h"
#include "binade/core/optim/optimizers.h"
#include "binade/core/optim/schedule.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/core/test_device.h"

namespace binade::test {
namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

const io::TensorMap& golden() {
  static const io::TensorMap all = io::load(BINADE_SOURCE_DIR "/tests/golden/optim.safetensors");
  return all;
}
Tensors initial(const std::vector<std::string>& names, DType dtype) {
  Tensors params;
  for (const std::string& name : names)
    params.push_back(golden().at("init." + name).to(dtype).to(test_device()).clone().requires_grad_());
  return params;
}
void give_grads(const Tensors& params, const std::vector<std::string>& names, int t) {
  for (std::size_t i = 0; i < params.size(); ++i) {
    Tensor param = params[i];
    param.set_grad(golden().at("grad." + std::to_string(t) + "." + names[i]).to(param.dtype()).to(test_device()).clone());
  }
}
double largest_difference(const Tensor& a, const Tensor& b) {
  double largest = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) largest = std::max(largest, std::abs(a.at(i) - b.at(i)));
  return largest;
}
template <class Make>
void follow(const std::string& which, const std::vector<std::string>& names, DType dtype, double tolerance,
            const Make& make) {
  const Tensors params = initial(names, dtype);
  const auto optimizer = make(params);
  for (int t = 0; t < 8; ++t) {
    give_grads(params, names, t);
    optimizer->step();
    for (std::size_t i = 0; i < names.size(); ++i) {
      const Tensor expected = golden().at(which + "." + std::to_string(t) + "." + names[i]);
      ASSERT_LE(largest_difference(params[i], expected), tolerance) << which << " step " << t << " " << names[i];
    }
  }
}

TEST(Golden, FollowsPyTorch) {
  using namespace optim;
  for (const auto& [dtype, tolerance] : {std::pair(DType::f64, 2e-7), std::pair(DType::f32, 2e-6)}) {
    follow("adamw", {"p0", "p1"}, dtype, tolerance, [](const Tensors& p) {
      return std::make_unique<AdamW>(p, AdamWOptions{.lr = 1e-2, .beta2 = 0.95, .weight_decay = 0.1});
    });
    follow("adam", {"p0", "p1"}, dtype, tolerance, [](const Tensors& p) {
      return std::make_unique<Adam>(p, AdamOptions{.lr = 1e-2, .beta2 = 0.95, .weight_decay = 0.01});
    });
    follow("sgd_nesterov", {"p0", "p1"}, dtype, tolerance, [](const Tensors& p) {
      return std::make_unique<SGD>(p, SGDOptions{.lr = 0.1, .momentum = 0.9, .weight_decay = 1e-3, .nesterov = true});
    });
    follow("sgd_momentum", {"p0", "p1"}, dtype, tolerance,
           [](const Tensors& p) { return std::make_unique<SGD>(p, SGDOptions{.lr = 0.1, .momentum = 0.9}); });
  }
}

TEST(Golden, MuonFollowsPyTorch) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    for (const auto scale : {optim::MuonScale::original, optim::MuonScale::match_rms_adamw}) {
      const std::string suffix = scale == optim::MuonScale::original ? "_original" : "_match_rms_adamw";
      const auto make = [scale](const Tensors& p) {
        return std::make_unique<optim::Muon>(p, optim::MuonOptions{.lr = 0.02, .weight_decay = 0.1, .scale = scale});
      };
      follow("muon64" + suffix, {"p0", "p2"}, dtype, dtype == DType::f64 ? 2e-7 : 5e-6, make);
      follow("muon" + suffix, {"p0", "p2"}, dtype, 0.004, make);  // PyTorch multiplies in bf16
    }
  }
}

TEST(State, ContinuesExactly) {
  const std::vector<std::string> names = {"p0", "p1"};
  const auto make = [](const Tensors& p) { return std::make_unique<optim::AdamW>(p, optim::AdamWOptions{.lr = 1e-2}); };
  const Tensors straight = initial(names, DType::f32), first = initial(names, DType::f32);
  const auto whole = make(straight), half = make(first);
  for (int t = 0; t < 4; ++t) {
    give_grads(straight, names, t);
    whole->step();
    give_grads(first, names, t);
    half->step();
  }
  half->param_groups()[0].lr = 1e-3;
  whole->param_groups()[0].lr = 1e-3;
  Tensors resumed;
  for (const Tensor& p : first) resumed.push_back(p.detach().clone().requires_grad_());
  const auto other = make(resumed);
  other->load_state_dict(half->state_dict());
  EXPECT_EQ(other->param_groups()[0].lr, 1e-3);
  for (int t = 4; t < 8; ++t) {
    give_grads(straight, names, t);
    whole->step();
    give_grads(resumed, names, t);
    other->step();
  }
  for (std::size_t i = 0; i < names.size(); ++i) EXPECT_EQ(largest_difference(straight[i], resumed[i]), 0);
}

TEST(State, ListsEveryMisfitAndChangesNothing) {
  const std::vector<std::string> names = {"p0", "p1"};
  const Tensors params = initial(names, DType::f32);
  optim::AdamW optimizer(params);
  give_grads(params, names, 0);
  optimizer.step();
  optim::StateDict state = optimizer.state_dict();
  state.erase("state.0.exp_avg");
  state["state.1.exp_avg_sq"] = zeros({3});
  state["surprise"] = zeros({1});
  for (const char* problem :
       {"missing: state.0.exp_avg", "shape: state.1.exp_avg_sq is [3], expected [11]", "unknown: surprise"}) {
    expect_error([&] { optimizer.load_state_dict(state); }, "load_state_dict: ", problem);
  }
}

TEST(State, SkipsParametersWithoutGradient) {
  const Tensors params = initial({"p0", "p1"}, DType::f32);
  optim::AdamW optimizer(params, {.lr = 1e-2});
  Tensor p0 = params[0];
  p0.set_grad(ones(p0.shape(), {.device = test_device()}));
  const Tensor before = params[1].detach().clone();
  optimizer.step();
  EXPECT_EQ(largest_difference(before, params[1]), 0);
  EXPECT_FALSE(optimizer.state_dict().contains("state.1.step"));
}

TEST(Options, AreChecked) {
  const Tensors params = initial({"p0"}, DType::f32);
  expect_error([&] { optim::AdamW(params, {.lr = -1}); }, "optim: lr must be finite and at least 0, got -1");
  expect_error([&] { optim::AdamW(params, {.lr = not_a_number}); }, "optim: lr ");
  expect_error([&] { optim::AdamW(params, {.beta1 = 1}); }, "optim: beta1 ");
  expect_error([&] { optim::Adam(params, {.eps = -1e-8}); }, "optim: eps ");
  expect_error([&] { optim::SGD(params, {.weight_decay = -1}); }, "optim: weight_decay ");
  expect_error([&] { optim::SGD(params, {.nesterov = true}); }, "optim: nesterov ");
  expect_error([&] { optim::SGD(Tensors{}); }, "optim: no parameters");
  expect_error([&] { optim::SGD({params[0], params[0]}); }, "optim: a parameter may be given once");
  expect_error([&] { optim::Muon(initial({"p1"}, DType::f32)); }, "optim: Muon updates matrices only", "AdamW");
}

TEST(Clip, ScalesToTheNorm) {
  const Tensors params = {zeros({2}, {.device = test_device(), .requires_grad = true}),
                          zeros({1}, {.device = test_device(), .requires_grad = true})};
  Tensor a = params[0], b = params[1];
  a.set_grad(from_vector(std::vector<float>{3, 0}, {2}).to(test_device()));
  b.set_grad(from_vector(std::vector<float>{4}, {1}).to(test_device()));
  EXPECT_FLOAT_EQ(optim::clip_grad_norm_(params, 10).item<float>(), 5);
  EXPECT_EQ(a.grad().at(0), 3);
  EXPECT_FLOAT_EQ(optim::clip_grad_norm_(params, 1).item<float>(), 5);
  EXPECT_NEAR(a.grad().at(0), 0.6, 1e-6);
  EXPECT_NEAR(b.grad().at(0), 0.8, 1e-6);
  optim::clip_grad_value_(params, 0.7);
  EXPECT_FLOAT_EQ(static_cast<float>(b.grad().at(0)), 0.7F);
  expect_error([&] { optim::clip_grad_norm_(params, 0); }, "clip_grad_norm_: max_norm must be positive, got 0");
  expect_error([&] { optim::clip_grad_norm_(params, not_a_number); }, "clip_grad_norm_: ");
  expect_error([&] { optim::clip_grad_value_(params, -1); }, "clip_grad_value_: ");
}

TEST(Schedules, AreFunctionsOfTheStep) {
  const optim::Schedule cosine = optim::cosine({.lr = 1, .min_lr = 0.1, .warmup = 4, .steps = 14});
  EXPECT_DOUBLE_EQ(cosine.lr_at(0), 0.2);
  EXPECT_DOUBLE_EQ(cosine.lr_at(4), 1);
  EXPECT_DOUBLE_EQ(cosine.lr_at(9), 0.55);
  EXPECT_DOUBLE_EQ(cosine.lr_at(14), 0.1);
  EXPECT_DOUBLE_EQ(cosine.lr_at(1000), 0.1);
  EXPECT_DOUBLE_EQ(optim::linear({.lr = 1, .steps = 4}).lr_at(1), 0.75);
  EXPECT_DOUBLE_EQ(optim::step_decay({.lr = 1, .factor = 0.5, .every = 3}).lr_at(7), 0.25);
  const optim::Schedule cycle = optim::one_cycle({.max_lr = 1, .steps = 10});
  EXPECT_NEAR(cycle.lr_at(0), 0.04, 1e-15);
  EXPECT_DOUBLE_EQ(cycle.lr_at(2), 1);
  EXPECT_NEAR(cycle.lr_at(9), 0.04 / 1e4, 1e-15);
  expect_error([&] { cosine.lr_at(-1); }, "schedule: steps count from 0");
  expect_error([] { optim::cosine({.warmup = 5, .steps = 2}); }, "schedule: warmup must not exceed steps");
}

}  // namespace
}  // namespace binade::test
