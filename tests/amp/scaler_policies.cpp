// Who decides about the loss scale, and when a run has lost: update(new_scale), policies, the collapse guard.
#include <gtest/gtest.h>

#include <cmath>

#include "binade/core/amp/grad_scaler.h"
#include "binade/core/autograd/module_path.h"
#include "binade/core/optim/optimizers.h"
#include "binade/tests/amp/scaler_test.h"
#include "binade/tests/core/expect_error.h"

namespace {

using namespace binade;
using binade::test::error_of;
using binade::test::ScalerTest;
using binade::test::test_device;

TEST_F(ScalerTest, UpdateTakesANewScale) {
  amp::GradScaler scaler({.init_scale = 1024, .growth_interval = 2});
  give(1);
  scaler.step(optimizer);
  scaler.update();
  scaler.update(32);
  EXPECT_EQ(scaler.get_scale(), 32);
  give(1);
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 64) << "the count of good steps goes on";
  scaler.update(full({}, 7, {.dtype = DType::f64}));
  EXPECT_EQ(scaler.get_scale(), 7);
  EXPECT_NE(error_of([&] { scaler.update(0.0); }).find("must be positive"), std::string::npos);
  EXPECT_NE(error_of([&] { scaler.update(ones({2})); }).find("one floating element"), std::string::npos);
  give(1);
  scaler.unscale_(optimizer);
  scaler.update(8);
  scaler.unscale_(optimizer);  // a new scale starts a new step
}

TEST_F(ScalerTest, MinimumScaleAndHysteresis) {
  amp::GradScaler low({.init_scale = 16, .min_scale = 4});
  for (const double expected : {8.0, 4.0, 4.0}) {
    give(HUGE_VAL);
    low.step(optimizer);
    low.update();
    EXPECT_EQ(low.get_scale(), expected);
  }
  amp::GradScaler patient({.init_scale = 16, .growth_interval = 2, .hysteresis = 3});
  const auto after = [&](double gradient) {
    give(gradient);
    patient.step(optimizer);
    patient.update();
    return patient.get_scale();
  };
  EXPECT_EQ(after(HUGE_VAL), 16);
  EXPECT_EQ(after(1), 16);
  EXPECT_EQ(after(HUGE_VAL), 16);
  EXPECT_EQ(after(HUGE_VAL), 8) << "the third";
  EXPECT_EQ(after(HUGE_VAL), 4) << "and each one from then on";
  after(1);
  EXPECT_EQ(after(1), 8) << "growth";
  EXPECT_EQ(after(HUGE_VAL), 8) << "makes it patient again";
}

TEST_F(ScalerTest, StaticPolicySkipsButKeepsTheScale) {
  amp::GradScaler scaler({.init_scale = 64, .growth_interval = 1, .policy = std::make_shared<amp::loss_scale::Static>()});
  give(HUGE_VAL);
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(optimizer.steps, 0);
  EXPECT_EQ(scaler.skipped_steps(), 1);
  give(1);
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 64);
}

struct Tenfold : amp::loss_scale::Policy {  // a user's: by tens, decided on the host
  void update(const Tensor& scale, const Tensor& found_inf) override {
    Tensor s = scale;
    s.fill_(scale.item<double>() * (found_inf.item<float>() != 0 ? 0.1 : 10));
  }
};
TEST_F(ScalerTest, UsersPolicy) {
  amp::GradScaler scaler({.init_scale = 1, .policy = std::make_shared<Tenfold>()});
  give(1);
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 10);
}

TEST_F(ScalerTest, CollapseGuardStopsWithAReport) {
  if (!test::tests_the_cpu()) GTEST_SKIP() << "counters on a device are read every max_consecutive_skips updates only";
  amp::GradScaler scaler({.max_consecutive_skips = 4});
  set_name(x, "fc.weight");
  give(1);
  scaler.step(optimizer);
  scaler.update();
  for (int i = 0; i < 3; ++i) {
    x.set_grad(from_vector(std::vector<float>{1, HUGE_VALF, std::nanf("")}, {3}).to(test_device()));
    scaler.step(optimizer);
    scaler.update();
  }
  x.set_grad(from_vector(std::vector<float>{1, HUGE_VALF, std::nanf("")}, {3}).to(test_device()));
  scaler.step(optimizer);
  const std::string error = error_of([&] { scaler.update(); });
  for (const char* part : {"4 steps in a row", "at 4096", "65536 at the last good step", "fc.weight [3] (1 inf, 1 NaN)"})
    EXPECT_NE(error.find(part), std::string::npos) << error;
}

TEST_F(ScalerTest, CollapseGuardCallsBackAndAGoodStepResetsIt) {
  if (!test::tests_the_cpu()) GTEST_SKIP() << "counters on a device are read every max_consecutive_skips updates only";
  int calls = 0;
  amp::CollapseReport seen;
  amp::GradScaler scaler({.max_consecutive_skips = 2,
                          .on_collapse =
                              [&](const amp::CollapseReport& report) {
                                ++calls;
                                seen = report;
                              },
                          .explain = [] { return std::string("matmul in layer 3"); }});
  for (const double gradient : {HUGE_VAL, 1.0, HUGE_VAL}) {
    give(gradient);
    scaler.step(optimizer);
    scaler.update();
  }
  EXPECT_EQ(calls, 0);
  give(HUGE_VAL);
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(seen.consecutive_skips, 2);
  ASSERT_EQ(seen.gradients.size(), 1U);
  EXPECT_EQ(seen.gradients[0].infs, 3);
  EXPECT_NE(seen.message().find("matmul in layer 3"), std::string::npos);

  amp::GradScaler off({.max_consecutive_skips = 0});
  for (int i = 0; i < 50; ++i) {
    give(HUGE_VAL);
    off.step(optimizer);
    off.update();
  }
  EXPECT_EQ(off.skipped_steps(), 50);
}

}  // namespace
