// GradScaler: stages, growth and backoff, skipped steps, state.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "binade/core/amp/grad_scaler.h"
#include "binade/core/optim/clip.h"
#include "binade/core/optim/optimizers.h"
#include "binade/ops/ops.h"
#include "binade/tests/amp/scaler_test.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/core/test_device.h"

namespace {

using namespace binade;
using binade::test::CountingOptimizer;
using binade::test::error_of;
using binade::test::ScalerTest;
using binade::test::test_device;

TEST_F(ScalerTest, ScaleIsRecordedInSingle) {
  amp::GradScaler scaler({.init_scale = 1024});
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f64}) {
    const Tensor loss = full({}, 100, {.dtype = dtype, .requires_grad = true});
    const Tensor scaled = scaler.scale(loss);
    EXPECT_EQ(scaled.dtype(), dtype == DType::f64 ? DType::f64 : DType::f32);
    EXPECT_EQ(scaled.item<double>(), 102400);  // above f16's range
    scaled.backward();
    EXPECT_EQ(loss.grad().item<double>(), 1024);
    EXPECT_EQ(loss.grad().dtype(), dtype);
  }
  EXPECT_THROW(scaler.scale(Tensor()), Error);
}

TEST_F(ScalerTest, StepUnscalesOnce) {
  amp::GradScaler scaler({.init_scale = 8});
  give(16);
  scaler.unscale_(optimizer);
  EXPECT_EQ(x.grad().at(0), 2);
  scaler.step(optimizer);
  EXPECT_EQ(x.grad().at(2), 2);
  EXPECT_EQ(optimizer.steps, 1);
  scaler.update();
  give(16);
  scaler.step(optimizer);
  EXPECT_EQ(x.grad().at(0), 2);
  EXPECT_EQ(optimizer.steps, 2);
}

TEST_F(ScalerTest, StagesAreEnforced) {
  amp::GradScaler scaler;
  EXPECT_NE(error_of([&] { scaler.update(); }).find("no gradients were checked"), std::string::npos);
  EXPECT_NE(error_of([&] { scaler.step(optimizer); }).find("no parameter"), std::string::npos);
  amp::GradScaler fresh;
  give(1);
  fresh.unscale_(optimizer);
  EXPECT_NE(error_of([&] { fresh.unscale_(optimizer); }).find("already called"), std::string::npos);
  fresh.step(optimizer);
  EXPECT_NE(error_of([&] { fresh.unscale_(optimizer); }).find("after step()"), std::string::npos);
  EXPECT_NE(error_of([&] { fresh.step(optimizer); }).find("already called"), std::string::npos);
  fresh.update();
  fresh.step(optimizer);
}

TEST_F(ScalerTest, InfSkipsAndBacksOff) {
  for (const double bad : {HUGE_VAL, -HUGE_VAL, std::nan("")}) {
    amp::GradScaler scaler({.init_scale = 1024, .growth_interval = 2});
    optimizer.steps = 0;
    give(1);
    scaler.step(optimizer);
    scaler.update();
    EXPECT_FALSE(scaler.last_step_skipped());
    give(bad);
    scaler.step(optimizer);
    EXPECT_EQ(optimizer.steps, 1);
    scaler.update();
    EXPECT_TRUE(scaler.last_step_skipped());
    EXPECT_EQ(scaler.get_scale(), 512);
    EXPECT_EQ(scaler.skipped_steps(), 1);
    give(1);
    scaler.step(optimizer);
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), 512);  // the bad step restarted the count
    give(1);
    scaler.step(optimizer);
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), 1024);
  }
}

TEST_F(ScalerTest, OptimizersAreSkippedAlone) {
  amp::GradScaler scaler({.init_scale = 4});
  CountingOptimizer first({x});
  x.set_grad(full({3}, HUGE_VAL, {.device = test_device()}));
  y.set_grad(ones({2}, {.device = test_device()}));
  scaler.step(first);
  scaler.step(other);
  EXPECT_EQ(first.steps, 0);
  EXPECT_EQ(other.steps, 1);
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 2);  // one inf is enough for the shared scale
}

