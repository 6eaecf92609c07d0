// Shadow execution: relative errors that are known, a deliberately bad layer ranked first, an unchanged training.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "binade/core/amp/autocast.h"
#include "binade/core/amp/grad_scaler.h"
#include "binade/core/amp/shadow_execution.h"
#include "binade/core/autograd/checkpoint.h"
#include "binade/core/autograd/module_path.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/base/random.h"
#include "binade/core/optim/optimizers.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/nn/nn.h"

namespace {

using namespace binade;
using amp::ShadowEntry;
using amp::ShadowExecution;
using amp::ShadowReference;

const ShadowEntry& find(const std::vector<ShadowEntry>& entries, const std::string& operation, const std::string& module) {
  for (const ShadowEntry& entry : entries)
    if (entry.operation == operation && entry.module == module) return entry;
  static const ShadowEntry none;
  ADD_FAILURE() << "no " << operation << " in '" << module << "'";
  return none;
}

constexpr ShadowReference references[] = {ShadowReference::loops, ShadowReference::f64, ShadowReference::f32};

TEST(Shadow, RelativeErrorsThatAreKnown) {
  for (const ShadowReference reference : references) {
    ShadowExecution shadow({.reference = reference});
    {
      const ObserverScope watching(shadow);
      full({4}, 1 + 0x1p-12).to(DType::f16);                              // stored as 1
      const Tensor third = full({4}, 1, {.dtype = DType::f16}) * full({4}, 0.5, {.dtype = DType::f16});  // exact
      const Tensor x = full({4}, 1, {.dtype = DType::f16, .requires_grad = true}), y = x * full({4}, 0x1p-20, {.dtype = DType::f16});
      y.backward(full({4}, 0x1p-5, {.dtype = DType::f16}));  // the gradient 2^-25 becomes zero
    }
    const std::vector<ShadowEntry> entries = shadow.entries();
    EXPECT_NEAR(find(entries, "cast", "").forward.relative(), 0x1p-12 / (1 + 0x1p-12), 1e-12);
    EXPECT_EQ(find(entries, "mul", "").forward.relative(), 0);
    EXPECT_EQ(find(entries, "mul", "").forward.calls, 2);
    EXPECT_EQ(find(entries, "mul", "").backward.relative(), 1);
    EXPECT_EQ(find(entries, "mul", "").backward.calls, 1);
    EXPECT_EQ(entries[0].operation, "mul");
  }
}

TEST(Shadow, OverflowIsInfinitelyWrong) {
  ShadowExecution shadow;
  {
    const ObserverScope watching(shadow);
    full({4}, 300, {.dtype = DType::f16}) * full({4}, 300, {.dtype = DType::f16});
  }
  EXPECT_EQ(shadow.entries()[0].forward.not_finite, 4);
  EXPECT_TRUE(std::isinf(shadow.entries()[0].worst()));
  ASSERT_EQ(shadow.keep_in_fp32().size(), 1U);
  const auto json = nlohmann::json::parse(shadow.json());
  EXPECT_TRUE(json["entries"][0]["forward"]["relative_error"].is_null());
  EXPECT_EQ(json["keep_in_fp32"][0]["operation"], "mul");
}

TEST(Shadow, CastsAreChargedOnlyWhenAsked) {
  for (const bool include_casts : {false, true}) {
    ShadowExecution shadow({.include_casts = include_casts});
    {
      const ObserverScope watching(shadow);
      const amp::Autocast autocast(DType::f16);
      linear(full({1, 1}, 1 + 0x1p-12), ones({1, 1}));
    }
    EXPECT_NEAR(shadow.entries()[0].forward.relative(), include_casts ? 0x1p-12 / (1 + 0x1p-12) : 0.0, 1e-12);
  }
}

// y = 2 x, whose forward or backward keeps only the bits of E5M2.
struct Sloppy final : Op {
  bool sloppy_forward = false, sloppy_backward = false;
  std::string_view name() const override { return "sloppy"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override { return in[0].spec(); }
  static Tensor twice(const Tensor& x, bool sloppy) {
    Tensor y = empty_like(x);
    kernel::copy(sloppy && x.dtype() != DType::f64 ? cast_values(x, DType::f8e5m2) : x, y);
    kernel::add_into(y, y, 1);
    return y;
  }
  Tensor forward(Inputs in, Saved&) const override { return twice(in[0], sloppy_forward); }
  void backward(const Saved&, const Tensor& dy, Gradients& out) const override { out.put(0, twice(dy, sloppy_backward)); }
  Tensor reference(Inputs in) const override { return twice(in[0], false); }
};
struct SloppyLayer : nn::Module {
  Sloppy op;
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return run(op, {x});
  }
};
struct Net : nn::Module {
  nn::Linear a = add("a", nn::Linear(16, 16));
  SloppyLayer bad = add("bad", SloppyLayer());
  nn::LayerNorm norm = add("norm", nn::LayerNorm(16));
  nn::Dropout drop = add("drop", nn::Dropout(0.3));
  nn::Linear b = add("b", nn::Linear(16, 4));
  Tensor operator()(const Tensor& x) const { return b(drop(norm(bad(gelu(a(x)))))); }
};

// Its result is f32, its arithmetic f16: a logit of 8 is off by up to 2^-8 there, and the loss as much. Of the gradients the
// logits' are rounded to f16 once, and to f16 again where x is, besides what the logits' error does to them.
TEST(Shadow, AProductAndItsLossAreJudgedByTheDtypeOfTheProduct) {
  for (const ShadowReference reference : references) {
    manual_seed(2);
    const Tensor x = randn({12, 16}, {.requires_grad = true}), weight = randn({20, 16}, {.requires_grad = true});
    ShadowExecution shadow({.reference = reference});
    {
      const ObserverScope watching(shadow);
      const amp::Autocast autocast(DType::f16);
      linear_cross_entropy(x, weight, randint(0, 20, {12}), {.batch_chunk_size = 5}).backward();
    }
    const ShadowEntry entry = find(shadow.entries(), "linear_cross_entropy", "");
    EXPECT_EQ(entry.dtype, DType::f16);
    EXPECT_EQ(entry.forward.calls, 1);
    EXPECT_EQ(entry.backward.calls, 2);
    EXPECT_EQ(entry.forward.skipped + entry.backward.skipped, 0);
    EXPECT_GT(entry.forward.relative(), 0);
    EXPECT_LT(entry.forward.relative(), 0x1p-8);
    EXPECT_GT(entry.backward.relative(), 0x1p-14);
    EXPECT_LT(entry.backward.relative(), 0x1p-8 + 0x1p-10);
  }
}

TEST(Shadow, ABadLayerIsRankedFirst) {
  for (const ShadowReference reference : {ShadowReference::loops, ShadowReference::f64})
    for (const bool forward : {true, false}) {
      manual_seed(4);
      Net net;
      (forward ? net.bad.op.sloppy_forward : net.bad.op.sloppy_backward) = true;
      ShadowExecution shadow({.reference = reference});
      {
        const ObserverScope watching(shadow);
        const amp::Autocast autocast(DType::bf16);
        cross_entropy(net(randn({32, 16})), randint(0, 4, {32})).backward();
      }
      const std::vector<ShadowEntry> entries = shadow.entries();
      EXPECT_EQ(entries[0].module, "bad");
      EXPECT_EQ(shadow.by_operation()[0].operation, "sloppy");
      // E5M2 rounds to 3 bits: off by up to 2^-3, on average over a binade some 2^-4.
      const double bad = (forward ? entries[0].forward : entries[0].backward).relative();
      EXPECT_GT(bad, 0x1p-6);
      EXPECT_LE(bad, 0x1p-3);
      EXPECT_LE((forward ? entries[0].backward : entries[0].forward).relative(), epsilon(DType::bf16) / 2);
      ASSERT_EQ(shadow.keep_in_fp32().size(), 1U) << shadow.table();
      EXPECT_EQ(shadow.keep_in_fp32()[0].operation, "sloppy");
      EXPECT_NE(shadow.table().find("Keep these in FP32: sloppy in bad"), std::string::npos) << shadow.table();
      // All others are rounded about once: with operands exact and sums in FP32, one unit roundoff per element in
      // forward; two in backward, for delivery and where an operation rounds what it passes to itself.
      for (std::size_t i = 1; i < entries.size(); ++i) {
        EXPECT_LE(entries[i].forward.relative(), epsilon(DType::bf16)) << entries[i].operation;
        EXPECT_LE(entries[i].backward.relative(), epsilon(DType::bf16)) << entries[i].operation;
        EXPECT_EQ(entries[i].forward.skipped + entries[i].backward.skipped, 0) << entries[i].operation;
      }
    }
}

TEST(Shadow, AnUnderflowingLayerIsFoundInFloat16) {
  manual_seed(4);
  Net net;
  {
    const NoGrad guard;
    net.b.weight.mul_(2e-7);  // outputs are a few of f16's smallest subnormals
    net.b.bias.zero_();
  }
  for (const ShadowReference reference : references) {
    ShadowExecution shadow({.reference = reference});
    const ObserverScope watching(shadow);
    const amp::Autocast autocast(DType::f16);
    sum(net(randn({32, 16}))).backward();
    EXPECT_EQ(shadow.keep_in_fp32()[0].module, "b") << shadow.table();
    EXPECT_GT(shadow.keep_in_fp32()[0].forward.relative(), 0.02);
  }
}

TEST(Shadow, RandomOperationsReplayTheirDraw) {
  for (const ShadowReference reference : references) {
    manual_seed(6);
    ShadowExecution shadow({.reference = reference});
    const ObserverScope watching(shadow);
    const Tensor x = randn({2, 4, 8, 8}, {.requires_grad = true});
    const Tensor y = scaled_dot_product_attention(x, x, x, {}, {.dropout = 0.4});
    sum(dropout(y, 0.5) * y).backward();
    for (const char* operation : {"dropout", "scaled_dot_product_attention"}) {
      const ShadowEntry entry = find(shadow.entries(), operation, "");
      EXPECT_LT(entry.worst(), 64 * epsilon(DType::f32)) << operation;  // another draw is off by about 1
      EXPECT_EQ(entry.forward.calls, 1);
      EXPECT_GE(entry.backward.calls, 1);
    }
  }
}

// A norm computed with its sum: observed, both operations run again, each by itself.
TEST(Shadow, ASumAndItsNormAreReplayedOneByOne) {
  for (const ShadowReference reference : references) {
    manual_seed(6);
    ShadowExecution shadow({.reference = reference});
    const ObserverScope watching(shadow);
    const Tensor x = randn({8, 24}, {.requires_grad = true}), weight = randn({24}, {.requires_grad = true});
    const NormedSum made = add_layer_norm(x * 2.0, gelu(x), weight, {}, {.dropout = 0.5});
    sum(made.normed * made.sum).backward();
    for (const char* operation : {"dropout_add", "layer_norm"}) {
      const ShadowEntry entry = find(shadow.entries(), operation, "");
      EXPECT_LT(entry.worst(), 64 * epsilon(DType::f32)) << operation;  // another draw is off by about 1
      EXPECT_EQ(entry.forward.calls, 1);
      EXPECT_EQ(entry.forward.skipped + entry.backward.skipped, 0);
      EXPECT_EQ(entry.backward.calls, 2);
    }
  }
}

TEST(Shadow, AccumulatedGradientsAreNotMistakenForErrors) {
  manual_seed(8);
  const nn::Linear linear(8, 8);
  ShadowExecution shadow;
  const ObserverScope watching(shadow);
  for (int pass = 0; pass < 3; ++pass) sum(linear(randn({4, 8}))).backward();
  EXPECT_LT(find(shadow.entries(), "linear", "").worst(), 64 * epsilon(DType::f32));
  // The weight of the first pass, and the bias of each: it comes by itself and is added afterwards.
  EXPECT_EQ(find(shadow.entries(), "linear", "").backward.calls, 4);
}

TEST(Shadow, UnderCheckpointAndEvery) {
  manual_seed(8);
  Net net;
  ShadowExecution shadow({.every = 2});
  const ObserverScope watching(shadow);
  for (int step = 0; step < 3; ++step) {
    sum(checkpoint([&](const Tensors& in) { return net(in[0]); }, {randn({4, 16})})).backward();
    net.zero_grad();
    shadow.step();
  }
  const ShadowEntry a = find(shadow.entries(), "linear", "a");
  EXPECT_EQ(a.forward.calls, 4);   // steps 0 and 2, and again in backward
  EXPECT_EQ(a.backward.calls, 4);  // weight and bias
  for (const ShadowEntry& entry : shadow.entries()) EXPECT_NE(entry.operation, "checkpoint");  // not an error of its own
  EXPECT_LT(a.worst(), 64 * epsilon(DType::f32));
}

TEST(Shadow, TrainingKeepsItsBits) {
  const auto train = [](std::optional<ShadowReference> reference) {
    manual_seed(12);
    nn::Sequential model(nn::Conv2d(1, 4, 3), nn::BatchNorm2d(4), nn::ReLU(), nn::Flatten(), nn::Dropout(0.2),
                         nn::Linear(4 * 6 * 6, 10));
    optim::AdamW optimizer(model.parameters(), {.lr = 1e-2});
    amp::GradScaler scaler({.init_scale = 1024});
    ShadowExecution shadow({.reference = reference.value_or(ShadowReference::loops)});
    std::vector<float> out;
    std::optional<ObserverScope> watching;
    if (reference) watching.emplace(shadow);
    for (int step = 0; step < 4; ++step) {
      Tensor loss;
      {
        const amp::Autocast autocast(DType::f16);
        loss = cross_entropy(model(randn({8, 1, 8, 8})), randint(0, 10, {8}));
      }
      scaler.scale(loss).backward();
      scaler.step(optimizer);
      scaler.update();
      optimizer.zero_grad();
      out.push_back(loss.item<float>());
      shadow.step();
    }
    for (const auto& [name, x] : model.state_dict())  // running statistics too
      for (const float v : x.to_vector<float>()) out.push_back(v);
    if (reference) {
      EXPECT_GT(find(shadow.entries(), "batch_norm", "1").forward.calls, 0);
      EXPECT_GT(find(shadow.entries(), "conv2d", "0").backward.calls, 0);
    }
    return out;
  };
  const std::vector<float> plain = train({});
  for (const ShadowReference reference : references) EXPECT_EQ(plain, train(reference));
}

TEST(Shadow, Json) {
  Net net;
  ShadowExecution shadow({.reference = ShadowReference::f64});
  const ObserverScope watching(shadow);
  const amp::Autocast autocast(DType::f16);
  sum(net(randn({4, 16}))).backward();
  shadow.step();
  const auto json = nlohmann::json::parse(shadow.json());
  EXPECT_EQ(json["steps"], 1);
  ASSERT_EQ(json["entries"].size(), shadow.entries().size());
  for (std::size_t i = 0; i < shadow.entries().size(); ++i) {
    EXPECT_EQ(json["entries"][i]["module"], shadow.entries()[i].module);
    EXPECT_EQ(json["entries"][i]["forward"]["relative_error"], shadow.entries()[i].forward.relative());
  }
  EXPECT_EQ(json["by_operation"].size(), shadow.by_operation().size());
}

}  // namespace
