// 16-bit parameters: master weights, stochastic rounding, BF16 optimizer state.
#include <binade/binade.h>
#include <binade/core/base/stochastic.h>

#include <gtest/gtest.h>

#include <omp.h>

#include <cmath>

#include "binade/tests/core/expect_error.h"
#include "binade/tests/core/test_device.h"

namespace {

using namespace binade;
using binade::test::test_device;

constexpr std::int64_t count = 40000;  // several chunks, and not a multiple of the vector width

enum class Kind { sgd, adam, adamw };
struct Storage {
  bool master = true, stochastic = false;
  DType state = DType::f32;
};

std::unique_ptr<optim::Optimizer> make(Kind kind, const Tensors& params, Storage s, double lr = 1e-3) {
  if (kind == Kind::sgd)
    return std::make_unique<optim::SGD>(params, optim::SGDOptions{.lr = lr, .momentum = 0.9, .master_weights = s.master,
                                                                  .stochastic_rounding = s.stochastic, .state_dtype = s.state});
  if (kind == Kind::adam)
    return std::make_unique<optim::Adam>(params, optim::AdamOptions{.lr = lr, .master_weights = s.master,
                                                                    .stochastic_rounding = s.stochastic, .state_dtype = s.state});
  return std::make_unique<optim::AdamW>(params, optim::AdamWOptions{.lr = lr, .master_weights = s.master,
                                                                    .stochastic_rounding = s.stochastic, .state_dtype = s.state});
}

Tensor weights(DType dtype, std::uint64_t seed = 1, std::int64_t n = count) {
  manual_seed(seed);
  return randn({n}).to(dtype).to(test_device()).clone().requires_grad_();
}
void give(const Tensor& w, int step) {
  manual_seed(1000 + static_cast<std::uint64_t>(step));
  Tensor(w).set_grad(randn(w.shape()).to(w.dtype()).to(test_device()).clone());
}

class Params : public testing::TestWithParam<Kind> {};
INSTANTIATE_TEST_SUITE_P(, Params, testing::Values(Kind::sgd, Kind::adam, Kind::adamw), [](const auto& p) {
  return p.param == Kind::sgd ? "sgd" : p.param == Kind::adam ? "adam" : "adamw";
});

// The master copy is an f32 parameter, and the parameter is its rounding, at every step.
TEST_P(Params, MasterWeightsAreTheF32RunAndTheParameterItsRounding) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Tensor w = weights(dtype), full = w.to(DType::f32).detach().clone().requires_grad_();
    const auto low = make(GetParam(), {w}, {}), high = make(GetParam(), {full}, {});
    for (int step = 0; step < 6; ++step) {
      give(w, step);
      Tensor(full).set_grad(w.grad().to(DType::f32));
      low->step();
      high->step();
      ASSERT_EQ(w.to_vector<float>(), full.to(dtype).to_vector<float>()) << step;
    }
    EXPECT_EQ(low->state_dict().at("state.0.master").to_vector<float>(), full.to_vector<float>());
  }
}

TEST_P(Params, WithoutAnyTheUpdateIsRoundedToNearest) {
  const Tensor w = weights(DType::bf16);
  const auto opt = make(GetParam(), {w}, {.master = false});
  for (int step = 0; step < 3; ++step) {
    const Tensor full = w.to(DType::f32).detach().clone().requires_grad_();
    const auto one = make(GetParam(), {full}, {});
    if (step > 0) {
      optim::StateDict state = opt->state_dict();
      one->load_state_dict(state);
    }
    give(w, step);
    Tensor(full).set_grad(w.grad().to(DType::f32));
    opt->step();
    one->step();
    ASSERT_EQ(w.to_vector<float>(), full.to(DType::bf16).to_vector<float>());
  }
  EXPECT_FALSE(opt->state_dict().contains("state.0.master"));
}

// Bit for bit the scalar rounding of the f32 update, element i of all parameters together taking word i of the draw.
TEST_P(Params, StochasticRoundingIsTheScalarRoundingOfTheDraw) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Tensor a = weights(dtype, 1, 37), b = weights(dtype, 2);
    const Tensor full_a = a.to(DType::f32).detach().clone().requires_grad_(),
                 full_b = b.to(DType::f32).detach().clone().requires_grad_();
    const auto low = make(GetParam(), {a, b}, {.stochastic = true}), high = make(GetParam(), {full_a, full_b}, {});
    give(a, 0);
    give(b, 1);
    Tensor(full_a).set_grad(a.grad().to(DType::f32));
    Tensor(full_b).set_grad(b.grad().to(DType::f32));
    const PhiloxState draw = random_state();
    low->step();
    high->step();
    std::uint64_t word = 0;
    for (const auto& [w, full] : {std::pair(a, full_a), std::pair(b, full_b)}) {
      const std::vector<float> got = w.to_vector<float>(), exact = full.to_vector<float>();
      for (std::size_t i = 0; i < got.size(); ++i, ++word) {
        const std::uint32_t random = philox_word(draw, word);
        const float expected = dtype == DType::bf16 ? static_cast<float>(round_stochastic(exact[i], random, BFloat16()))
                                                    : static_cast<float>(round_stochastic(exact[i], random, Half()));
        ASSERT_EQ(got[i], expected) << i;
      }
    }
  }
}

