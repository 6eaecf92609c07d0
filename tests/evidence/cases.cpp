// What precisions do on real images, as statements about losses over seeds: FP16 needs loss scaling where gradients
// are small, BF16 needs master weights or stochastic rounding where updates are small. docs/mixed_precision.md holds
// the full-size runs.
#include <binade/binade.h>

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "precision_compare/tasks.h"

namespace {

using namespace binade;
using compare::Comparison;
using compare::Label;
using compare::TaskFactory;

Comparison run_case(const std::string& name, const std::string& modes, std::int64_t seeds, std::int64_t steps) {
  const example::Case& c = example::find_case(name);
  compare::Options options = example::case_options(c);
  options.modes = compare::modes(modes);
  options.seeds = seeds;
  options.steps = steps;
  return compare::run(example::mlp_task(c.shape, c.batch, {}), options);
}

class Evidence : public testing::Test {
 protected:
  void SetUp() override {
    try {
      data::fashion_mnist();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }
};

TEST_F(Evidence, Fp16WithoutLossScalingCollapsesInCaseAAndWithItMatches) {
  const Comparison c = run_case("A", "fp32,fp16-noscale,fp16", 3, 600);
  EXPECT_EQ(c.modes[1].verdict.label, Label::failed) << c.modes[1].verdict.reason;
  for (const compare::SeedRun& run : c.modes[1].seeds)
    EXPECT_NEAR(run.final_train_loss(), std::log(10.0), 0.02) << "ten classes, nothing learned; seed " << run.seed;
  EXPECT_EQ(c.modes[2].verdict.label, Label::equivalent) << c.modes[2].verdict.reason;
}

TEST_F(Evidence, Bf16StagnatesWithoutMasterWeightsUnlessRoundedStochastically) {
  const Comparison c = run_case("bf16", "fp32,bf16,bf16-pure,bf16-sr", 3, 500);
  EXPECT_EQ(c.modes[1].verdict.label, Label::equivalent) << c.modes[1].verdict.reason;
  EXPECT_EQ(c.modes[2].verdict.label, Label::degraded) << c.modes[2].verdict.reason;
  EXPECT_EQ(c.modes[3].verdict.label, Label::equivalent) << c.modes[3].verdict.reason;
}

// The window of loss scales that the numerics of an FP32 run call safe, against training with fixed scales: its upper edge
// is exact to one binade, its lower edge right to about two, on the careful side.
TEST_F(Evidence, FixedLossScalesTrainInsideTheWindowThatFp32PredictsAndFailOutside) {
  const example::Case& c = example::find_case("A");
  const TaskFactory factory = example::mlp_task(c.shape, c.batch, {});
  compare::Options options = example::case_options(c);
  options.twins = false;
  options.steps = 300;
  options.seeds = 1;
  options.modes = compare::modes("fp32");
  const auto window = nlohmann::json::parse(compare::run(factory, options).numerics).at("loss_scale_window");
  const int lower = window.at("log2_lower"), upper = window.at("log2_upper");
  ASSERT_LT(lower, upper);

  options.observe = false;
  options.seeds = 2;
  options.modes = {compare::mode("fp32")};
  for (const int k : {lower, upper - 1, lower - 4, upper + 1})
    options.modes.push_back(compare::mode("fp16-static-" + std::to_string(k)));
  const Comparison result = compare::run(factory, options);
  for (std::size_t seed = 0; seed < 2; ++seed) {
    const compare::SeedRun& fp32 = result.modes[0].seeds[seed];
    const double last = fp32.final_train_loss(), gained = fp32.train_loss.front() - last;
    const auto missing = [&](std::size_t mode) { return (result.modes[mode].seeds[seed].final_train_loss() - last) / gained; };
    EXPECT_LT(missing(1), 0.1) << "lower edge 2^" << lower << ", seed " << fp32.seed;
    EXPECT_LT(missing(2), 0.1) << "below the upper edge 2^" << upper << ", seed " << fp32.seed;
    EXPECT_GT(missing(3), 0.5) << "four binades below the lower edge 2^" << lower << ", seed " << fp32.seed;
    EXPECT_FALSE(result.modes[4].seeds[seed].failure.empty()) << "above the upper edge 2^" << upper << ", seed " << fp32.seed;
  }
}

}  // namespace
