// The numerics monitor: what it records, dead layers, layers at risk, FP8 recipes, JSON.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "binade/core/amp/autocast.h"
#include "binade/core/amp/numerics_monitor.h"
#include "binade/core/autograd/module_path.h"
#include "binade/core/base/random.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/ops/nn/nn.h"
#include "binade/tests/observatory/given_gradient.h"

namespace {

using namespace binade;
using test::Given;
using test::deep_sigmoid;
using amp::NumericsMonitor;
using amp::TensorKind;
using amp::TensorRecord;

const TensorRecord* find(const NumericsMonitor& monitor, TensorKind kind, const std::string& label) {
  for (const TensorRecord& record : monitor.records())
    if (record.kind == kind && record.label() == label) return &record;
  return nullptr;
}

// The loss is f32 under autocast, though its operands are not: its gradient, 1, bounds no loss scale.
TEST(NumericsMonitor, AProductWithItsLossHasANarrowOperandAndAWideResult) {
  const Tensor x = randn({6, 8}, {.requires_grad = true}), weight = randn({10, 8}, {.requires_grad = true});
  NumericsMonitor monitor;
  {
    const ObserverScope watching(monitor);
    linear_cross_entropy(x, weight, randint(0, 10, {6})).backward();
  }
  monitor.step();
  const auto narrow = [&](TensorKind kind, const std::string& label) {
    const TensorRecord* record = find(monitor, kind, label);
    return record ? (record->narrow ? "narrow" : "wide") : "absent";
  };
  EXPECT_STREQ(narrow(TensorKind::activation, "linear_cross_entropy"), "wide");
  EXPECT_STREQ(narrow(TensorKind::activation_gradient, "linear_cross_entropy"), "wide");
  EXPECT_STREQ(narrow(TensorKind::operand, "linear_cross_entropy input 0"), "narrow");
}

TEST(NumericsMonitor, RecordsEachTensorUnderItsName) {
  manual_seed(1);
  const nn::Sequential model = deep_sigmoid();
  const Tensor x = rand({32, 20}), y = randint(0, 10, {32});
  NumericsMonitor monitor;
  Tensor hidden;
  {
    const ObserverScope watching(monitor);
    cross_entropy(model(x), y).backward();
  }
  EXPECT_TRUE(monitor.records().empty() || monitor.records()[0].steps == 0);  // nothing before the step's end
  monitor.step();
  const auto expect = [&](TensorKind kind, const std::string& label, const Tensor& values) {
    const TensorRecord* record = find(monitor, kind, label);
    ASSERT_NE(record, nullptr) << label;
    EXPECT_EQ(record->steps, 1);
    const amp::ExponentHistogram h = amp::exponent_histogram(values);
    EXPECT_EQ(record->all.counts, h.counts) << label;
    EXPECT_EQ(record->early.counts, h.counts) << label;
    EXPECT_EQ(record->all.squares, h.squares) << label;
    EXPECT_EQ(record->amax_high, h.amax) << label;
  };
  const NoGrad guard;
  const nn::NamedTensors parameters = model.named_parameters();
  const Tensor pre = linear(x, parameters[0].second, parameters[1].second);
  expect(TensorKind::activation, "0 linear", pre);
  expect(TensorKind::activation, "1 sigmoid", sigmoid(pre));
  expect(TensorKind::operand, "0 linear input 0", x);
  for (const auto& [name, parameter] : parameters) {
    expect(TensorKind::weight, name, parameter);
    expect(TensorKind::weight_gradient, name, parameter.grad());
  }
  // The gradient of the last layer's output: (softmax - onehot) / batch, and its column sums are the bias's gradient.
  const TensorRecord* top = find(monitor, TensorKind::activation_gradient, "8 linear");
  ASSERT_NE(top, nullptr);
  EXPECT_EQ(top->all.total(), 320);
  EXPECT_TRUE(top->narrow);
  const TensorRecord* loss = find(monitor, TensorKind::activation_gradient, "cross_entropy");
  ASSERT_NE(loss, nullptr);
  EXPECT_EQ(loss->all.amax, 1);
  EXPECT_FALSE(loss->narrow);  // stays in FP32 under autocast: says nothing about loss scales
  EXPECT_EQ(find(monitor, TensorKind::operand, "0 linear input 1"), nullptr);  // a weight
}

// A model of every kind: an embedding and a residual stream in f32, views, activations, norms and products.
struct Mixed : nn::Module {
  nn::Embedding table = add("table", nn::Embedding(5, 8));
  nn::Linear up = add("up", nn::Linear(8, 16)), down = add("down", nn::Linear(16, 8)), head = add("head", nn::Linear(8, 3));
  nn::LayerNorm norm = add("norm", nn::LayerNorm(8));
  Tensor operator()(const Tensor& ids) const {
    Tensor x = dropout(table(ids), 0.25);
    x = x + dropout(down(relu(up(norm(x)).view({-1, 16}))), 0.5) * 0.5;
    const Tensor h = head(relu(x));
    return h * 2.0 + relu(h);
  }
};

TEST(NumericsMonitor, NarrowIsWhatAutocastLeavesInFloat16) {
  manual_seed(1);
  struct Dtypes final : Observer {  // in an autocast run
    std::map<std::string, DType> seen;
    std::set<std::string> differing;
    void on_forward(const OpPtr& op, Inputs, const Tensor& y) override {
      const auto [at, first] = seen.emplace(module_path() + std::string(op->name()), y.dtype());
      if (!first && at->second != y.dtype()) differing.insert(at->first);  // an operation used in both dtypes
    }
  } dtypes;
  const Mixed model;
  NumericsMonitor monitor;
  const auto run_once = [&] { sum(cross_entropy(model(randint(0, 5, {6})), randint(0, 3, {6}), {.reduction = Reduction::none})).backward(); };
  {
    const ObserverScope watching(monitor);
    run_once();
    monitor.step();
  }
  const amp::Autocast autocast(DType::f16);
  const ObserverScope watching(dtypes);
  run_once();
  int checked = 0;
  for (const TensorRecord& record : monitor.records()) {
    if (record.kind != TensorKind::activation && record.kind != TensorKind::activation_gradient) continue;
    if (dtypes.differing.contains(record.name + record.operation)) continue;
    EXPECT_EQ(record.narrow, dtypes.seen.at(record.name + record.operation) == DType::f16) << record.label();
    ++checked;
  }
  EXPECT_GE(checked, 14) << "seven operations, forward and backward";
}

TEST(NumericsMonitor, WeightsAreNotOperandsUnderAutocastEither) {
  const nn::Linear model(4, 4);
  NumericsMonitor monitor;
  const ObserverScope watching(monitor);
  const amp::Autocast autocast(DType::bf16);
  sum(model(ones({2, 4}))).backward();
  monitor.step();
  EXPECT_NE(find(monitor, TensorKind::operand, "linear input 0"), nullptr);
  EXPECT_EQ(find(monitor, TensorKind::operand, "linear input 1"), nullptr);
}

TEST(NumericsMonitor, EveryAndKinds) {
  Given given(1);
  NumericsMonitor monitor({.every = 3, .kinds = {TensorKind::weight_gradient}, .early_steps = 0});
  NumericsMonitor forward({.every = 3, .kinds = {TensorKind::activation}, .early_steps = 2});
  const ObserverScope watching(monitor), watching_forward(forward);
  for (int step = 0; step < 7; ++step) {
    given.backward({static_cast<float>(1 << step)});
    monitor.step();
    forward.step();
  }
  EXPECT_EQ(find(forward, TensorKind::activation, "sum")->all.total(), 4);  // steps 0, 1, 3 and 6
  EXPECT_EQ(monitor.steps(), 7);
  EXPECT_EQ(monitor.observed_steps(), 3);
  ASSERT_EQ(monitor.records().size(), 1U);
  const TensorRecord& w = monitor.records()[0];
  EXPECT_EQ(w.steps, 3);
  EXPECT_EQ(w.all.counts[149], 1);  // steps 0, 3 and 6
  EXPECT_EQ(w.all.counts[152], 1);
  EXPECT_EQ(w.all.counts[155], 1);
  EXPECT_EQ(w.largest_jump, 8);
  EXPECT_EQ(w.jumps, 2);
  EXPECT_EQ(w.pairs, 2);
  EXPECT_THROW(NumericsMonitor({.every = 0}), Error);
}

TEST(NumericsMonitor, GradientsAreDividedByTheLossScale) {
  Given given(2);
  double scale = 65536;
  NumericsMonitor monitor({.loss_scale = [&] { return scale; }});
  const ObserverScope watching(monitor);
  for (; scale > 1; scale /= 256) {
    given.backward({3, 0x1p-20F}, scale);
    monitor.step();
  }
  const TensorRecord* w = find(monitor, TensorKind::weight_gradient, "w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->steps, 2);
  EXPECT_EQ(w->all.amax, 3);
  EXPECT_EQ(w->all.amin, 0x1p-20);
  EXPECT_EQ(w->largest_jump, 1);
  const TensorRecord* weight = find(monitor, TensorKind::weight, "w");
  ASSERT_NE(weight, nullptr);
  EXPECT_EQ(weight->all.zeros, 4);
}

TEST(NumericsMonitor, AccumulatedGradientsCountOncePerStep) {
  Given given(1);
  NumericsMonitor monitor;
  const ObserverScope watching(monitor);
  sum(given.w * 1.0).backward();
  sum(given.w * 2.0).backward();
  monitor.step();
  const TensorRecord* w = find(monitor, TensorKind::weight_gradient, "w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->all.total(), 1);
  EXPECT_EQ(w->all.amax, 3);
}

TEST(DeadLayers, ConsecutiveObservedStepsOfExactZeros) {
  Given dead(2, "dead"), slow(2, "slow"), back(2, "back");
  NumericsMonitor monitor({.zero_steps = 5});
  const ObserverScope watching(monitor);
  for (int step = 0; step < 12; ++step) {
    dead.backward({step < 3 ? 1e-8F : 0.0F, 0});
    slow.backward({step % 5 == 0 ? 1e-8F : 0.0F, 0});  // four zeros at most
    back.backward({step < 2 || step > 8 ? 1.0F : -0.0F, 0});
    monitor.step();
    if (step == 6) {
      EXPECT_TRUE(monitor.dead_layers().empty() || monitor.dead_layers()[0].name == "back");
    }
  }
  const std::vector<amp::DeadLayer> found = monitor.dead_layers();
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].name, "dead");
  EXPECT_EQ(found[0].since_step, 3);
  EXPECT_EQ(found[0].steps, 9);
  EXPECT_TRUE(found[0].still);
  EXPECT_EQ(found[1].name, "back");
  EXPECT_EQ(found[1].since_step, 2);
  EXPECT_EQ(found[1].steps, 7);
  EXPECT_FALSE(found[1].still);
  EXPECT_NE(monitor.advice().find("ALARM: the gradient of dead was exactly zero for 9 observed steps since step 3 and still is"),
            std::string::npos)
      << monitor.advice();
}

TEST(LayersAtRisk, ByTheShareOfTheSquaredNorm) {
  // Squares 1 : x below 2^-25: the share lost is known.
  Given fine(2, "fine"), some(2, "some"), most(2, "most");
  NumericsMonitor monitor({.f16_weight_gradients = true});
  const ObserverScope watching(monitor);
  const float kept = 0x1p-24F, lost = 0x1.8p-26F;  // lost^2 / kept^2 = 9/64
  fine.backward({kept, lost});                     // 9 / 73 = 12 %
  some.backward({kept, 0});
  some.w.set_grad({});
  some.w = zeros({3}, {.requires_grad = true});
  set_name(some.w, "some");
  some.backward({kept, lost, lost});  // 18 / 82 = 22 %
  most.backward({lost, lost});
  monitor.step();
  const std::vector<amp::LayerAtRisk> risks = monitor.layers_at_risk();
  ASSERT_EQ(risks.size(), 2U);
  EXPECT_EQ(risks[0].label, "most");
  EXPECT_EQ(risks[0].lost_share, 1);
  EXPECT_TRUE(risks[0].severe());
  EXPECT_EQ(risks[1].label, "some");
  EXPECT_FALSE(risks[1].severe());
}

// A linear layer fed with inputs of the given size in each step.
std::optional<amp::Fp8Advice> recipe_for(const std::function<Tensor(int step)>& input) {
  manual_seed(9);
  nn::Sequential model(nn::Linear(64, 32));
  NumericsMonitor monitor;
  const ObserverScope watching(monitor);
  for (int step = 0; step < 20; ++step) {
    model.zero_grad();
    sum(model(input(step)) * rand({16, 32})).backward();
    monitor.step();
  }
  return monitor.fp8_recipe();
}

TEST(Fp8Advice, StableIsDelayed) {
  const auto advice = recipe_for([](int) { return randn({16, 64}); });
  ASSERT_TRUE(advice);
  EXPECT_EQ(advice->recipe, amp::Fp8Scaling::delayed) << advice->reason;
}
TEST(Fp8Advice, JumpingIsCurrent) {
  const auto advice = recipe_for([](int step) { return randn({16, 64}) * (step % 3 == 2 ? 50.0 : 1.0); });
  ASSERT_TRUE(advice);
  EXPECT_EQ(advice->recipe, amp::Fp8Scaling::current) << advice->reason;
  EXPECT_NE(advice->reason.find("0 linear input 0"), std::string::npos) << advice->reason;
}
TEST(Fp8Advice, WideIsBlock) {
  const auto advice = recipe_for([](int) {
    Tensor x = randn({16, 64});
    x.set(7, 1e7);  // one outlier: with it at 448, E4M3 keeps nothing below 22
    return x;
  });
  ASSERT_TRUE(advice);
  EXPECT_EQ(advice->recipe, amp::Fp8Scaling::block) << advice->reason;
  EXPECT_NE(advice->reason.find("0 linear input 0"), std::string::npos) << advice->reason;
}
TEST(Fp8Advice, NothingWithoutMatrixProducts) {
  Given given(1);
  NumericsMonitor monitor;
  const ObserverScope watching(monitor);
  given.backward({1});
  monitor.step();
  EXPECT_FALSE(monitor.fp8_recipe());
}

TEST(Fp8Error, CurrentAndDelayedScales) {
  Tensor w = zeros({2, 2}, {.requires_grad = true});
  set_name(w, "w");
  NumericsMonitor monitor({.kinds = {TensorKind::weight}});
  const ObserverScope watching(monitor);
  const auto step = [&](const std::vector<float>& values) {
    {
      const NoGrad guard;
      w.copy_(from_vector(values, {2, 2}));
    }
    w.zero_grad();
    sum(w * w).backward();
    monitor.step();
  };
  step({448, 1.0625F, 0, 0x1p-11F});  // scale 1: 1.0625 is stored as 1 (a tie, to even), 2^-11 as 0
  const TensorRecord* record = find(monitor, TensorKind::weight, "w");
  ASSERT_NE(record, nullptr);
  EXPECT_EQ(record->current.mean_squared_error(), (0.0625 * 0.0625 + 0x1p-22) / 4);
  EXPECT_EQ(record->current.zeros, 1);
  EXPECT_EQ(record->delayed.values, 0);  // no step before
  step({896, 2, 4, 8});  // twice as large: at the last step's scale 896 is clamped to 448
  record = find(monitor, TensorKind::weight, "w");
  EXPECT_EQ(record->current.saturated, 0);
  EXPECT_EQ(record->delayed.saturated, 1);
  EXPECT_EQ(record->delayed.squared_error, 448.0 * 448.0);
  EXPECT_EQ(record->scale_inv_low(), 1);
  EXPECT_EQ(record->scale_inv_high(), 2);
}

TEST(NumericsMonitor, JsonHoldsTheRecords) {
  manual_seed(2);
  const nn::Sequential model = deep_sigmoid();
  NumericsMonitor monitor;
  const ObserverScope watching(monitor);
  cross_entropy(model(rand({8, 20})), randint(0, 10, {8})).backward();
  monitor.step();
  const auto json = nlohmann::json::parse(monitor.json());
  EXPECT_EQ(json["steps"], 1);
  EXPECT_EQ(json["observed_steps"], 1);
  EXPECT_EQ(json["advice"], monitor.advice());
  EXPECT_EQ(json["loss_scale_window"]["log2_upper"], monitor.loss_scale_window()->log2_upper);
  EXPECT_EQ(json["fp8"]["recipe"], std::string(name(monitor.fp8_recipe()->recipe)));
  ASSERT_EQ(json["tensors"].size(), monitor.records().size());
  for (std::size_t i = 0; i < monitor.records().size(); ++i) {
    const TensorRecord& record = monitor.records()[i];
    const auto& tensor = json["tensors"][i];
    EXPECT_EQ(tensor["name"], record.name);
    EXPECT_EQ(tensor["amax"], record.all.amax);
    std::int64_t counted = 0;
    for (const auto& count : tensor["histogram"]["counts"]) counted += count.get<std::int64_t>();
    EXPECT_EQ(counted, record.all.nonzero());
    EXPECT_EQ(tensor["formats"]["f16"]["to_zero"], record.all.shares(DType::f16).to_zero);
    EXPECT_EQ(tensor.contains("fp8"), record.fp8);
  }
}

}  // namespace
