// Unscaling and clipping inside the optimizers' kernels, against the same in separate passes over the gradients.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "binade/core/amp/grad_scaler.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/optim/clip.h"
#include "binade/core/optim/optimizers.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/core/test_device.h"

namespace {

using namespace binade;
using binade::test::error_of;
using binade::test::expect_error;
using binade::test::test_device;

constexpr double unit_roundoff_f32 = 0x1p-24, unit_roundoff_bf16 = 0x1p-8;

void expect_same_bits(const Tensor& a, const Tensor& b, const std::string& what) {
  ASSERT_EQ(a.dtype(), b.dtype()) << what;
  ASSERT_EQ(a.shape(), b.shape()) << what;
  const Tensor x = a.detach().to(Device{}), y = b.detach().to(Device{});
  const auto bytes = static_cast<std::size_t>(x.numel() * size_of(x.dtype()));
  EXPECT_EQ(std::memcmp(TensorView(x).data, TensorView(y).data, bytes), 0) << what;
}

using Make = std::function<std::unique_ptr<optim::Optimizer>(const Tensors&)>;
const std::vector<std::pair<std::string, Make>>& fusing() {
  static const std::vector<std::pair<std::string, Make>> all = {
      {"adamw", [](const Tensors& p) { return std::make_unique<optim::AdamW>(p, optim::AdamWOptions{.lr = 0.01}); }},
      {"adam", [](const Tensors& p) {
         return std::make_unique<optim::Adam>(p, optim::AdamOptions{.lr = 0.01, .weight_decay = 0.1});
       }},
      {"sgd", [](const Tensors& p) { return std::make_unique<optim::SGD>(p, optim::SGDOptions{.lr = 0.1, .weight_decay = 0.01}); }},
      {"nesterov", [](const Tensors& p) {
         return std::make_unique<optim::SGD>(p, optim::SGDOptions{.lr = 0.1, .momentum = 0.9, .nesterov = true});
       }}};
  return all;
}

// Parameters of more than one chunk, one of no element, and one that never has a gradient.
Tensors parameters(DType dtype) {
  manual_seed(5);
  Tensors all;
  for (const Shape& shape : {Shape{20'001}, Shape{7, 9}, Shape{0}, Shape{3}})
    all.push_back(randn(shape).to(dtype).to(test_device()).clone().requires_grad_());
  return all;
}
void give(const Tensors& params, double factor, int seed) {
  manual_seed(static_cast<std::uint64_t>(seed));
  for (std::size_t i = 0; i + 1 < params.size(); ++i) {
    const Tensor g = randn(params[i].shape()) * factor;
    Tensor(params[i]).set_grad(g.to(params[i].dtype()).to(test_device()).clone());
  }
}

// Five steps, the third of which overflows; fused, or by unscale_, clip_grad_norm_ and step.
struct Trained {
  Tensors params;
  std::unique_ptr<optim::Optimizer> optimizer;
  std::vector<float> norms;
  std::int64_t skipped = 0;
};
Trained train(const Make& make, DType dtype, double scale, double max_norm, bool fused) {
  Trained run{.params = parameters(dtype), .optimizer = {}, .norms = {}, .skipped = 0};
  run.optimizer = make(run.params);
  amp::GradScaler scaler({.init_scale = scale, .growth_interval = 2});
  for (int t = 0; t < 5; ++t) {
    give(run.params, scale * (t == 1 ? 1e-4 : 1), 10 + t);  // the second is too small to be clipped
    if (t == 2) run.params[1].grad().set(5, HUGE_VAL);
    Tensor norm;
    if (fused) {
      norm = scaler.step(*run.optimizer, {.max_norm = max_norm});
    } else {
      scaler.unscale_(*run.optimizer);
      if (max_norm > 0) norm = optim::clip_grad_norm_(run.params, max_norm);
      scaler.step(*run.optimizer);
    }
    if (norm) run.norms.push_back(norm.item<float>());
    scaler.update();
    run.optimizer->zero_grad();
  }
  run.skipped = scaler.skipped_steps();
  return run;
}
void expect_same(const Trained& a, const Trained& b, const std::string& what) {
  for (std::size_t i = 0; i < a.params.size(); ++i) expect_same_bits(a.params[i], b.params[i], what + ", parameter");
  const optim::StateDict got = a.optimizer->state_dict(), expected = b.optimizer->state_dict();
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (const auto& [name, value] : expected) expect_same_bits(got.at(name), value, what + ", " + name);
  ASSERT_EQ(a.norms.size(), b.norms.size()) << what;
  for (std::size_t t = 0; t < a.norms.size(); ++t)
    EXPECT_TRUE(a.norms[t] == b.norms[t] || (std::isnan(a.norms[t]) && std::isnan(b.norms[t]))) << what << ", norm " << t;
  EXPECT_EQ(a.skipped, 1) << what;
  EXPECT_EQ(b.skipped, 1) << what;
  EXPECT_EQ(a.optimizer->state_dict().at("state.0.step").item<std::int64_t>(), 4) << what;
}

// A power of two, as every scale is that starts as one and moves by halves and doubles: multiplying by it rounds nothing.
TEST(FusedStep, HasTheBitsOfSeparatePassesForScalesThatArePowersOfTwo) {
  for (const auto& [name, make] : fusing())
    for (const DType dtype : {DType::f32, DType::f64})
      for (const double max_norm : {0.0, 2.0}) {
        const Trained fused = train(make, dtype, 0x1p16, max_norm, true), separate = train(make, dtype, 0x1p16, max_norm, false);
        expect_same(fused, separate, name + " " + to_text(dtype) + " " + to_text(max_norm));
        if (max_norm > 0) {
          ASSERT_EQ(fused.norms.size(), 5U);
          EXPECT_GT(fused.norms[0], 100) << "it clips";
          EXPECT_LT(fused.norms[1], 0.1) << "and it does not";
        } else {
          EXPECT_TRUE(fused.norms.empty());
        }
      }
}

// Without clipping the factor is the one that unscale_ multiplies with, whatever it is.
TEST(FusedStep, HasTheBitsOfSeparatePassesForAnyScaleWithoutClipping) {
  for (const auto& [name, make] : fusing())
    for (const DType dtype : {DType::f32, DType::f64})
      expect_same(train(make, dtype, 3000, 0, true), train(make, dtype, 3000, 0, false), name + " " + to_text(dtype));
}

// The gradients that the update sees: plain descent with lr 1 from 0 leaves their negatives in a parameter, in f32 in a
// 16-bit parameter's master copy.
std::vector<double> seen_gradients(DType dtype, double scale, double max_norm, bool fused, std::vector<double>* scaled) {
  const Tensor x = zeros({5000}, {.dtype = dtype, .device = test_device(), .requires_grad = true});
  optim::SGD sgd({x}, {.lr = 1});
  amp::GradScaler scaler({.init_scale = scale});
  manual_seed(3);
  Tensor(x).set_grad((randn({5000}) * scale).to(dtype).to(test_device()).clone());
  *scaled = x.grad().to_vector<double>();
  if (fused) {
    scaler.step(sgd, {.max_norm = max_norm});
  } else {
    scaler.unscale_(sgd);
    optim::clip_grad_norm_({x}, max_norm);
    scaler.step(sgd);
  }
  std::vector<double> seen = dtype == DType::bf16 ? sgd.state_dict().at("state.0.master").to_vector<double>() : x.to_vector<double>();
  for (double& g : seen) g = -g;
  return seen;
}

TEST(FusedStep, OtherScalesDifferByRoundingsOnly) {
  constexpr double max_norm = 2.5;
  for (const double scale : {3000.0, 0x1p10}) {
    std::vector<double> scaled;
    const std::vector<double> fused = seen_gradients(DType::f32, scale, max_norm, true, &scaled),
                              separate = seen_gradients(DType::f32, scale, max_norm, false, &scaled);
    double squares = 0, largest_difference = 0;
    for (const double g : scaled) squares += g * g / scale / scale;
    const double factor = max_norm / (std::sqrt(squares) + 1e-6) / scale;
    ASSERT_LT(factor * scale, 0.1) << "it clips";
    for (std::size_t i = 0; i < scaled.size(); ++i) {
      const double g = std::abs(scaled[i]) * factor;
      // Fused: the reciprocal, the norm, the product of both factors and the product with g are rounded. Separate: the
      // reciprocal, the product with it, the norm, the factor, and the product with that.
      EXPECT_LE(std::abs(fused[i] - scaled[i] * factor), 4.01 * unit_roundoff_f32 * g);
      EXPECT_LE(std::abs(fused[i] - separate[i]), 5.01 * unit_roundoff_f32 * g);
      largest_difference = std::max(largest_difference, std::abs(fused[i] - separate[i]));
    }
    EXPECT_EQ(largest_difference == 0, scale == 0x1p10) << "bits differ where the scale is no power of two, and only there";
  }
}

// Separate passes round 16-bit gradients when they write them, once each; the fused update does not.
TEST(FusedStep, SixteenBitGradientsAreNotRoundedOnTheWay) {
  constexpr double scale = 0x1p10, max_norm = 2.5;
  std::vector<double> scaled;
  const std::vector<double> fused = seen_gradients(DType::bf16, scale, max_norm, true, &scaled),
                            separate = seen_gradients(DType::bf16, scale, max_norm, false, &scaled);
  double squares = 0;
  for (const double g : scaled) squares += g * g / scale / scale;
  const double factor = max_norm / (std::sqrt(squares) + 1e-6) / scale;
  bool rounded = false;
  for (std::size_t i = 0; i < scaled.size(); ++i) {
    const double g = std::abs(scaled[i]) * factor;
    EXPECT_LE(std::abs(fused[i] - scaled[i] * factor), 4.01 * unit_roundoff_f32 * g);
    EXPECT_LE(std::abs(separate[i] - scaled[i] * factor), 1.01 * unit_roundoff_bf16 * g) << "unscaling is exact";
    rounded = rounded || std::abs(separate[i] - scaled[i] * factor) > 0.5 * unit_roundoff_bf16 * g;
  }
  EXPECT_TRUE(rounded);
}

TEST(FusedStep, LeavesTheGradientsAsTheyAre) {
  for (const double bad : {1.0, HUGE_VAL}) {
    const Tensors params = parameters(DType::f32);
    optim::AdamW adamw(params);
    amp::GradScaler scaler;
    give(params, 100, 1);
    params[1].grad().set(0, bad);
    Tensors before;
    std::vector<std::uint64_t> versions;
    for (std::size_t i = 0; i < 3; ++i) {
      before.push_back(params[i].grad().clone());
      versions.push_back(params[i].grad().impl()->storage->version);
    }
    scaler.step(adamw, {.max_norm = 1});
    scaler.update();
    EXPECT_EQ(scaler.last_step_skipped(), bad != 1);
    for (std::size_t i = 0; i < 3; ++i) {
      expect_same_bits(params[i].grad(), before[i], "gradient");
      EXPECT_EQ(params[i].grad().impl()->storage->version, versions[i]);
    }
  }
}

TEST(FusedStep, ReadsNothingOnTheHost) {
  const Tensors params = parameters(DType::f32);
  optim::AdamW adamw(params);
  optim::SGD sgd({params[0]});
  amp::GradScaler scaler, off({.enabled = false});
  give(params, 100, 1);
  const std::uint64_t before = host_reads();
  for (int t = 0; t < 3; ++t) {
    scaler.step(adamw, {.max_norm = 1});
    scaler.step(sgd);
    scaler.update();
    off.step(adamw, {.max_norm = 1});
    optim::clipped_step(sgd, 1);
  }
  EXPECT_EQ(host_reads(), before);
  scaler.step(adamw, {.max_norm = 1}).item<float>();
  EXPECT_GT(host_reads(), before) << "and the counter counts";
}

TEST(FusedStep, AfterUnscaleItOnlyClips) {
  const auto stepped = [](bool fused) {
    const Tensors params = parameters(DType::f32);
    optim::AdamW adamw(params, {.lr = 0.1});
    amp::GradScaler scaler({.init_scale = 1024});
    give(params, 1024, 4);
    scaler.unscale_(adamw);
    const Tensor norm = fused ? scaler.step(adamw, {.max_norm = 1}) : optim::clip_grad_norm_(params, 1);
    if (!fused) scaler.step(adamw);
    EXPECT_NEAR(norm.item<double>(), std::sqrt(20'064.0), 5) << "of what was unscaled once";
    return params;
  };
  const Tensors fused = stepped(true), separate = stepped(false);
  for (std::size_t i = 0; i < fused.size(); ++i) expect_same_bits(fused[i], separate[i], "parameter");
}

TEST(FusedStep, WithoutAScalerItClips) {
  for (const auto& [name, make] : fusing())
    for (const bool scaler_that_is_off : {false, true}) {
      const Tensors fused = parameters(DType::f32), separate = parameters(DType::f32);
      const auto first = make(fused), second = make(separate);
      amp::GradScaler off({.enabled = false});
      for (int t = 0; t < 3; ++t) {
        give(fused, t == 1 ? 1e-4 : 1, t);
        give(separate, t == 1 ? 1e-4 : 1, t);
        const Tensor norm = scaler_that_is_off ? off.step(*first, {.max_norm = 2}) : optim::clipped_step(*first, 2);
        const Tensor expected = optim::clip_grad_norm_(separate, 2);
        second->step();
        EXPECT_EQ(norm.item<float>(), expected.item<float>()) << name;
      }
      for (std::size_t i = 0; i < fused.size(); ++i) expect_same_bits(fused[i], separate[i], name);
    }
}

TEST(FusedStep, AFactorIsThatOfItsStepOnly) {
  const Tensor x = zeros({4}, {.device = test_device(), .requires_grad = true});
  optim::SGD sgd({x}, {.lr = 1});
  Tensor(x).set_grad(full({4}, -8, {.device = test_device()}));
  optim::clipped_step(sgd, 1);
  EXPECT_NEAR(x.at(0), 0.5, 1e-6);
  sgd.step();
  EXPECT_NEAR(x.at(0), 8.5, 1e-6);
}

TEST(FusedStep, ANanGoesOnIntoTheWeightsWithoutAScaler) {  // as clip_grad_norm_ lets it
  const Tensor x = ones({3}, {.device = test_device(), .requires_grad = true});
  optim::SGD sgd({x});
  Tensor(x).set_grad(from_vector(std::vector<float>{1, std::nanf(""), 1}, {3}).to(test_device()));
  EXPECT_TRUE(std::isnan(optim::clipped_step(sgd, 1).item<float>()));
  for (const float value : x.to_vector<float>()) EXPECT_TRUE(std::isnan(value));
}

// Muon needs matrix products between gradient and weight: its gradients are unscaled and clipped in passes of their own.
TEST(FusedStep, OptimizersThatCannotGetGradientsThatWereRewritten) {
  const auto stepped = [](bool by_options) {
    manual_seed(2);
    const Tensor w = randn({6, 5}).to(test_device()).clone().requires_grad_();
    optim::Muon muon({w}, {.lr = 0.1});
    EXPECT_FALSE(muon.scales_gradients());
    amp::GradScaler scaler({.init_scale = 256});
    for (int t = 0; t < 3; ++t) {
      Tensor gradient = (randn({6, 5}) * 256.0).clone();
      if (t == 1) gradient.set(7, HUGE_VAL);
      Tensor(w).set_grad(gradient.to(test_device()));
      if (by_options) {
        const float norm = scaler.step(muon, {.max_norm = 0.5}).item<float>();
        if (t == 0) {
          EXPECT_NEAR(norm, std::sqrt(30.0), 2.5);
        }
      } else {
        scaler.unscale_(muon);
        optim::clip_grad_norm_({w}, 0.5);
        scaler.step(muon);
      }
      scaler.update();
    }
    EXPECT_NEAR(optim::clip_grad_norm_({w}, 1).item<float>(), 0.5, 1e-5) << "rewritten";
    EXPECT_EQ(scaler.skipped_steps(), 1);
    return w;
  };
  expect_same_bits(stepped(true), stepped(false), "weight");
}

TEST(FusedStep, Mistakes) {
  Tensor x = ones({3}, {.device = test_device(), .requires_grad = true});
  optim::SGD sgd({x});
  amp::GradScaler scaler;
  expect_error([&] { scaler.step(sgd); }, "GradScaler: step: no parameter of this optimizer has a gradient");
  x.set_grad(ones({3}, {.device = test_device()}));
  expect_error([&] { scaler.step(sgd, {.max_norm = -1}); }, "GradScaler: step: max_norm must be positive, or 0");
  expect_error([&] { scaler.step(sgd, {.max_norm = std::nan("")}); }, "GradScaler: step: max_norm ");
  expect_error([&] { optim::clipped_step(sgd, 0); }, "clipped_step: max_norm must be positive, got 0");
  expect_error([&] { optim::clip_grad_norm_(sgd, 0); }, "clip_grad_norm_: max_norm must be positive, got 0");
  expect_error([&] { sgd.step({}, ones({1}, {.device = test_device()})); }, "optim: step: grad_scale must be f64 with one element");
  Tensor w = ones({2, 2}, {.device = test_device(), .requires_grad = true});
  optim::Muon muon({w});
  expect_error([&] { muon.step({}, ones({1}, {.dtype = DType::f64, .device = test_device()})); },
               "optim: step: this optimizer does not take a grad_scale");
  scaler.step(sgd);  // none of that counted as a step
  expect_error([&] { scaler.step(sgd, {.max_norm = 1}); }, "GradScaler: step() was already called");
  Tensor half = ones({3}, {.dtype = DType::f16, .device = test_device(), .requires_grad = true});
  half.set_grad(ones({3}, {.dtype = DType::f16, .device = test_device()}));
  optim::SGD of_half({half});
  expect_error([&] { scaler.step(of_half); }, "GradScaler: step: gradients in f16 would underflow");
}

TEST(FusedStep, NothingToReadIsFiniteAndZero) {
  const Tensor x = zeros({0}, {.device = test_device(), .requires_grad = true});
  optim::SGD sgd({x});
  EXPECT_EQ(optim::clipped_step(sgd, 1).item<float>(), 0) << "no gradient";
  Tensor(x).set_grad(zeros({0}, {.device = test_device()}));
  amp::GradScaler scaler;
  EXPECT_EQ(scaler.step(sgd, {.max_norm = 1}).item<float>(), 0) << "an empty one";
  scaler.update();
  EXPECT_FALSE(scaler.last_step_skipped());
}

// The same numbers by value and from memory.
TEST(FusedStep, NumbersInMemoryHaveTheBitsOfOptions) {
  for (const bool adam : {true, false}) {
    const auto stepped = [&](bool in_memory) {
      manual_seed(8);
      const auto there = [](Tensor x) { return x.to(test_device()).clone(); };
      const Tensor p = there(randn({70})), g = there(randn({70})), m = there(randn({70})), v = there(rand({70}));
      const Tensor step = full({}, 3, {.dtype = DType::i64, .device = test_device()});
      const Tensor numbers = there(from_vector(std::vector<double>{0.1, 0.3}, {2}, {.dtype = DType::f64}));
      const kernel::OptimizerItem items[] = {{p, g, m, v, {}, step, 0}};
      const double lr = in_memory ? 7 : 0.1, weight_decay = in_memory ? 8 : 0.3;
      const kernel::StepInputs in{.skip = {}, .grad_scale = {}, .numbers = in_memory ? TensorView(numbers) : TensorView()};
      if (adam) kernel::adam(items, {.lr = lr, .weight_decay = weight_decay, .rounding = {}}, in);
      else kernel::sgd(items, {.lr = lr, .momentum = 0.9, .weight_decay = weight_decay, .rounding = {}}, in);
      return p;
    };
    expect_same_bits(stepped(true), stepped(false), adam ? "adam" : "sgd");
  }
}

}  // namespace
