// The engine: accumulation, misuse, hooks, long chains, sharing, FP32 gradients.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "binade/core/amp/autocast.h"
#include "binade/core/autograd/after_backward.h"
#include "binade/core/autograd/checkpoint.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/expect_error.h"

namespace binade::test {

namespace {

Tensor leaf(const std::vector<float>& values) {
  return from_vector(values, {static_cast<std::int64_t>(values.size())}, {.requires_grad = true});
}
using Floats = std::vector<float>;

TEST(Backward, ProductRule) {
  const Tensor x = leaf({2, 3}), y = leaf({5, -1});
  sum(x * y).backward();
  EXPECT_EQ(x.grad().to_vector<float>(), (Floats{5, -1}));
  EXPECT_EQ(y.grad().to_vector<float>(), (Floats{2, 3}));
}

TEST(Backward, ASumOfEqualShapesKeepsNoMemory) {
  const Tensor x = leaf({1, 2}), row = ones({2, 2}, {.requires_grad = true});
  const auto allocations_of = [](const auto& add) {
    const std::uint64_t before = memory_stats().allocations;
    const Tensor y = add();
    return memory_stats().allocations - before;
  };
  EXPECT_EQ(allocations_of([&] { return x + x; }), 1U);    // the result
  EXPECT_GT(allocations_of([&] { return x + row; }), 1U);  // and the shape of what is broadcast
  sum((x + row) - x).backward();
  EXPECT_EQ(x.grad().to_vector<float>(), (Floats{0, 0}));
  EXPECT_EQ(row.grad().to_vector<float>(), (Floats{1, 1, 1, 1}));
}

// Kernels add to all targets of a call at once: none may be among them twice.
TEST(Backward, BiasGradientsAreAddedTogetherEachTargetOnce) {
  static std::vector<std::size_t> calls;
  static auto* const original = kernel::add_all.function(DeviceType::cpu);
  kernel::add_all.provide(DeviceType::cpu, [](std::span<const kernel::SumItem> items) {
    std::set<const std::byte*> targets;
    for (const kernel::SumItem& item : items) EXPECT_TRUE(targets.insert(item.y.data).second);
    calls.push_back(items.size());
    original(items);
  });
  const Tensor x = ones({3, 2}), weight = ones({2, 2}, {.requires_grad = true});
  const Tensor first = ones({2}, {.requires_grad = true}), second = ones({2}, {.requires_grad = true});
  for (int pass = 0; pass < 2; ++pass)
    sum(linear(linear(linear(x, weight, first), weight, second), weight, first)).backward();
  kernel::add_all.provide(DeviceType::cpu, original);
  // The second use of `first` in the first pass; in the second pass two of `first`, between which `second` is.
  EXPECT_EQ(calls, (std::vector<std::size_t>{1, 2, 1}));
  EXPECT_EQ(first.grad().to_vector<float>(), std::vector<float>(2, 2 * (3 + 12)));
  EXPECT_EQ(second.grad().to_vector<float>(), std::vector<float>(2, 2 * 6));
}

TEST(Backward, GradientsAccumulateUntilZeroed) {
  Tensor x = leaf({1, 2});
  EXPECT_FALSE(x.grad());
  sum(x * x).backward();
  sum(x * x).backward();
  EXPECT_EQ(x.grad().to_vector<float>(), (Floats{4, 8}));
  const Tensor memory = x.grad();
  x.zero_grad();
  EXPECT_FALSE(x.grad());
  sum(x * 3.0).backward();  // overwrites what is stale, in the same memory
  EXPECT_EQ(x.grad().to_vector<float>(), (Floats{3, 3}));
  EXPECT_TRUE(x.grad().shares_memory_with(memory));
}

TEST(Backward, StaleNanDoesNotLeakIntoTheNextGradient) {
  Tensor x = leaf({1, 2});
  sum(x * from_vector<float>({NAN, INFINITY}, {2})).backward();
  x.zero_grad();
  sum(x * x).backward();
  EXPECT_EQ(x.grad().to_vector<float>(), (Floats{2, 4}));
}

TEST(Backward, OneInputUsedTwice) {
  const Tensor x = leaf({3});
  (x * x * x).backward();
  EXPECT_EQ(x.grad().item<float>(), 27);
  const Tensor a = leaf({1, 2}), b = a + a;
  sum(b * b).backward();  // (2a)^2
  EXPECT_EQ(a.grad().to_vector<float>(), (Floats{8, 16}));
}

TEST(Backward, GivenGradient) {
  const Tensor x = leaf({1, 2});
  (x * 2.0).backward(from_vector<float>({10, 100}, {2}));
  EXPECT_EQ(x.grad().to_vector<float>(), (Floats{20, 200}));
  expect_error([&] { (x * 2.0).backward(ones({3})); }, "backward: ", "[3]");
}

TEST(Backward, MisuseIsExplained) {
  const Tensor x = leaf({1, 2});
  expect_error([&] { (x * 2.0).backward(); }, "backward: ", "scalar");
  expect_error([&] { sum(ones({2})).backward(); }, "backward: ", "require");
  expect_error([] { arange(0, 3).requires_grad_(); }, "requires_grad_: ");
  expect_error([] { zeros({2}, {.dtype = DType::i64, .requires_grad = true}); }, "requires_grad_: ");
  expect_error([] { zeros({2}, {.dtype = DType::f8e4m3}).requires_grad_(); }, "requires_grad_: ");
  expect_error([&] { (x * 2.0).requires_grad_(false); }, "requires_grad_: ");
  expect_error([&] { ones({2}).register_hook([](const Tensor& g) { return g; }); }, "register_hook: ");
  expect_error([&] { Tensor(x).set_grad(zeros({3})); }, "set_grad: ");
}

TEST(Backward, FreedGraphIsAnError) {
  const Tensor x = leaf({2});
  const Tensor y = x * x;
  y.backward();
  expect_error([&] { y.backward(); }, "backward: ", "retain_graph");
  EXPECT_EQ(x.grad().item<float>(), 4);
}

TEST(Backward, RetainedGraphRunsAgain) {
  const Tensor x = leaf({2});
  const Tensor y = x * x;
  y.backward({}, {.retain_graph = true});
  y.backward({}, {.retain_graph = true});
  y.backward();
  EXPECT_EQ(x.grad().item<float>(), 12);
}

TEST(Backward, FailedPassLeavesNothingBehind) {
  const Tensor x = leaf({2});
  Tensor w = leaf({3});
  int calls = 0;
  w.register_hook([&](const Tensor&) {
    ++calls;
    return Tensor();
  });
  const Tensor shared = x * x;
  sum(shared).backward();
  expect_error([&] { sum(shared * w).backward(); }, "backward: ", "freed");
  EXPECT_FALSE(w.grad());
  sum(w * w).backward();
  EXPECT_EQ(w.grad().item<float>(), 6);
  EXPECT_EQ(calls, 1) << "the failed pass left the leaf waiting";
}

TEST(Backward, ChangeOfASavedTensorIsAnError) {
  const Tensor x = leaf({2, 3});
  Tensor factor = ones({2});
  const Tensor y = sum(x * factor);
  factor.add_(ones({2}));
  expect_error([&] { y.backward(); }, "backward: ", "mul");

  Tensor weight = leaf({1, 2});
  const Tensor z = sum(weight * weight);
  {
    const NoGrad guard;
    weight.mul_(2);
  }
  expect_error([&] { z.backward(); }, "backward: ", "in place");
}

TEST(Backward, ChangeThroughAViewIsNoticed) {
  const Tensor x = leaf({2, 3});
  Tensor factor = ones({4});
  const Tensor y = sum(x * factor.narrow(0, 0, 2));
  factor.select(0, 0).fill_(5);
  expect_error([&] { y.backward(); }, "backward: ", "in place");
}

TEST(InPlace, RefusedForTensorsThatRequireGradients) {
  Tensor x = leaf({1, 2});
  expect_error([&] { x.fill_(1); }, "fill_: ", "NoGrad");
  expect_error([&] { x.add_(ones({2})); }, "add_: ", "NoGrad");
  expect_error([&] { x.mul_(2); }, "mul_: ", "NoGrad");
  expect_error([&] { x.copy_(ones({2})); }, "copy_: ", "NoGrad");
  expect_error([&] { x.uniform_(0, 1); }, "uniform_: ", "NoGrad");
  expect_error([&] { x.normal_(0, 1); }, "normal_: ", "NoGrad");
  expect_error([&] { x.set(0, 1); }, "set: ", "NoGrad");
  const NoGrad guard;
  x.fill_(4);
  EXPECT_EQ(x.to_vector<float>(), (Floats{4, 4}));
}

TEST(Recording, NoGradRecordsNothing) {
  const Tensor x = leaf({1});
  {
    const NoGrad guard;
    EXPECT_FALSE(grad_enabled());
    EXPECT_FALSE((x * x).requires_grad());
    {
      const GradMode on(true);
      EXPECT_TRUE((x * x).requires_grad());
    }
    EXPECT_FALSE(grad_enabled());
  }
  EXPECT_TRUE(grad_enabled());
  EXPECT_FALSE((x.detach() * 2.0).requires_grad());
  EXPECT_FALSE(eq(x, x).requires_grad());
  EXPECT_TRUE((x * x).requires_grad());
  EXPECT_FALSE((x * x).is_leaf());
  EXPECT_TRUE(x.is_leaf());
}

TEST(Recording, DetachedPartsGetNoGradient) {
  const Tensor x = leaf({3});
  (x * x.detach()).backward();
  EXPECT_EQ(x.grad().item<float>(), 3);
}

TEST(Hooks, LeafHookRunsOnceWhenTheGradientIsFinal) {
  Tensor x = leaf({2});
  std::vector<float> seen;
  x.register_hook([&](const Tensor& grad) {
    seen.push_back(grad.item<float>());
    return Tensor();
  });
  (x * x + x * 3.0 + exp(x * 0.0)).backward();
  EXPECT_EQ(seen, (Floats{7}));
}

TEST(Hooks, LeafHookMayReplace) {
  Tensor x = leaf({2});
  x.register_hook([](const Tensor& grad) { return grad * 10.0; });
  (x * x).backward();
  EXPECT_EQ(x.grad().item<float>(), 40);
}

TEST(Hooks, InnerHookSeesAndReplaces) {
  Tensor x = leaf({2});
  Tensor y = x * 3.0;
  float seen = 0;
  y.register_hook([&](const Tensor& grad) {
    seen = grad.item<float>();
    return grad * 2.0;
  });
  (y * y).backward();
  EXPECT_EQ(seen, 12);
  EXPECT_EQ(x.grad().item<float>(), 72);
}

TEST(Hooks, HookOfOneLeafRunsBeforeEarlierOperationsAreReached) {
  Tensor early = leaf({2}), late = leaf({3});
  std::vector<std::string> order;
  early.register_hook([&](const Tensor&) {
    order.emplace_back("early");
    return Tensor();
  });
  late.register_hook([&](const Tensor&) {
    order.emplace_back("late");
    return Tensor();
  });
  ((early * early) * late).backward();
  EXPECT_EQ(order, (std::vector<std::string>{"late", "early"}));
}

TEST(Chains, HundredThousandAdditions) {
  const Tensor x = leaf({1});
  Tensor y = x;
  const Tensor one = ones({1});
  for (int i = 0; i < 100000; ++i) y = y + one;
  EXPECT_EQ(y.item<float>(), 100001);
  y.backward();
  EXPECT_EQ(x.grad().item<float>(), 1);
}

TEST(Chains, UnusedLongGraphIsDestroyedWithoutRecursion) {
  const Tensor x = leaf({1});
  Tensor y = x;
  for (int i = 0; i < 100000; ++i) y = y + x;
  y = Tensor();
}

TEST(Sharing, WeightOfTwoOperations) {
  const Tensor weight = from_vector<float>({1, 2, 3, 4}, {2, 2}, {.requires_grad = true});
  const Tensor x = from_vector<float>({1, 1}, {1, 2});
  // sum(W x) + sum(W^T x): each element of W is met once in each product.
  (sum(linear(x, weight)) + sum(matmul(x, weight))).backward();
  EXPECT_EQ(weight.grad().to_vector<float>(), Floats(4, 2));
}

// 1 + 2^-13 needs more bits than f16 or bf16 have.
TEST(FullPrecisionGradients, LeavesAccumulateInF32UnderAutocast) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    const Tensor weight = ones({1, 1}, {.requires_grad = true});
    {
      const amp::Autocast autocast(dtype);
      const Tensor a = linear(full({1, 1}, 1), weight), b = linear(full({1, 1}, 0x1p-13), weight);
      (a.to(DType::f32) + b.to(DType::f32)).backward(ones({1, 1}));
    }
    ASSERT_EQ(weight.grad().dtype(), DType::f32);
    EXPECT_EQ(weight.grad().item<float>(), 1 + 0x1p-13F) << name(dtype) << ": two products";

