// The runner on a small regression: what is the same in each mode, what a seed and a twin change, and how it ends.
#include <binade/binade.h>

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "binade/tests/core/expect_error.h"

namespace {

using namespace binade;
using namespace binade::compare;

struct Seen {  // what the tasks of one comparison did
  std::vector<std::vector<float>> first_weights, first_masks;
  std::vector<DType> weight_dtypes;
};

// y = tanh(x w), learned by two layers with dropout between them.
TaskFactory regression(const std::shared_ptr<Seen>& seen = nullptr, double poison_at = -1) {
  return [=](std::uint64_t seed) {
    manual_seed(seed);
    const nn::Sequential model(nn::Linear(8, 32), nn::Tanh(), nn::Linear(32, 32), nn::Tanh(), nn::Linear(32, 4));
    const Tensor x = randn({64, 8}), y = tanh(matmul(x, randn({8, 4})));
    const auto step = std::make_shared<int>(0);
    return Task{.model = model,
                .training_loss =
                    [=] {
                      const Tensor mask = dropout(ones({32}), 0.5);
                      if (seen && *step == 0) {
                        seen->first_weights.push_back(model.parameters()[0].to(DType::f32).to_vector<float>());
                        seen->first_masks.push_back(mask.to_vector<float>());
                        seen->weight_dtypes.push_back(model.parameters()[0].dtype());
                      }
                      const Tensor loss = mse_loss(model(x), y);
                      return (*step)++ >= poison_at && poison_at >= 0 ? loss * std::numeric_limits<double>::quiet_NaN() : loss;
                    },
                .validation_loss = [=] { return mse_loss(model(x), y).item<double>(); },
                .items_per_step = 64};
  };
}

Options quick(const std::string& list) {
  Options o;
  o.modes = modes(list);
  o.steps = 40;
  o.lr = 1e-2;
  o.seeds = 1;
  o.observe = false;
  return o;
}

TEST(Runner, EveryModeStartsFromTheSameWeightsAndDropsTheSameUnits) {
  const auto seen = std::make_shared<Seen>();
  Options o = quick("fp32,fp16,bf16-sr");
  o.twins = false;
  o.seeds = 2;
  run(regression(seen), o);
  ASSERT_EQ(seen->first_weights.size(), 6U);
  EXPECT_EQ(seen->first_weights[0], seen->first_weights[1]);
  EXPECT_NE(seen->first_weights[0], seen->first_weights[3]) << "another seed";
  EXPECT_EQ(seen->first_masks[0], seen->first_masks[1]);
  EXPECT_EQ(seen->first_masks[0], seen->first_masks[2]);
  EXPECT_NE(seen->first_masks[0], seen->first_masks[3]) << "another seed";
  EXPECT_EQ(seen->weight_dtypes[1], DType::f32);
  EXPECT_EQ(seen->weight_dtypes[2], DType::bf16);
}

TEST(Runner, AModeThatDrawsMoreStillSeesTheSameMasksLater) {
  std::vector<std::vector<float>> masks;
  const TaskFactory factory = [&](std::uint64_t seed) {
    Task task = regression()(seed);
    const auto inner = task.training_loss;
    task.training_loss = [&, inner] {
      masks.push_back(dropout(ones({32}), 0.5).to_vector<float>());
      return inner();
    };
    return task;
  };
  Options o = quick("fp32,bf16-sr");
  o.twins = false;
  o.steps = 3;
  run(factory, o);
  ASSERT_EQ(masks.size(), 6U);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(masks[i], masks[i + 3]) << "step " << i;
  EXPECT_NE(masks[0], masks[1]);
}

TEST(Runner, TwinsMoveTheWeightsByOneRoundingToElevenBits) {
  const auto seen = std::make_shared<Seen>();
  run(regression(seen), quick("fp32,bf16"));
  ASSERT_EQ(seen->first_weights.size(), 3U);  // fp32, bf16, twin
  double largest = 0;
  for (std::size_t i = 0; i < seen->first_weights[0].size(); ++i) {
    const double w = static_cast<double>(seen->first_weights[0][i]);
    largest = std::max(largest, std::abs(static_cast<double>(seen->first_weights[2][i]) - w) / std::abs(w));
  }
  EXPECT_LE(largest, 0x1p-11 * (1 + 0x1p-10));
  EXPECT_GT(largest, 0x1p-12);
}

TEST(Runner, SameSeedSameLosses) {
  const Comparison a = run(regression(), quick("fp32,fp16,fp8-current")), b = run(regression(), quick("fp32,fp16,fp8-current"));
  for (std::size_t m = 0; m < 3; ++m) EXPECT_EQ(a.modes[m].seeds[0].train_loss, b.modes[m].seeds[0].train_loss) << m;
  EXPECT_NE(a.modes[0].seeds[0].train_loss, a.modes[1].seeds[0].train_loss);
}

TEST(Runner, EveryModeLearns) {
  Options o = quick("all");
  o.steps = 120;
  const Comparison c = run(regression(), o);
  ASSERT_EQ(c.modes.size(), 10U);
  for (const ModeResult& m : c.modes)
    EXPECT_LT(m.final_train_loss(), 0.5 * m.seeds[0].train_loss.front()) << m.mode.name;
  EXPECT_EQ(float32_matmul_precision(), MatmulPrecision::highest) << "tf32 is over";
}

TEST(Runner, ALossThatIsLostEndsTheRunAndFails) {
  const Comparison c = run(regression(nullptr, 5), quick("fp32,bf16"));
  EXPECT_FALSE(c.modes[1].seeds[0].complete);
  EXPECT_LT(c.modes[1].seeds[0].train_loss.size(), 40U);
  EXPECT_NE(c.modes[1].seeds[0].failure.find("not been finite since step 5"), std::string::npos)
      << c.modes[1].seeds[0].failure;
}

TEST(Runner, ObservedItSaysWhatItSaw) {
  Options o = quick("fp32,tf32,bf16,fp16,fp8-delayed,fp8-current,mxfp8");
  o.observe = true;
  std::string told;
  o.on_numerics = [&](const std::string& text) { told = text; };
  const Comparison watched = run(regression(), o);
  EXPECT_NE(told.find("FP16 loss scales"), std::string::npos) << told;
  EXPECT_EQ(watched.numerics_text, told);
  EXPECT_TRUE(watched.gradients_lost >= 0 && watched.gradients_lost < 1) << watched.gradients_lost;
  for (const ModeResult& m : watched.modes) {
    EXPECT_EQ(m.shadow_text.empty(), m.mode.name == "fp32") << m.mode.name;
    EXPECT_EQ(m.shadow.find("fp8_linear") != std::string::npos, m.mode.fp8.has_value()) << m.mode.name;
  }
  o.observe = false;
  const Comparison alone = run(regression(), o);
  for (std::size_t i = 0; i < o.modes.size(); ++i)
    EXPECT_EQ(watched.modes[i].seeds[0].train_loss, alone.modes[i].seeds[0].train_loss) << "looking changes nothing";
}

TEST(Runner, AFailedRunIsRunAgainToItsFirstInfinityOrNaN) {
  Options o = quick("fp32,bf16");
  o.observe = true;
  const Comparison c = run(regression(nullptr, 5), o);
  EXPECT_NE(c.modes[1].post_mortem.find("step 5"), std::string::npos) << c.modes[1].post_mortem;
  EXPECT_NE(table(c).find("where bf16 broke"), std::string::npos);
}

TEST(Runner, AGradientTheScalerBacksOffFromIsNotWhereTheRunBroke) {
  const TaskFactory large = [](std::uint64_t seed) {
    Task task = regression(nullptr, 15)(seed);
    const auto inner = task.training_loss;
    task.training_loss = [inner] { return inner() * 1000; };  // times the first loss scale: beyond FP16
    return task;
  };
  Options o = quick("fp32,fp16");
  o.observe = true;
  const Comparison c = run(large, o);
  EXPECT_GT(c.modes[1].seeds[0].skipped_steps, 0);
  EXPECT_NE(c.modes[1].post_mortem.find("step 15"), std::string::npos) << c.modes[1].post_mortem;
}

TEST(Runner, AnOverflowingFixedScaleFails) {
  Options o = quick("fp32,fp16-static-40");
  o.seeds = 3;
  const Comparison c = run(regression(), o);
  EXPECT_EQ(c.modes[1].verdict.label, Label::failed) << c.modes[1].verdict.reason;
  EXPECT_GT(c.modes[1].skipped_steps(), 0);
}

TEST(Runner, StoppedItKeepsWhatItHas) {
  Options o = quick("fp32,bf16");
  o.seeds = 3;
  int steps = 0;
  o.stop = [&] { return ++steps > 130; };  // within the second seed: 3 runs of 40, and some
  const Comparison c = run(regression(), o);
  EXPECT_TRUE(c.interrupted);
  ASSERT_EQ(c.modes[0].seeds.size(), 2U);
  EXPECT_TRUE(c.modes[0].seeds[0].complete);
  EXPECT_TRUE(c.modes[1].seeds[0].complete);
  EXPECT_FALSE(c.modes[0].seeds[1].counts());
  EXPECT_TRUE(std::isfinite(c.modes[1].final_train_loss())) << "means are over the seeds that count";
  EXPECT_TRUE(nlohmann::json::parse(compare::json(c)).at("interrupted"));
}

TEST(Runner, BadOptions) {
  using test::expect_error;
  Options o = quick("fp32");
  o.steps = 0;
  expect_error([&] { run(regression(), o); }, "compare: steps must be positive, got 0");
  o = quick("fp32");
  o.lr = NAN;
  expect_error([&] { run(regression(), o); }, "compare: lr must be positive, got nan");
  expect_error([] { mode("fp17"); }, "unknown precision 'fp17', expected fp32, tf32, bf16");
  expect_error([] { modes("fp32,bf16,fp32"); }, "precision 'fp32' is listed twice");
  expect_error([] { modes(""); }, "no precision given");
  expect_error([] { mode("fp16-static-1e3"); }, "unknown precision 'fp16-static-1e3'");
  EXPECT_EQ(mode("fp16-static--3").static_scale, 0.125);
  const auto two_layers = [](std::uint64_t) {
    return Task{.model = nn::Sequential(nn::Linear(8, 16), nn::Linear(16, 4))};
  };
  expect_error([&] { run(two_layers, quick("fp32,mxfp8")); }, "compare: mxfp8: no linear layer of this model");
  expect_error([&] { run([](std::uint64_t) { return Task{}; }, quick("fp32")); },
               "compare: the task needs training_loss");
}

TEST(Report, JsonHasTheDocumentedFields) {
  Options o = quick("fp32,fp16,fp16-noscale");
  o.seeds = 3;
  o.unit = "tokens";
  const auto json = nlohmann::json::parse(compare::json(run(regression(), o)));
  ASSERT_EQ(json.at("modes").size(), 3U);
  for (const auto& mode : json["modes"]) {
    for (const char* field : {"mode", "verdict", "reason", "final_train_loss", "final_val_loss", "val_loss_by_seed",
                              "tokens_per_s", "peak_bytes", "skipped_steps", "loss_scale_final", "visible_difference",
                              "difference_in_seed_spreads", "peak_bytes_by_tag", "runs"})
      EXPECT_TRUE(mode.contains(field)) << field;
    EXPECT_EQ(mode["val_loss_by_seed"].size(), 3U);
    EXPECT_EQ(mode["runs"][0]["train_loss"].size(), 40U);
  }
  EXPECT_EQ(json["modes"][0]["verdict"], "reference");
  EXPECT_TRUE(json["modes"][2]["loss_scale_final"].is_null());
  EXPECT_EQ(json["twins"].size(), 3U);
}

}  // namespace
