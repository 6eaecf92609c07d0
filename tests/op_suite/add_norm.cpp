// A sum and the norm of it from one kernel: the bits of the operations one by one, forward and backward, in every
// combination of dtypes, and the same draws. Runs on the suite's device.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <optional>

#include "binade/core/amp/autocast.h"
#include "binade/core/autograd/observer.h"
#include "binade/core/backend/memory.h"
#include "binade/core/base/random.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/kernel_calls.h"
#include "binade/tests/core/test_device.h"

namespace binade::test {

namespace {

struct Case {
  Shape shape;
  DType residual = DType::f32, branch = DType::f32, result = DType::f32;
  std::optional<DType> autocast = {};
  double dropout = 0;
  bool weight = true, bias = true, rms = false, strided = false;
  DType parameters = DType::f32;
};
std::string to_text(const Case& c) {
  return binade::to_text(c.shape) + " " + binade::to_text(c.residual) + " + " + binade::to_text(c.branch) + " -> " +
         binade::to_text(c.result) + (c.autocast ? " autocast " + binade::to_text(*c.autocast) : "") + " dropout " +
         std::to_string(c.dropout) + (c.weight ? " weight" : "") + (c.bias ? " bias" : "") + (c.rms ? " rms" : "") +
         (c.strided ? " strided" : "") + " parameters " + binade::to_text(c.parameters);
}

NormedSum one_by_one(const Case& c, const Tensor& residual, const Tensor& branch, const Tensor& weight,
                     const Tensor& bias) {
  const Tensor sum = residual + dropout(branch, c.dropout);
  return {sum, c.rms ? rms_norm(sum, weight) : layer_norm(sum, weight, bias, 1e-5, c.result)};
}
NormedSum together(const Case& c, const Tensor& residual, const Tensor& branch, const Tensor& weight,
                   const Tensor& bias) {
  if (c.rms) return add_rms_norm(residual, branch, weight, {.dropout = c.dropout});
  return add_layer_norm(residual, branch, weight, bias, {.dropout = c.dropout, .dtype = c.result});
}

struct Outcome {
  Tensors tensors;  // sum, normed, gradients of residual, branch, weight, bias
  PhiloxState random;
  std::map<std::string, int> kernels;  // of forward
};
template <class Function>
Outcome outcome(const Case& c, const Function& function) {
  manual_seed(17);
  const Device device = test_device();
  const std::int64_t n = c.shape[c.shape.size() - 1];
  const auto drawn = [&](const Shape& shape, DType dtype) {
    return randn(shape).to(dtype).to(device).requires_grad_();
  };
  const auto as_stored = [&](const Tensor& x) {  // the same values, the last two dims swapped in memory
    return c.strided ? x.transpose(-1, -2).contiguous().transpose(-1, -2) : x;
  };
  const Tensor stream = drawn(c.shape, c.residual), update = drawn(c.shape, c.branch);
  const Tensor weight = c.weight ? drawn({n}, c.parameters) : Tensor(),
               bias = c.bias ? drawn({n}, c.parameters) : Tensor();
  const Tensor of_sum = randn(c.shape).to(device), of_normed = randn(c.shape).to(device);
  Outcome all;
  NormedSum made;
  {
    std::optional<amp::Autocast> autocast;
    if (c.autocast) autocast.emplace(*c.autocast);
    // Both are operations' results, as in a network: their gradients are sums.
    const Tensor residual = as_stored(stream * 2.0), branch = as_stored(update * 0.5);
    KernelCalls kernels;
    made = function(c, residual, branch, weight, bias);
    all.kernels = kernels.calls;
  }
  all.random = random_state();
  const Tensor total = made.sum * of_sum + made.normed * of_normed;
  total.backward(ones(c.shape, {.dtype = total.dtype(), .device = device}));
  all.tensors = {made.sum.detach(), made.normed.detach()};
  for (const Tensor& x : {stream, update, weight, bias}) all.tensors.push_back(x && x.grad() ? x.grad() : Tensor());
  return all;
}

void expect_equal(const Case& c, bool in_one_kernel) {
  const Outcome expected = outcome(c, one_by_one), got = outcome(c, together);
  const char* const names[] = {
      "sum", "normed", "residual's gradient", "branch's gradient", "weight's gradient", "bias's gradient"};
  for (std::size_t k = 0; k < expected.tensors.size(); ++k) {
    ASSERT_EQ(static_cast<bool>(got.tensors[k]), static_cast<bool>(expected.tensors[k]))
        << to_text(c) << ": " << names[k];
    if (!got.tensors[k]) continue;
    ASSERT_EQ(got.tensors[k].dtype(), expected.tensors[k].dtype()) << to_text(c) << ": " << names[k];
    const std::vector<double> a = got.tensors[k].to_vector<double>(), b = expected.tensors[k].to_vector<double>();
    const auto bits = std::bit_cast<std::uint64_t, double>;
    ASSERT_TRUE(std::ranges::equal(a, b, {}, bits, bits)) << to_text(c) << ": " << names[k];
    const bool zero = std::ranges::all_of(a, [](double x) { return x == 0; });
    EXPECT_FALSE(zero && c.shape.numel() > 1) << to_text(c) << ": " << names[k] << " is zero";
  }
  EXPECT_EQ(got.random.offset, expected.random.offset) << to_text(c);
  const std::map<std::string, int> one{{"add_norm", 1}};
  EXPECT_EQ(got.kernels == one, in_one_kernel) << to_text(c);
  EXPECT_FALSE(expected.kernels.contains("add_norm"));
}

constexpr DType all_dtypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16};
bool narrow(DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; }

class AddNorm : public ::testing::TestWithParam<double> {};  // dropout

TEST_P(AddNorm, EveryCombinationOfDtypes) {
  for (const DType residual : all_dtypes)
    for (const DType branch : all_dtypes)
      for (const std::optional<DType> autocast :
           {std::optional<DType>(), std::optional(DType::bf16), std::optional(DType::f16)})
        for (const bool rms : {false, true}) {
          Case c{.shape = {3, 4, 24},
                 .residual = residual,
                 .branch = branch,
                 .autocast = autocast,
                 .dropout = GetParam(),
                 .rms = rms};
          if (rms) c.bias = false;
          if (autocast) c.result = *autocast;
          // A 16-bit sum is cast by autocast before it is normed.
          expect_equal(c, !(autocast && narrow(promote_types(residual, branch))));
        }
}

TEST_P(AddNorm, ParametersAndShapes) {
  const double dropout = GetParam();
  for (const DType branch : {DType::f32, DType::bf16}) {
    for (const bool weight : {false, true})
      for (const bool bias : {false, true})
        for (const Shape& shape : {Shape{40}, Shape{5, 37}, Shape{1, 1}, Shape{2, 3, 1030}})
          expect_equal({.shape = shape, .branch = branch, .dropout = dropout, .weight = weight, .bias = bias}, true);
    // Rows of 100 kB are longer than a GPU's block keeps; 300 short ones are several chunks of the CPU's threads.
    expect_equal({.shape = {2, 25'000}, .branch = branch, .dropout = dropout}, true);
    expect_equal({.shape = {300, 8}, .branch = branch, .dropout = dropout, .bias = false, .rms = true}, true);
    expect_equal({.shape = {5, 16}, .branch = branch, .result = DType::bf16, .dropout = dropout}, true);
    for (const DType parameters : {DType::f64, DType::bf16})
      expect_equal({.shape = {5, 16}, .branch = branch, .dropout = dropout, .parameters = parameters}, true);
    expect_equal(
        {.shape = {5, 16}, .branch = branch, .autocast = DType::f16, .dropout = dropout, .parameters = DType::bf16},
        false);
    expect_equal({.shape = {5, 16}, .branch = branch, .dropout = dropout, .strided = true}, false);
  }
}

INSTANTIATE_TEST_SUITE_P(Samples, AddNorm, ::testing::Values(0.0, 0.3));

TEST(AddNormOnce, DropoutOfEverything) {
  const auto there = [](Shape shape) { return randn(shape).to(test_device()); };
  const Tensor residual = there({4, 16}), branch = there({4, 16});
  const NormedSum made = add_layer_norm(residual, branch, {}, {}, {.dropout = 1});
  EXPECT_EQ(made.sum.to_vector<float>(), residual.to_vector<float>());
  EXPECT_EQ(made.normed.to_vector<float>(), layer_norm(residual).to_vector<float>());
}

// Elements that lie where no vector starts: what is kept of a row is walked as the norm alone walks it.
TEST(AddNormOnce, AnyStart) {
  const auto one_on = [](std::int64_t rows, std::int64_t n, DType dtype) {
    return randn({rows * n + 1}).to(dtype).to(test_device()).narrow(0, 1, rows * n).view({rows, n});
  };
  for (const DType dtype : {DType::f32, DType::f16}) {
    manual_seed(19);
    const Tensor residual = one_on(3, 64, DType::f32), branch = one_on(3, 64, dtype);
    KernelCalls kernels;
    const NormedSum made = add_layer_norm(residual, branch);
    EXPECT_EQ(kernels.calls["add_norm"], 1);
    const Tensor sum = residual + branch;
    EXPECT_EQ(made.sum.to_vector<float>(), sum.to_vector<float>());
    EXPECT_EQ(made.normed.to_vector<float>(), layer_norm(sum).to_vector<float>());
  }
}

struct Doubles final : Observer {  // in place, each sum it sees
  void on_forward(const OpPtr& op, Inputs, const Tensor& output) override {
    const NoGrad guard;
    Tensor y = output;
    if (op->name() == "add") y.mul_(2.0);
  }
};
TEST(AddNormOnce, ASumThatWasChangedIsNormedAnew) {
  const auto there = [](Shape shape) { return randn(shape).to(test_device()); };
  const Tensor residual = there({4, 16}), branch = there({4, 16});
  Doubles doubles;
  const ObserverScope watching(doubles);
  const NormedSum made = add_layer_norm(residual, branch, {}, {}, {.eps = 1});
  EXPECT_EQ(made.normed.to_vector<float>(), layer_norm(made.sum, {}, {}, 1).to_vector<float>());
}

// The recorded sum does not hold on to the norm's results, nor to its parameters.
TEST(AddNormOnce, TheSumKeepsNothingOfTheNorm) {
  const Device device = test_device();
  const auto there = [&](Shape shape) { return randn(shape).to(device).requires_grad_(); };
  const Tensor residual = there({64, 256}), branch = there({64, 256});
  Tensor weight = there({256});
  const auto held = [&] { return memory_stats(device).current_total; };
  const std::size_t before = held();
  const Tensor alone = residual + branch;
  const std::size_t of_sum = held() - before;
  NormedSum made = add_layer_norm(residual, branch, weight);
  const std::size_t with_norm = held();
  made.normed = {};
  EXPECT_LE(held(), before + 2 * of_sum + 1024) << "of " << with_norm - before << " with the norm";
  EXPECT_EQ(weight.shared_impl().use_count(), 1);
}

}  // namespace

}  // namespace binade::test
