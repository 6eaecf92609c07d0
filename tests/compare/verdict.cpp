// The verdict rule, on losses written by hand: each label, each reason to fail, each threshold from both sides.
#include "binade/ops/compare/verdict.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace {

using namespace binade;
using namespace binade::compare;

// A run whose loss starts at `first` and whose last 20 % are at `last`.
SeedRun run(std::uint64_t seed, double first, double last) {
  SeedRun r;
  r.seed = seed;
  r.complete = true;
  r.train_loss.assign(10, first);
  r.train_loss[8] = r.train_loss[9] = last;
  r.validation_loss = {{10, last}};
  return r;
}

// fp32 goes from 2 to 1 (an improvement of 1), so that r is the difference of the last losses.
ModeResult reference(std::size_t seeds) {
  ModeResult m{mode("fp32"), {}, {}};
  for (std::size_t s = 0; s < seeds; ++s) m.seeds.push_back(run(s, 2, 1));
  return m;
}
ModeResult with(const std::vector<double>& r) {
  ModeResult m{mode("bf16"), {}, {}};
  for (std::size_t s = 0; s < r.size(); ++s) m.seeds.push_back(run(s, 2, 1 + r[s]));
  return m;
}
std::vector<SeedRun> twins(const std::vector<double>& r) { return with(r).seeds; }

Label label(const std::vector<double>& r, const std::vector<double>& noise = {}) {
  return judge(with(r), reference(r.size()), twins(noise)).label;
}

TEST(Verdict, SmallestVisibleDifference) {
  // rms of the twins 0.04: e = 3 * 0.04 / sqrt(4)
  EXPECT_NEAR(judge(with({0, 0, 0, 0}), reference(4), twins({0.04, -0.04, 0.04, -0.04})).visible, 0.06, 1e-12);
  // twins quieter than 0.5 % are not believed
  EXPECT_NEAR(judge(with({0, 0, 0, 0}), reference(4), twins({0, 0, 0, 0})).visible, 0.0075, 1e-12);
}

TEST(Verdict, Equivalent) {
  EXPECT_EQ(label({0.01, -0.01, 0.005}), Label::equivalent);
  EXPECT_EQ(label({-0.2, -0.3, -0.2}), Label::equivalent);  // better is not worse
  EXPECT_EQ(label({0.0, 0.0, 0.11, 0.0, 0.0, 0.0}), Label::inconclusive) << "one seed misses more than 10 %";
  EXPECT_EQ(label({0.0, 0.0, 0.09, 0.0, 0.0, 0.0}), Label::equivalent);
}

TEST(Verdict, DegradedIsVisibleAndInNearlyEverySeed) {
  EXPECT_EQ(label({0.06, 0.07, 0.06}), Label::degraded);
  EXPECT_EQ(label({0.019, 0.019, 0.019}), Label::equivalent) << "below 2 %";
  EXPECT_EQ(label({0.021, 0.021, 0.021}), Label::degraded) << "above 2 %";
  // the twins wander by 0.02: e = 0.035
  EXPECT_EQ(label({0.03, 0.03, 0.03}, {0.02, -0.02, 0.02}), Label::equivalent) << "not visible, and below twice e";
  // by 0.04: e = 0.069
  EXPECT_EQ(label({0.05, 0.05, 0.05}, {0.04, -0.04, 0.04}), Label::inconclusive) << "not visible, but may be above 10 %";
  EXPECT_EQ(label({0.2, 0.2, -0.01}), Label::inconclusive) << "1 of 3 seeds is not behind";
  EXPECT_EQ(label({0.2, 0.2, 0.2, 0.2, -0.01}), Label::degraded) << "1 of 5 may be";
}

TEST(Verdict, WideNoiseIsNotEquivalence) {  // twins wander by 0.12: e = 0.21
  const std::vector<double> noise = {0.12, -0.12, 0.12};
  EXPECT_EQ(label({0.0, 0.01, -0.01}, noise), Label::inconclusive);
  EXPECT_EQ(label({0.09, 0.08, 0.09}, noise), Label::inconclusive);
  EXPECT_EQ(label({-0.12, -0.13, -0.12}, noise), Label::equivalent) << "far enough ahead of FP32";
}

// How often three seeds of a mode that misses `truth` are given each label, where rounding alone spreads r by `spread`.
struct Rates {
  double degraded, equivalent;
};
Rates rates(double truth, double spread) {
  constexpr int comparisons = 4000;
  std::mt19937_64 random(7);
  std::normal_distribution<double> normal;
  const auto three = [&](double mean) {
    std::vector<double> r(3);
    for (double& x : r) x = mean + spread * normal(random);
    return r;
  };
  int degraded = 0, equivalent = 0;
  for (int i = 0; i < comparisons; ++i) {
    const std::vector<double> r = three(truth);
    const Label is = label(r, three(0));
    degraded += is == Label::degraded;
    equivalent += is == Label::equivalent;
  }
  return {degraded / double{comparisons}, equivalent / double{comparisons}};
}