TEST_P(Params, SameBitsForAnyNumberOfThreads) {
  const auto run = [&](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    const Tensor w = weights(DType::bf16);
    const auto opt = make(GetParam(), {w}, {.stochastic = true, .state = DType::bf16});
    for (int step = 0; step < 3; ++step) {
      give(w, step);
      opt->step();
    }
    omp_set_num_threads(before);
    return w.to_vector<float>();
  };
  EXPECT_EQ(run(1), run(2));
}

TEST_P(Params, Bf16StateIsTheRoundingOfTheF32Update) {
  const Tensor w = weights(DType::f32), v = weights(DType::f32);
  const auto low = make(GetParam(), {w}, {.state = DType::bf16}), high = make(GetParam(), {v}, {});
  give(w, 0);
  give(v, 0);
  low->step();
  high->step();
  EXPECT_EQ(w.to_vector<float>(), v.to_vector<float>()) << "the first step does not see the rounding yet";
  const optim::StateDict a = low->state_dict(), b = high->state_dict();
  for (const auto& [name, value] : a) {
    if (!name.starts_with("state.") || name.ends_with("step")) continue;
    EXPECT_EQ(value.dtype(), DType::bf16) << name;
    EXPECT_EQ(value.to_vector<float>(), b.at(name).to(DType::bf16).to_vector<float>()) << name;
  }
}

TEST_P(Params, StateRoundTripContinuesBitForBit) {
  for (const Storage s : {Storage{}, Storage{.master = false}, Storage{.stochastic = true}, Storage{.state = DType::bf16}}) {
    const Tensor w = weights(DType::bf16);
    const auto opt = make(GetParam(), {w}, s);
    const auto steps = [](optim::Optimizer& o, const Tensor& x, int from, int to) {
      for (int step = from; step < to; ++step) {
        give(x, step);
        o.step();
      }
    };
    steps(*opt, w, 0, 3);
    const optim::StateDict state = opt->state_dict();
    const Tensor copy = w.detach().clone().requires_grad_();
    const auto resumed = make(GetParam(), {copy}, s);
    resumed->load_state_dict(state);
    steps(*opt, w, 3, 5);
    steps(*resumed, copy, 3, 5);
    EXPECT_EQ(w.to_vector<float>(), copy.to_vector<float>());
  }
  const Tensor w = weights(DType::bf16);
  const auto with = make(GetParam(), {w}, {}), without = make(GetParam(), {w}, {.master = false});
  give(w, 0);
  without->step();
  EXPECT_NE(test::error_of([&] { with->load_state_dict(without->state_dict()); }).find("missing: state.0.master"),
            std::string::npos);
}

TEST(LowPrecisionParams, SmallUpdatesAreLostToNearestOnly) {
  const auto after = [](Storage s) {
    const Tensor w = full({4096}, 1, {.dtype = DType::bf16, .device = test_device(), .requires_grad = true});
    const auto opt = make(Kind::sgd, {w}, s, 1e-4);
    for (int step = 0; step < 20; ++step) {
      Tensor(w).set_grad(full({4096}, 1, {.dtype = DType::bf16, .device = test_device()}));
      opt->step();
    }
    return mean(w.to(DType::f32)).item<double>();
  };
  // momentum 0.9: the sum over 20 steps of (1 - 0.9^k) / 0.1
  double expected = 1;
  for (int k = 1; k <= 20; ++k) expected -= 1e-4 * (1 - std::pow(0.9, k)) / 0.1;
  const double step = 0x1p-8;  // below 1
  EXPECT_EQ(after({.master = false}), 1) << "every update is less than half a step";
  EXPECT_NEAR(after({}), expected, step / 2);
  // 20 roundings of 4096 weights, each within a step: 5 standard deviations of the mean
  EXPECT_NEAR(after({.stochastic = true}), expected, 5 * step * std::sqrt(20.0 / 4 / 4096));
}

TEST(LowPrecisionParams, AWeightChangedFromOutsideWinsOverItsMasterCopy) {
  for (int which = 0; which < 2; ++which) {
    const Tensor matrix = full({2, 4}, 1, {.dtype = DType::bf16, .device = test_device(), .requires_grad = true});
    const std::unique_ptr<optim::Optimizer> opt =
        which == 0 ? make(Kind::sgd, {matrix}, {}, 1e-4)
                   : std::make_unique<optim::Muon>(Tensors{matrix}, optim::MuonOptions{.lr = 1e-4, .weight_decay = 0});
    Tensor(matrix).set_grad(ones({2, 4}, {.dtype = DType::bf16, .device = test_device()}));
    opt->step();
    {
      const NoGrad guard;
      Tensor(matrix).set(3, 5);
    }
    opt->step();
    EXPECT_NEAR(matrix.at(3), 5, 0.04) << which;
    EXPECT_NEAR(opt->state_dict().at("state.0.master").at(0), 1, 0.01) << which;
  }
}

TEST(LowPrecisionParams, OptionsAreChecked) {
  const Tensor w = weights(DType::f32, 1, 4);
  EXPECT_NE(test::error_of([&] { make(Kind::adam, {w}, {.state = DType::f16}); }).find("state_dtype must be f32 or bf16"),
            std::string::npos);
  const auto opt = make(Kind::adam, {w}, {});
  EXPECT_NE(test::error_of([&] { opt->step(ones({2})); }).find("skip must be f32 with one element"), std::string::npos);
}

}  // namespace
