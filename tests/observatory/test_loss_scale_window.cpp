// The window of safe loss scales, against training gradients rounded to f16 at every scale.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "binade/core/amp/numerics_monitor.h"
#include "binade/core/base/random.h"
#include "binade/core/optim/optimizers.h"
#include "binade/tests/observatory/given_gradient.h"

namespace {

using namespace binade;
using amp::NumericsMonitor;
using amp::TensorKind;
using amp::TensorRecord;
using test::Given;
using test::deep_sigmoid;

// The window by rounding the gradients of `steps` steps to f16 at each scale.
struct BruteForce {
  struct Layer {
    std::string name;
    std::vector<std::vector<double>> steps;
  };
  std::vector<Layer> layers;

  static std::vector<double> stored(std::vector<double> values, int k) {
    for (double& x : values) x = std::ldexp(x, k);
    return from_vector(values, {static_cast<std::int64_t>(values.size())}).to(DType::f16).to_vector<double>();
  }
  bool overflows(int k) const {
    for (const Layer& layer : layers)
      for (const auto& step : layer.steps)
        for (const double x : stored(step, k))
          if (!std::isfinite(x)) return true;
    return false;
  }
  double worst_loss(int k, std::size_t early) const {
    double worst = 0;
    for (const Layer& layer : layers) {
      double lost = 0, norm = 0;
      for (std::size_t s = 0; s < std::min(early, layer.steps.size()); ++s) {
        const std::vector<double> kept = stored(layer.steps[s], k);
        for (std::size_t i = 0; i < kept.size(); ++i) {
          norm += layer.steps[s][i] * layer.steps[s][i];
          if (kept[i] == 0) lost += layer.steps[s][i] * layer.steps[s][i];
        }
      }
      if (norm > 0) worst = std::max(worst, lost / norm);
    }
    return worst;
  }
};

TEST(LossScaleWindow, AgainstRoundingTheGradientsOfATrainingRun) {
  manual_seed(5);
  const nn::Sequential model = deep_sigmoid();
  optim::Adam optimizer(model.parameters(), {.lr = 1e-2});
  NumericsMonitor monitor({.kinds = {TensorKind::weight_gradient}, .early_steps = 4, .f16_weight_gradients = true});
  BruteForce brute;
  for (const auto& [name, x] : model.named_parameters()) brute.layers.push_back({name, {}});
  const ObserverScope watching(monitor);
  for (int step = 0; step < 12; ++step) {
    // Batches of 4096, so that the mean makes small gradients; the loss grows, so that the edges move apart.
    cross_entropy(model(rand({4096, 20})) * (step < 6 ? 1.0 : 60.0), randint(0, 10, {4096})).backward();
    const nn::NamedTensors parameters = model.named_parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i)
      brute.layers[i].steps.push_back(parameters[i].second.grad().to_vector<double>());
    optimizer.step();
    optimizer.zero_grad();
    monitor.step();
  }
  const auto window = monitor.loss_scale_window();
  ASSERT_TRUE(window);
  EXPECT_FALSE(window->empty());
  EXPECT_FALSE(brute.overflows(window->log2_upper));
  EXPECT_TRUE(brute.overflows(window->log2_upper + 1));
  EXPECT_LE(brute.worst_loss(window->log2_lower, 4), 0.01);
  EXPECT_GT(brute.worst_loss(window->log2_lower - 1, 4), 0.01);
  EXPECT_TRUE(window->lower_set_by.starts_with("0.")) << window->lower_set_by;
  // Exact for any share: shares() of the whole run against the same rounding.
  for (int k = -10; k <= 10; k += 5) {
    double worst = 0;
    for (const TensorRecord& record : monitor.records()) worst = std::max(worst, record.all.lost_squared_norm(DType::f16, k));
    EXPECT_NEAR(worst, brute.worst_loss(k, 12), 1e-9) << k;
  }
}

TEST(LossScaleWindow, UpperEdgeIsExactAtTheLastHalf) {
  const auto upper = [](float g) {
    Given given(1);
    NumericsMonitor monitor({.f16_weight_gradients = true});
    const ObserverScope watching(monitor);
    given.backward({g});
    monitor.step();
    return monitor.loss_scale_window()->log2_upper;
  };
  EXPECT_EQ(upper(1), 15);        // 65536 overflows
  EXPECT_EQ(upper(65519), 0);     // rounds to 65504
  EXPECT_EQ(upper(65520), -1);
  EXPECT_EQ(upper(0.99F), 16);
  EXPECT_EQ(upper(0x1.ffep-100F), 114);  // 65520 * 2^-115
  EXPECT_EQ(upper(0x1.ffdp-100F), 115);
}

TEST(LossScaleWindow, LowerEdgeFromEarlyStepsUpperFromAll) {
  Given given(1);
  NumericsMonitor monitor({.early_steps = 2, .f16_weight_gradients = true});
  const ObserverScope watching(monitor);
  for (const float g : {1e-3F, 1e-3F, 1e-9F, 30.0F}) {
    given.backward({g});
    monitor.step();
  }
  const auto window = monitor.loss_scale_window();
  ASSERT_TRUE(window);
  EXPECT_EQ(window->log2_upper, 11);   // 30 * 2^11 = 61440
  EXPECT_EQ(window->log2_lower, -15);  // 1e-3 = 1.024 * 2^-10
}

TEST(LossScaleWindow, AFloat16RunIsNoBasisForALowerEdge) {
  for (const bool f16 : {false, true}) {
    const Tensor w = ones({2}, {.requires_grad = true});
    set_name(w, "w");
    NumericsMonitor monitor({.f16_weight_gradients = true});
    const ObserverScope watching(monitor);
    sum(w.to(f16 ? DType::f16 : DType::f32) * 1.0).backward();
    monitor.step();
    EXPECT_EQ(monitor.saw_float16(), f16);
    EXPECT_EQ(monitor.advice().find("would do without scaling") == std::string::npos, f16) << monitor.advice();
    EXPECT_EQ(monitor.advice().find("Seen in an FP16 run") != std::string::npos, f16) << monitor.advice();
    EXPECT_EQ(nlohmann::json::parse(monitor.json())["saw_float16"], f16);
  }
}

TEST(LossScaleWindow, WeightGradientsThatAreSummedInF32AskNothing) {
  Given given(1);
  NumericsMonitor monitor;
  const ObserverScope watching(monitor);
  given.backward({0x1p-60F});
  monitor.step();
  EXPECT_FALSE(monitor.loss_scale_window());
  EXPECT_TRUE(monitor.layers_at_risk().empty());
}

TEST(LossScaleWindow, EmptyIsSaid) {
  Given small(1, "small"), large(1, "large");
  NumericsMonitor monitor({.f16_weight_gradients = true});
  EXPECT_FALSE(monitor.loss_scale_window());
  EXPECT_NE(monitor.advice().find("no gradients"), std::string::npos);
  const ObserverScope watching(monitor);
  small.backward({0x1p-60F});
  large.backward({0x1p10F});
  monitor.step();
  const auto window = monitor.loss_scale_window();
  ASSERT_TRUE(window);
  EXPECT_TRUE(window->empty());
  EXPECT_EQ(window->lower_set_by, "small");
  EXPECT_EQ(window->upper_set_by, "large");
  EXPECT_NE(monitor.advice().find("none is safe"), std::string::npos);
  EXPECT_TRUE(nlohmann::json::parse(monitor.json())["loss_scale_window"]["empty"].get<bool>());
}

}  // namespace
