// Backward repeats the dtypes and roundings of forward, whatever autocast is doing by then.
#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "binade/core/amp/autocast.h"
#include "binade/core/autograd/checkpoint.h"
#include "binade/core/autograd/observer.h"
#include "binade/core/base/random.h"
#include "binade/ops/ops.h"

namespace binade::test {

namespace {

using Autocast = std::optional<amp::Autocast>;

struct Watched {  // an operation: the dtype of its result, then of that result's gradient
  std::string name;
  DType forward{};
  std::optional<DType> backward;
};
class DtypeWatcher final : public Observer {
 public:
  std::map<const Op*, Watched> seen;
  void on_forward(const OpPtr& op, Inputs, const Tensor& output) override {
    seen[op.get()] = {std::string(op->name()), output.dtype(), {}};
    keep_.push_back(op);
  }
  void on_backward(const Op& op, const Tensor& dy) override { seen.at(&op).backward = dy.dtype(); }

 private:
  std::vector<OpPtr> keep_;  // addresses stay unique
};

struct Parameters {
  Tensor x, weight, bias, scale, kernel;
  Parameters() {
    manual_seed(7);
    x = randn({2, 4, 8}, {.requires_grad = true});
    weight = randn({24, 8}, {.requires_grad = true});
    bias = randn({24}, {.requires_grad = true});
    scale = rand({8}, {.requires_grad = true});
    kernel = randn({3, 4, 3}, {.requires_grad = true});
  }
  Tensors all() const { return {x, weight, bias, scale, kernel}; }
};

// Every class: low (linear, attention, convolution), full (norm, softmax), full_output (mean), widest, as_is.
Tensor loss_of(const Parameters& p) {
  const Tensor qkv = linear(layer_norm(p.x, p.scale), p.weight, p.bias);
  const Tensor mixed = gelu(packed_self_attention(qkv, 2)) + p.x;
  const Tensor rows = softmax(conv1d(mixed, p.kernel));
  return mean(rows * rows) + sum(matmul(mixed, mixed.t()));
}

std::vector<std::vector<float>> gradients(DType forward, DType during_backward, bool inside, Observer* observer = {}) {
  const Parameters p;
  std::optional<ObserverScope> watching;
  if (observer) watching.emplace(*observer);
  Autocast autocast(std::in_place, forward);
  const Tensor loss = loss_of(p);
  if (!inside) autocast.reset();
  {
    const amp::Autocast other(during_backward);
    loss.backward();
  }
  std::vector<std::vector<float>> all;
  for (const Tensor& x : p.all()) {
    EXPECT_EQ(x.grad().dtype(), DType::f32);
    all.push_back(x.grad().to_vector<float>());
  }
  return all;
}

TEST(AutocastBackward, GradientsHaveTheDtypesOfForward) {
  for (const DType dtype : {DType::f16, DType::bf16})
    for (const DType during : {DType::f32, DType::f16, DType::bf16}) {
      DtypeWatcher watcher;
      gradients(dtype, during, false, &watcher);
      int low = 0, wide = 0;
      for (const auto& [op, watched] : watcher.seen) {
        ASSERT_TRUE(watched.backward) << watched.name << ": no gradient";
        EXPECT_EQ(*watched.backward, watched.forward) << watched.name;
        EXPECT_NE(watched.forward, dtype == DType::f16 ? DType::bf16 : DType::f16) << watched.name;
        ++(watched.forward == dtype ? low : wide);
      }
      EXPECT_GE(low, 5);
      EXPECT_GE(wide, 5);
    }
}

TEST(AutocastBackward, BitsDoNotDependOnAutocastByThen) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const auto ended = gradients(dtype, DType::f32, false);
    for (const DType during : {DType::f16, DType::bf16}) {
      EXPECT_EQ(gradients(dtype, during, false), ended) << to_text(dtype) << ", backward under " << to_text(during);
      EXPECT_EQ(gradients(dtype, during, true), ended) << to_text(dtype) << ", backward inside, " << to_text(during);
    }
    EXPECT_EQ(gradients(dtype, DType::f32, true), ended) << to_text(dtype);
  }
  EXPECT_NE(gradients(DType::f16, DType::f32, false), gradients(DType::bf16, DType::f32, false));
}

// The gradient of y = x weight is given as 1 + 2^-9: f16 keeps it, bf16 rounds it to 1, f32 to nothing else. y had the
// dtype of forward's autocast, so its gradient is rounded to that one.
TEST(AutocastBackward, GradientsAreRoundedToForwardsFormat) {
  for (const auto& [forward, expected] :
       {std::pair{DType::f16, 1 + 0x1p-9F}, {DType::bf16, 1.0F}, {DType::f32, 1 + 0x1p-9F}})
    for (const DType during : {DType::f32, DType::f16, DType::bf16}) {
      const Tensor weight = ones({1, 1}, {.requires_grad = true}), x = ones({1, 1}, {.requires_grad = true});
      Tensor loss;
      {
        const amp::Autocast autocast(forward);
        loss = sum(matmul(x, weight) * full({1, 1}, 1 + 0x1p-9));
      }
      const amp::Autocast other(during);
      loss.backward();
      EXPECT_EQ(weight.grad().item<float>(), expected) << to_text(forward) << " then " << to_text(during);
      EXPECT_EQ(x.grad().item<float>(), expected) << to_text(forward) << " then " << to_text(during);
    }
}

// A checkpoint runs forward again during backward: under the autocast that forward had.
TEST(AutocastBackward, ACheckpointIsRecomputedUnderForwardsAutocast) {
  for (const auto& [forward, expected] : {std::pair{DType::f16, 1 + 0x1p-9F}, {DType::bf16, 1.0F}})
    for (const DType during : {DType::f32, DType::f16, DType::bf16}) {
      const Tensor weight = ones({1, 1}, {.requires_grad = true}),
                   x = full({1, 1}, 1 + 0x1p-9, {.requires_grad = true});
      Tensor loss;
      {
        const amp::Autocast autocast(forward);
        loss = sum(checkpoint([&](const Tensors& in) { return matmul(in[0], weight); }, {x}));
      }
      const amp::Autocast other(during);
      loss.backward();
      EXPECT_EQ(weight.grad().item<float>(), expected) << to_text(forward) << " then " << to_text(during);
      EXPECT_EQ(amp::autocast_enabled(), during != DType::f32);
      EXPECT_EQ(amp::autocast_dtype(), during);
    }
}

}  // namespace

}  // namespace binade::test