TEST_F(ScalerTest, ScaleStaysFinite) {
  amp::GradScaler scaler({.init_scale = 0x1p127, .growth_interval = 1});
  give(1);
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 0x1p127);
  amp::GradScaler low({.init_scale = 0x1p-125});
  for (int i = 0; i < 5; ++i) {
    give(HUGE_VAL);
    low.step(optimizer);
    low.update();
  }
  EXPECT_EQ(low.get_scale(), static_cast<double>(std::numeric_limits<float>::min()));
}

TEST_F(ScalerTest, OptionsAreChecked) {
  EXPECT_THROW(amp::GradScaler({.growth_factor = 1}), Error);
  EXPECT_THROW(amp::GradScaler({.backoff_factor = 1}), Error);
  EXPECT_THROW(amp::GradScaler({.backoff_factor = 0}), Error);
  EXPECT_THROW(amp::GradScaler({.init_scale = 1e39}), Error);
  EXPECT_THROW(amp::GradScaler({.growth_interval = 0}), Error);
  x = ones({3}, {.dtype = DType::f16, .requires_grad = true});
  x.set_grad(ones({3}, {.dtype = DType::f16}));
  CountingOptimizer half({x});
  amp::GradScaler scaler;
  EXPECT_NE(error_of([&] { scaler.unscale_(half); }).find("gradients in f16"), std::string::npos);
}

TEST_F(ScalerTest, StateRoundTrip) {
  amp::GradScaler scaler({.init_scale = 1024, .growth_interval = 3});
  for (const double gradient : {HUGE_VAL, 1.0, 1.0}) {
    give(gradient);
    scaler.step(optimizer);
    scaler.update();
  }
  amp::GradScaler resumed({.growth_interval = 3});
  resumed.load_state_dict(scaler.state_dict());
  EXPECT_EQ(resumed.get_scale(), 512);
  EXPECT_EQ(resumed.skipped_steps(), 1);
  give(1);
  resumed.step(optimizer);
  resumed.update();
  EXPECT_EQ(resumed.get_scale(), 1024);  // two good steps were carried over
  optim::StateDict broken = scaler.state_dict();
  broken.erase("scale");
  EXPECT_NE(error_of([&] { resumed.load_state_dict(broken); }).find("missing: scale"), std::string::npos);
}

TEST_F(ScalerTest, DisabledPassesThrough) {
  amp::GradScaler scaler({.enabled = false});
  EXPECT_TRUE(scaler.scale(x).is_same(x));
  scaler.unscale_(optimizer);
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(optimizer.steps, 1);
  EXPECT_EQ(scaler.get_scale(), 1);
  EXPECT_TRUE(scaler.state_dict().empty());
}

// ---- beyond one optimizer and one loss

TEST_F(ScalerTest, DefaultsArePyTorchs) {
  const amp::GradScalerOptions o;
  EXPECT_EQ(o.init_scale, 65536);
  EXPECT_EQ(o.growth_factor, 2);
  EXPECT_EQ(o.backoff_factor, 0.5);
  EXPECT_EQ(o.growth_interval, 2000);
  EXPECT_TRUE(o.enabled);
  EXPECT_EQ(amp::GradScaler().get_scale(), 65536);
}

TEST_F(ScalerTest, GrowsAfterExactlyTheInterval) {
  amp::GradScaler scaler({.init_scale = 4, .growth_factor = 3, .growth_interval = 3});
  for (const double expected : {4.0, 4.0, 12.0, 12.0, 12.0, 36.0}) {
    give(1);
    scaler.step(optimizer);
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), expected);
  }
}

TEST_F(ScalerTest, UnscalesByTheReciprocalRoundedOnce) {
  amp::GradScaler scaler({.init_scale = 3});  // 1/3 is not a float, and x * float(1/3) is not x / 3
  give(static_cast<double>(0x1.23456p+7F));
  scaler.unscale_(optimizer);
  EXPECT_EQ(x.grad().to_vector<float>()[0], 0x1.23456p+7F * static_cast<float>(1.0 / 3.0));
}