    const Tensor other = ones({1, 1}, {.requires_grad = true});
    {
      const amp::Autocast autocast(dtype);
      sum(linear(from_vector<float>({1, 0x1p-13F}, {2, 1}), other)).backward();
    }
    EXPECT_EQ(other.grad().item<float>(), 1 + 0x1p-13F) << name(dtype) << ": one product";
  }
}

TEST(FullPrecisionGradients, LowPrecisionLeavesKeepTheirDtype) {
  const Tensor x = ones({2, 2}, {.dtype = DType::bf16, .requires_grad = true});
  sum(matmul(x, x)).backward();
  EXPECT_EQ(x.grad().dtype(), DType::bf16);
  EXPECT_EQ(x.grad().to_vector<float>(), Floats(4, 4));
}

TEST(MixedDtypes, GradientsReturnInTheInputsDtype) {
  const Tensor a = ones({2}, {.dtype = DType::f16, .requires_grad = true});
  const Tensor b = ones({2}, {.dtype = DType::f64, .requires_grad = true});
  sum(a * b).backward();
  EXPECT_EQ(a.grad().dtype(), DType::f16);
  EXPECT_EQ(b.grad().dtype(), DType::f64);
  const Tensor row = ones({3}, {.requires_grad = true}),
               scalar = ones({}, {.dtype = DType::f64, .requires_grad = true});
  const Tensor y = row * scalar;
  EXPECT_EQ(y.dtype(), DType::f32);
  sum(y).backward();
  EXPECT_EQ(scalar.grad().dtype(), DType::f64);
  EXPECT_EQ(scalar.grad().item<double>(), 3);
}

}  // namespace

