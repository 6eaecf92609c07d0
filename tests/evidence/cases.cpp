// What precisions do on real images, as statements about losses over seeds: FP16 needs loss scaling where gradients
// are small, BF16 needs master weights or stochastic rounding where updates are small. docs/mixed_precision.md holds
// the full-size runs.
#include <binade/binade.h>

#include <gtest/gtest.h>

#include <cstdlib>

#include "precision_compare/tasks.h"

namespace {

using namespace binade;
using compare::Comparison;
using compare::Label;

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
  const Comparison c = run_case("A", "fp32,fp16-noscale,fp16", 3, 300);
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

}  // namespace
