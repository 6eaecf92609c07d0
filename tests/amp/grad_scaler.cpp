// GradScaler: stages, growth and backoff, skipped steps, state.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "binade/core/amp/grad_scaler.h"
#include "binade/tests/core/expect_error.h"

namespace {

using namespace binade;
using binade::test::error_of;

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
  Tensor x = ones({3}, {.requires_grad = true}), y = ones({2}, {.requires_grad = true});
  CountingOptimizer optimizer{{x, y}}, other{{y}};
  void give(double gradient) { x.set_grad(full({3}, gradient)); }
};

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
  x.set_grad(full({3}, HUGE_VAL));
  y.set_grad(ones({2}));
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

}  // namespace
