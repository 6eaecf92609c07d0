// Autocast: scopes, what is touched, the cache of cast parameters, and what is banned. Backward: autocast_backward.cpp.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>

#include "binade/core/amp/autocast.h"
#include "binade/core/autograd/autocast_state.h"
#include "binade/core/autograd/checkpoint.h"
#include "binade/core/autograd/observer.h"
#include "binade/core/optim/optimizers.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/expect_error.h"

namespace binade::test {

namespace {

// A parameter whose address was given out: autocast keeps its cast for a region only (others: rounded_copies.cpp).
Tensor exposed(Tensor x) {
  x.data<float>();
  return x;
}

class SecondInputs final : public Observer {  // the weights as the operations saw them
 public:
  Tensors seen;
  void on_forward(const OpPtr&, Inputs inputs, const Tensor&) override {
    if (inputs.size() > 1 && inputs[1]) seen.push_back(inputs[1]);
  }
};

TEST(Autocast, ScopesNestAndReturn) {
  EXPECT_FALSE(amp::autocast_enabled());
  {
    const amp::Autocast outer(DType::f16);
    EXPECT_TRUE(amp::autocast_enabled());
    EXPECT_EQ(amp::autocast_dtype(), DType::f16);
    {
      const amp::Autocast inner(DType::bf16);
      EXPECT_EQ(amp::autocast_dtype(), DType::bf16);
      const amp::Autocast off(DType::f16, false);
      EXPECT_FALSE(amp::autocast_enabled());
    }
    EXPECT_TRUE(amp::autocast_enabled());
    EXPECT_EQ(amp::autocast_dtype(), DType::f16);
  }
  EXPECT_FALSE(amp::autocast_enabled());
}

TEST(Autocast, RejectsOtherDtypesAndChangesNothing) {
  const amp::Autocast scope(DType::bf16);
  for (const DType wrong : {DType::i64, DType::f64, DType::f8e4m3, DType::boolean})
    expect_error([=] { const amp::Autocast rejected(wrong); }, "Autocast: expected f16, bf16 or f32, got ");
  EXPECT_TRUE(amp::autocast_enabled());
  EXPECT_EQ(amp::autocast_dtype(), DType::bf16);
  EXPECT_EQ(autocast_state().depth, 1);
}

TEST(Autocast, AnExceptionRestoresWhatWasOutside) {
  const Tensor weight = ones({2, 2}, {.requires_grad = true}), x = ones({1, 2});
  const auto fail_inside = [&] {
    const amp::Autocast inner(DType::f16);
    linear(x, weight);
    matmul(x, x);  // inner sizes differ
  };
  expect_error(fail_inside, "matmul: ");
  EXPECT_FALSE(amp::autocast_enabled());
  EXPECT_EQ(autocast_state().depth, 0);
  EXPECT_TRUE(autocast_state().cache.empty());
  const amp::Autocast outer(DType::bf16);
  expect_error(fail_inside, "matmul: ");
  EXPECT_TRUE(amp::autocast_enabled());
  EXPECT_EQ(amp::autocast_dtype(), DType::bf16);
  EXPECT_EQ(linear(x, weight).dtype(), DType::bf16);
  {
    const amp::Autocast off(DType::f16, false);
    expect_error([&] { matmul(x, x); }, "matmul: ");
  }
  EXPECT_TRUE(amp::autocast_enabled());
}

TEST(Autocast, SwitchedOffInside) {
  const Tensor x = ones({2, 2}), half = ones({2, 2}, {.dtype = DType::f16});
  const amp::Autocast outer(DType::f16);
  for (const bool by_dtype : {true, false}) {
    const amp::Autocast off(by_dtype ? DType::f32 : DType::f16, by_dtype);
    EXPECT_EQ(matmul(x, x).dtype(), DType::f32);
    EXPECT_EQ(matmul(half, half).dtype(), DType::f16);
    EXPECT_EQ(softmax(half).dtype(), DType::f16);
    EXPECT_EQ(sum(half).dtype(), DType::f16);
    EXPECT_EQ((x + half).dtype(), DType::f32);  // promotion is not autocast
    const amp::Autocast on_again(DType::bf16);
    EXPECT_EQ(matmul(x, half).dtype(), DType::bf16);
  }
  EXPECT_EQ(matmul(x, x).dtype(), DType::f16);
}

TEST(Autocast, BelongsToOneThread) {
  const Tensor weight = exposed(ones({2, 2}, {.requires_grad = true})), x = ones({1, 2});
  const amp::Autocast autocast(DType::bf16);
  linear(x, weight);
  ASSERT_EQ(autocast_state().cache.size(), 1U);
  DType without{}, within{};
  bool on_at_start = true, on_at_end = true;
  std::size_t cached_at_start = 1;
  std::thread([&] {
    on_at_start = amp::autocast_enabled();
    cached_at_start = autocast_state().cache.size();
    without = linear(x, weight).dtype();
    {
      const amp::Autocast own(DType::f16);
      within = linear(x, weight).dtype();
    }
    on_at_end = amp::autocast_enabled();
  }).join();
  EXPECT_FALSE(on_at_start);
  EXPECT_EQ(cached_at_start, 0U);
  EXPECT_EQ(without, DType::f32);
  EXPECT_EQ(within, DType::f16);
  EXPECT_FALSE(on_at_end);
  // What the other thread did has changed nothing here.
  EXPECT_EQ(amp::autocast_dtype(), DType::bf16);
  EXPECT_EQ(autocast_state().cache.size(), 1U);
  EXPECT_EQ(linear(x, weight).dtype(), DType::bf16);
}

TEST(Autocast, LeavesDoublesAndIntegersAlone) {
  const amp::Autocast autocast(DType::bf16);
  EXPECT_EQ(matmul(ones({2, 2}, {.dtype = DType::f64}), ones({2, 2}, {.dtype = DType::f64})).dtype(), DType::f64);
  EXPECT_EQ(softmax(ones({2, 2}, {.dtype = DType::f64})).dtype(), DType::f64);
  EXPECT_EQ(add(arange(0, 3), arange(0, 3)).dtype(), DType::i64);
}

TEST(Autocast, ClassesDecideDtypes) {
  for (const auto& [dtype, other] : {std::pair{DType::bf16, DType::f16}, {DType::f16, DType::bf16}}) {
    const Tensor x = ones({2, 2}), low = ones({2, 2}, {.dtype = dtype}), foreign = ones({2, 2}, {.dtype = other});
    const amp::Autocast autocast(dtype);
    EXPECT_EQ(matmul(x, x).dtype(), dtype);
    EXPECT_EQ(matmul(x, low).dtype(), dtype);
    EXPECT_EQ(matmul(foreign, low).dtype(), dtype);
    EXPECT_EQ(softmax(low).dtype(), DType::f32);
    EXPECT_EQ(exp(low).dtype(), DType::f32);
    EXPECT_EQ(sum(low).dtype(), DType::f32);
    EXPECT_EQ((x + low).dtype(), DType::f32);
    EXPECT_EQ((low + low).dtype(), dtype);
    EXPECT_EQ((foreign + low).dtype(), DType::f32);
    EXPECT_EQ(relu(low).dtype(), dtype);
    EXPECT_EQ(relu(x).dtype(), DType::f32);
  }
}

// 1 + 2^-9 has 10 significant bits: f16 keeps it, bf16 rounds it to 1.
TEST(Autocast, InputsAreRoundedToItsFormat) {
  const Tensor x = full({1, 1}, 1 + 0x1p-9), one = ones({1, 1});
  for (const auto& [dtype, expected] : {std::pair{DType::f16, 1 + 0x1p-9F}, {DType::bf16, 1.0F}}) {
    const amp::Autocast autocast(dtype);
    EXPECT_EQ(matmul(x, one).item<float>(), expected) << to_text(dtype);
  }
}

TEST(Autocast, BansBinaryCrossEntropy) {
  const std::string start = "binary_cross_entropy: not under autocast; use bce_with_logits";
  for (const DType dtype : {DType::f16, DType::bf16}) {
    const amp::Autocast autocast(dtype);
    for (const DType given : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
      const Tensor p = full({3}, 0.5, {.dtype = given});
      expect_error([&] { binary_cross_entropy(p, p); }, start, "autocast is on with " + to_text(dtype));
    }
    const Tensor p = full({3}, 0.5);
    EXPECT_EQ(bce_with_logits(p, p).dtype(), DType::f32);
    const amp::Autocast off(DType::f32);
    EXPECT_EQ(binary_cross_entropy(p, p).dtype(), DType::f32);
  }
  EXPECT_FLOAT_EQ(binary_cross_entropy(full({3}, 0.5), ones({3})).item<float>(), 0.6931472F);
}

TEST(CastCache, ParameterIsCastOncePerRegion) {
  const Tensor weight = exposed(randn({4, 4}, {.requires_grad = true})), x = randn({2, 4});
  SecondInputs observer;
  const ObserverScope watching(observer);
  {
    const amp::Autocast autocast(DType::bf16);
    linear(x, weight);
    {
      const amp::Autocast inner(DType::bf16);
      linear(x, weight);
    }
    linear(x, weight);
  }
  ASSERT_EQ(observer.seen.size(), 3U);
  EXPECT_EQ(observer.seen[0].dtype(), DType::bf16);
  EXPECT_TRUE(observer.seen[0].shares_memory_with(observer.seen[1]));
  EXPECT_TRUE(observer.seen[0].shares_memory_with(observer.seen[2]));
  const amp::Autocast again(DType::bf16);
  linear(x, weight);
  EXPECT_FALSE(observer.seen[0].shares_memory_with(observer.seen[3])) << "the cache outlived its region";
}

TEST(CastCache, EndsWithTheOutermostScope) {
  Tensor weight = exposed(ones({2, 2}, {.requires_grad = true}));
  const std::weak_ptr<TensorImpl> alive = weight.shared_impl();
  {
    const amp::Autocast outer(DType::bf16);
    {
      const amp::Autocast inner(DType::bf16);
      linear(ones({1, 2}), weight);
    }
    {
      const amp::Autocast off(DType::bf16, false);
    }
    EXPECT_EQ(autocast_state().cache.size(), 1U) << "an inner scope emptied it";
    weight = {};
    EXPECT_FALSE(alive.expired()) << "its address is the key: it must not be used again";
  }
  EXPECT_TRUE(autocast_state().cache.empty());
  EXPECT_TRUE(alive.expired());
}

// Only what a training loop casts again and again is worth keeping: f32 leaves with gradients.
TEST(CastCache, HoldsParametersOnly) {
  const Tensor weight = exposed(ones({2, 2}, {.requires_grad = true})), data = ones({2, 2});
  const amp::Autocast autocast(DType::f16);
  linear(data, data);                                               // no gradients
  linear(data, weight * 2.0);                                       // not a leaf
  linear(data, ones({2, 2}, {.dtype = DType::bf16, .requires_grad = true}));
  softmax(ones({2, 2}, {.dtype = DType::bf16, .requires_grad = true}));  // cast to f32, not to the autocast dtype
  EXPECT_TRUE(autocast_state().cache.empty());
  linear(data, weight);
  EXPECT_EQ(autocast_state().cache.size(), 1U);
}

TEST(CastCache, InPlaceChangesInvalidate) {
  Tensor weight = exposed(ones({2, 2}, {.requires_grad = true}));
  const Tensor x = ones({1, 2});
  optim::SGD sgd({weight}, {.lr = 1});
  const amp::Autocast autocast(DType::bf16);
  const auto result = [&] { return linear(x, weight).to_vector<float>(); };
  EXPECT_EQ(result(), (std::vector<float>{2, 2}));
  const NoGrad guard;
  weight.fill_(3);
  EXPECT_EQ(result(), (std::vector<float>{6, 6}));
  weight.copy_(full({2, 2}, 4));
  EXPECT_EQ(result(), (std::vector<float>{8, 8}));
  weight.detach().select(0, 1).mul_(2);  // through a view
  EXPECT_EQ(result(), (std::vector<float>{8, 16}));
  weight.set_grad(ones({2, 2}));
  sgd.step();
  EXPECT_EQ(result(), (std::vector<float>{6, 14}));
}

TEST(CastCache, OtherDtypeIsCastAnew) {
  const Tensor weight = full({1, 1}, 1 + 0x1p-9, {.requires_grad = true}), x = ones({1, 1});
  const amp::Autocast outer(DType::f16);
  EXPECT_EQ(linear(x, weight).item<float>(), 1 + 0x1p-9F);
  {
    const amp::Autocast inner(DType::bf16);
    EXPECT_EQ(linear(x, weight).dtype(), DType::bf16);
    EXPECT_EQ(linear(x, weight).item<float>(), 1);
  }
  EXPECT_EQ(linear(x, weight).item<float>(), 1 + 0x1p-9F);
}

TEST(CastCache, GradientsReachTheParameterThroughTheCache) {
  const Tensor weight = ones({2, 2}, {.requires_grad = true});
  Tensor loss;
  {
    const amp::Autocast autocast(DType::f16);
    loss = sum(linear(ones({1, 2}), weight)) + sum(linear(full({1, 2}, 2), weight));
  }
  loss.backward();
  EXPECT_EQ(weight.grad().dtype(), DType::f32);
  EXPECT_EQ(weight.grad().to_vector<float>(), std::vector<float>(4, 3));
}

TEST(CastCache, EvaluationThenTrainingInOneRegion) {
  const Tensor weight = ones({2, 2}, {.requires_grad = true});
  const amp::Autocast autocast(DType::bf16);
  {
    const NoGrad guard;
    linear(ones({1, 2}), weight);
  }
  sum(linear(ones({1, 2}), weight)).backward();
  ASSERT_TRUE(weight.grad()) << "a cast made under NoGrad cut the parameter off";
  EXPECT_EQ(weight.grad().to_vector<float>(), std::vector<float>(4, 1));
}

// conv1d sees its weight through a view; the gradient must not be rounded to autocast's 16 bits on the way back.
TEST(Gradients, OfAParameterSeenThroughAViewStayInFp32) {
  const Tensor weight = ones({1, 1, 1}, {.requires_grad = true}), x = ones({1, 1, 257});
  {
    const amp::Autocast autocast(DType::bf16);
    sum(conv1d(x, weight)).backward();
  }
  EXPECT_EQ(weight.grad().item<float>(), 257);  // 256 in bf16
}

// Recomputation is a region of its own: its casts, and the activations it casts, go when it ends.
TEST(CastCache, ARecomputedCheckpointLeavesNothingBehind) {
  const Tensor weight = exposed(ones({2, 2}, {.requires_grad = true}));
  for (const bool inside : {false, true}) {
    std::optional<amp::Autocast> autocast(std::in_place, DType::bf16);
    const Tensor x = ones({1, 2}, {.requires_grad = true}) * 2.0;
    const Tensor loss = sum(checkpoint([&](const Tensors& in) { return linear(in[0], weight); }, {x}));
    const std::size_t before = autocast_state().cache.size();
    if (!inside) autocast.reset();
    loss.backward();
    EXPECT_EQ(autocast_state().cache.size(), inside ? before : 0) << (inside ? "inside" : "outside");
  }
}

}  // namespace

}  // namespace binade::test