TEST(Verdict, IsSeldomWrong) {
  const double t3_beyond_3 = 0.0288;  // e is 3 standard errors, the twins' rms has 3 degrees of freedom
  const double most = t3_beyond_3 + 3 * std::sqrt(t3_beyond_3 / 4000);
  for (const double spread : {0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15}) {
    EXPECT_LE(rates(0, spread).degraded, most) << spread;
    EXPECT_LE(rates(0.1, spread).equivalent, most) << spread;
  }
  EXPECT_GE(rates(0, 0.005).equivalent, 0.99);  // and it says something where it can
  EXPECT_GE(rates(0.05, 0.005).degraded, 0.99);
  EXPECT_GE(rates(0.2, 0.03).degraded, 0.85);
}

TEST(Verdict, Failed) {
  EXPECT_EQ(label({0.0, 0.0, 0.51}), Label::failed);
  EXPECT_NE(label({0.0, 0.0, 0.49}), Label::failed);
  EXPECT_EQ(label({0.51}), Label::failed) << "one seed is enough to see this";

  ModeResult m = with({0, 0, 0});
  m.seeds[1].train_loss[9] = NAN;
  Verdict v = judge(m, reference(3), {});
  EXPECT_EQ(v.label, Label::failed);
  EXPECT_NE(v.reason.find("not finite from step 9"), std::string::npos) << v.reason;

  m = with({0, 0, 0});
  m.seeds[2].loss_scale = {4, 2, 1, 0.5, 1, 1, 1, 1, 1, 1};
  v = judge(m, reference(3), {});
  EXPECT_EQ(v.label, Label::failed);
  EXPECT_NE(v.reason.find("below 1 at step 3"), std::string::npos) << v.reason;
  m.seeds[2].loss_scale.assign(10, 0.5);
  EXPECT_EQ(judge(m, reference(3), {}).label, Label::equivalent) << "a fixed scale below 1 did not fall";

  m = with({0, 0, 0});
  m.seeds[0].skipped_steps = 2;  // of 10: not more than 20 %
  EXPECT_EQ(judge(m, reference(3), {}).label, Label::equivalent);
  m.seeds[0].skipped_steps = 3;
  v = judge(m, reference(3), {});
  EXPECT_EQ(v.label, Label::failed);
  EXPECT_NE(v.reason.find("3 of 10 steps were skipped"), std::string::npos) << v.reason;

  m = with({0, 0, 0});
  m.seeds[0].complete = false;
  m.seeds[0].failure = "the loss scale collapsed";
  v = judge(m, reference(3), {});
  EXPECT_EQ(v.label, Label::failed);
  EXPECT_NE(v.reason.find("the loss scale collapsed"), std::string::npos) << v.reason;
}

TEST(Verdict, InconclusiveWithoutEnoughToGoBy) {
  const Verdict two = judge(with({0, 0}), reference(2), {});
  EXPECT_EQ(two.label, Label::inconclusive);
  EXPECT_NE(two.reason.find("needs 3 seeds, there are 2"), std::string::npos) << two.reason;

  ModeResult cut = with({0, 0, 0});
  for (SeedRun& r : cut.seeds) r.complete = false;  // stopped from outside
  EXPECT_EQ(judge(cut, reference(3), {}).label, Label::inconclusive);

  ModeResult flat{mode("fp32"), {}, {}};
  for (std::uint64_t s = 0; s < 3; ++s) flat.seeds.push_back(run(s, 2, 1.95));
  const Verdict nothing = judge(with({0, 0, 0}), flat, {});
  EXPECT_EQ(nothing.label, Label::inconclusive);
  EXPECT_NE(nothing.reason.find("hardly improved"), std::string::npos) << nothing.reason;
}

TEST(Verdict, PairsSeedsByTheirNumber) {
  ModeResult shuffled = with({0.0, 0.0, 0.0});
  ModeResult r = reference(3);
  for (std::size_t s = 0; s < 3; ++s) {  // seeds that differ by more than the mode does
    r.seeds[s] = run(s, 2, 1 + 0.1 * static_cast<double>(s));
    shuffled.seeds[2 - s] = run(s, 2, 1 + 0.1 * static_cast<double>(s));
  }
  const Verdict v = judge(shuffled, r, {});
  EXPECT_EQ(v.label, Label::equivalent);
  EXPECT_EQ(v.mean_difference, 0);
}

}  // namespace