TEST_F(ScalerTest, AListOfLossesIsScaled) {
  amp::GradScaler scaler({.init_scale = 8});
  const Tensors scaled = scaler.scale(Tensors{full({}, 1, {.requires_grad = true}), full({2}, 3, {.requires_grad = true})});
  ASSERT_EQ(scaled.size(), 2U);
  EXPECT_EQ(scaled[0].item<float>(), 8);
  EXPECT_EQ(scaled[1].at(1), 24);
}

TEST_F(ScalerTest, SeveralLossesAndAccumulationShareTheScale) {
  amp::GradScaler scaler({.init_scale = 1024});
  CountingOptimizer only({x});
  for (int micro = 0; micro < 2; ++micro)
    for (const Tensor& loss : scaler.scale(Tensors{sum(x * 2.0), sum(x * 3.0)})) loss.backward();
  scaler.unscale_(only);
  EXPECT_EQ(x.grad().at(0), 10);
  scaler.step(only);
  scaler.update();
  EXPECT_EQ(only.steps, 1);
}

TEST_F(ScalerTest, ClipsBetweenUnscaleAndStep) {
  amp::GradScaler scaler({.init_scale = 1024});
  optim::SGD sgd({x}, {.lr = 1});
  scaler.scale(sum(x * 4.0)).backward();
  scaler.unscale_(sgd);
  const Tensor norm = optim::clip_grad_norm_({x}, 1.0);
  EXPECT_FLOAT_EQ(norm.item<float>(), 4 * std::sqrt(3.0F)) << "of the unscaled gradients";
  scaler.step(sgd);
  scaler.update();
  EXPECT_NEAR(x.at(0), 1 - 1 / std::sqrt(3.0), 1e-6) << "stepped once, with the clipped gradient";
}

TEST_F(ScalerTest, AStepReadsNothingOnTheHost) {
  amp::GradScaler scaler({.growth_interval = 2});
  optim::AdamW adam({x, y}, {.lr = 0.1});
  optim::SGD sgd({y}, {.lr = 0.1, .momentum = 0.9});
  const std::uint64_t before = host_reads();
  for (int i = 0; i < 5; ++i) {
    scaler.scale(sum(x) + sum(y)).backward();
    scaler.unscale_(adam);
    optim::clip_grad_norm_({x}, 1.0);
    scaler.step(adam);
    scaler.step(sgd);
    scaler.update();
    adam.zero_grad();
  }
  EXPECT_EQ(host_reads(), before);
  scaler.get_scale();
  EXPECT_GT(host_reads(), before) << "and the counter counts";
}

TEST_F(ScalerTest, ASkippedStepChangesNothing) {
  const Tensor w = ones({4, 3}, {.device = test_device(), .requires_grad = true});
  const auto make = [&](int which) -> std::unique_ptr<optim::Optimizer> {
    if (which == 0) return std::make_unique<optim::AdamW>(Tensors{w}, optim::AdamWOptions{.lr = 0.1});
    if (which == 1) return std::make_unique<optim::SGD>(Tensors{w}, optim::SGDOptions{.lr = 0.1, .momentum = 0.9});
    return std::make_unique<optim::Muon>(Tensors{w}, optim::MuonOptions{.lr = 0.1});
  };
  for (int which = 0; which < 3; ++which) {
    const auto opt = make(which);
    amp::GradScaler scaler;
    const auto one = [&](double gradient) {
      Tensor(w).set_grad(full({4, 3}, gradient, {.device = test_device()}));
      scaler.step(*opt);
      scaler.update();
    };
    one(1);
    const std::vector<float> weights = w.to_vector<float>();
    const optim::StateDict state = opt->state_dict();
    one(HUGE_VAL);
    EXPECT_EQ(w.to_vector<float>(), weights) << which;
    for (const auto& [name, value] : opt->state_dict())
      EXPECT_EQ(value.to_vector<double>(), state.at(name).to_vector<double>()) << which << " " << name;
    one(1);
    EXPECT_NE(w.to_vector<float>(), weights) << which;
    EXPECT_EQ(opt->state_dict().at("state.0.step").item<std::int64_t>(), 2) << which;
  }
}

}  // namespace