TEST(AfterBackward, RunsOnceAllGradientsAreThere) {
  Tensor a = ones({2}, {.requires_grad = true}), b = ones({2}, {.requires_grad = true});
  std::vector<std::string> events;
  std::uint64_t pass = 0;
  const auto hook = [&](const Tensor&) {
    if (events.empty()) {
      pass = backward_pass();
      after_backward([&] { events.push_back(a.grad() && b.grad() ? "end" : "early"); });
    }
    events.push_back("gradient");
    return Tensor();
  };
  a.register_hook(hook), b.register_hook(hook);
  sum(a * b).backward();
  EXPECT_EQ(events, (std::vector<std::string>{"gradient", "gradient", "end"}));
  EXPECT_EQ(backward_pass(), 0U);
  events.clear();
  const std::uint64_t first = pass;
  sum(a * b).backward();
  EXPECT_EQ(pass, first + 1);
  expect_error([] { after_backward([] {}); }, "after_backward: no backward pass is in progress");
}

TEST(AfterBackward, BelongsToTheOutermostPass) {  // checkpoint() runs a backward inside of backward
  Tensor a = ones({2}, {.requires_grad = true}), b = ones({2}, {.requires_grad = true});
  bool b_was_there = false;
  a.register_hook([&](const Tensor&) {
    after_backward([&] { b_was_there = b.grad().defined(); });
    return Tensor();
  });
  const Tensor y = checkpoint([&](const Tensors& in) { return a * in[0]; }, {b * 2.0});
  sum(y).backward();
  EXPECT_TRUE(b_was_there);
}

TEST(AfterBackward, ThrowsOutOfBackwardAndIsForgottenByAFailedPass) {
  Tensor a = ones({2}, {.requires_grad = true});
  bool failing = true;
  int ran = 0;
  a.register_hook([&](const Tensor&) -> Tensor {
    after_backward([&] { ++ran; });
    if (failing) fail({"the hook failed"});
    return {};
  });
  expect_error([&] { sum(a * 2.0).backward(); }, "the hook failed");
  failing = false;
  EXPECT_EQ(ran, 0);
  sum(a * 2.0).backward();
  EXPECT_EQ(ran, 1);
  Tensor b = ones({2}, {.requires_grad = true});
  b.register_hook([](const Tensor&) {
    after_backward([] { fail({"too late"}); });
    return Tensor();
  });
  expect_error([&] { sum(b).backward(); }, "too late");
}

}  // namespace binade::test
