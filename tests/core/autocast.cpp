// Autocast: scopes, what is touched, and the cache of cast parameters.
#include <gtest/gtest.h>

#include <map>
#include <stdexcept>

#include "binade/core/amp/autocast.h"
#include "binade/core/autograd/observer.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/expect_error.h"

namespace binade::test {

namespace {

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
  try {
    const amp::Autocast scope(DType::f16);
    throw std::runtime_error("leaves the scope");
  } catch (const std::runtime_error&) {
  }
  EXPECT_FALSE(amp::autocast_enabled());
  expect_error([] { const amp::Autocast wrong(DType::i64); }, "Autocast: ");
  expect_error([] { const amp::Autocast wrong(DType::f64); }, "Autocast: ");
}

TEST(Autocast, LeavesDoublesAndIntegersAlone) {
  const amp::Autocast autocast(DType::bf16);
  EXPECT_EQ(matmul(ones({2, 2}, {.dtype = DType::f64}), ones({2, 2}, {.dtype = DType::f64})).dtype(), DType::f64);
  EXPECT_EQ(softmax(ones({2, 2}, {.dtype = DType::f64})).dtype(), DType::f64);
  EXPECT_EQ(add(arange(0, 3), arange(0, 3)).dtype(), DType::i64);
}

TEST(Autocast, ClassesDecideDtypes) {
  const Tensor x = ones({2, 2}), low = ones({2, 2}, {.dtype = DType::bf16});
  const amp::Autocast autocast(DType::bf16);
  EXPECT_EQ(matmul(x, x).dtype(), DType::bf16);
  EXPECT_EQ(matmul(x, low).dtype(), DType::bf16);
  EXPECT_EQ(softmax(low).dtype(), DType::f32);
  EXPECT_EQ(exp(low).dtype(), DType::f32);
  EXPECT_EQ(sum(low).dtype(), DType::f32);
  EXPECT_EQ((x + low).dtype(), DType::f32);
  EXPECT_EQ((low + low).dtype(), DType::bf16);
  EXPECT_EQ(relu(low).dtype(), DType::bf16);
  EXPECT_EQ(relu(x).dtype(), DType::f32);
}

TEST(CastCache, ParameterIsCastOncePerRegion) {
  const Tensor weight = randn({4, 4}, {.requires_grad = true}), x = randn({2, 4});
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

TEST(CastCache, InPlaceChangeInvalidates) {
  Tensor weight = ones({2, 2}, {.requires_grad = true});
  const Tensor x = ones({1, 2});
  const amp::Autocast autocast(DType::bf16);
  EXPECT_EQ(linear(x, weight).to_vector<float>(), (std::vector<float>{2, 2}));
  {
    const NoGrad guard;
    weight.fill_(3);
  }
  EXPECT_EQ(linear(x, weight).to_vector<float>(), (std::vector<float>{6, 6}));
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

}  // namespace

}  // namespace binade::test
