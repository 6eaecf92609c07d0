// Tensors: factories, values in and out, views, in-place changes, printing, memory, and the errors of all these.
#include <gtest/gtest.h>

#include <cmath>

#include "binade/core/backend/memory.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/expect_error.h"

namespace binade::test {

namespace {

constexpr DType all_dtypes[] = {DType::f64,    DType::f32, DType::f16, DType::bf16, DType::f8e4m3,
                                DType::f8e5m2, DType::i64, DType::i32, DType::u8,   DType::boolean};

TEST(Tensors, FactoriesFill) {
  for (const DType dtype : all_dtypes) {
    EXPECT_EQ(zeros({2, 3}, {.dtype = dtype}).to_vector<double>(), std::vector<double>(6, 0)) << name(dtype);
    EXPECT_EQ(ones({2, 3}, {.dtype = dtype}).to_vector<double>(), std::vector<double>(6, 1)) << name(dtype);
    EXPECT_EQ(ones({0, 3}, {.dtype = dtype}).numel(), 0);
    EXPECT_EQ(scalar_tensor(1, {.dtype = dtype}).dim(), 0);
  }
  EXPECT_EQ(full({2}, 2.5).to_vector<double>(), std::vector<double>(2, 2.5));
  EXPECT_EQ(arange(2, 9, 3).to_vector<std::int64_t>(), (std::vector<std::int64_t>{2, 5, 8}));
  EXPECT_EQ(arange(1, 0, -0.25, {.dtype = DType::f32}).to_vector<double>(), (std::vector<double>{1, .75, .5, .25}));
  EXPECT_EQ(arange(3, 3).numel(), 0);
}

TEST(Tensors, VectorsGoInAndOut) {
  const std::vector<float> values{1, 2.5F, -3};
  EXPECT_EQ(from_vector(values, {3}).to_vector<float>(), values);
  EXPECT_EQ(from_vector(values, {3, 1}, {.dtype = DType::f64}).to_vector<float>(), values);
  EXPECT_EQ(from_vector<std::int64_t>({1, 2}, {2}).dtype(), DType::i64);
  EXPECT_EQ(from_vector(values, {3}, {.requires_grad = true}).requires_grad(), true);
  EXPECT_EQ(scalar_tensor(4).item<int>(), 4);
  expect_error([&] { from_vector(values, {2}); }, "from_vector: ");
  expect_error([&] { from_vector(values, {3}).item<float>(); }, "item: ");
}

TEST(Tensors, TransposedValuesAreReadRowMajor) {
  const Tensor x = arange(0, 6).reshape({2, 3}).t();
  EXPECT_FALSE(x.is_contiguous());
  EXPECT_EQ(x.to_vector<std::int64_t>(), (std::vector<std::int64_t>{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(x.at(1), 3);
  EXPECT_EQ(x.contiguous().to_vector<std::int64_t>(), x.to_vector<std::int64_t>());
  expect_error([&] { x.data<std::int64_t>(); }, "data: ");
  expect_error([&] { x.contiguous().data<float>(); }, "data: ");
}

TEST(Tensors, ViewsShareMemory) {
  Tensor x = zeros({4, 6});
  for (const Tensor& view :
       {x.t(), x.reshape({3, 8}), x.slice(1, 1, 5, 2), x.select(0, 2), x.unsqueeze(1), x.view({24}), x.narrow(0, 1, 2),
        x.permute({1, 0}), x.flatten(), x.detach(), x.expand({2, 4, 6})})
    EXPECT_TRUE(view.shares_memory_with(x));
  EXPECT_FALSE(x.clone().shares_memory_with(x));
  EXPECT_FALSE(x.t().reshape({24}).shares_memory_with(x));
  x.select(0, 1).fill_(7);
  EXPECT_EQ(x.at(6), 7);
  EXPECT_EQ(x.at(5), 0);
  expect_error([&] { x.t().view({24}); }, "view: ");
}

TEST(Tensors, ViewsOfOddShapes) {
  const Tensor x = arange(0, 24).reshape({2, 3, 4});
  EXPECT_EQ(x.select(1, -1).to_vector<std::int64_t>(), (std::vector<std::int64_t>{8, 9, 10, 11, 20, 21, 22, 23}));
  EXPECT_EQ(x.slice(2, -3, 100, 2).shape(), (Shape{2, 3, 2}));
  EXPECT_EQ(x.slice(0, 2, 1).numel(), 0);
  EXPECT_EQ(zeros({}).reshape({1, 1}).squeeze().dim(), 0);
  EXPECT_EQ(zeros({0, 4}).reshape({2, 0}).shape(), (Shape{2, 0}));
  EXPECT_EQ(zeros({3, 1, 2}).squeeze(1).shape(), (Shape{3, 2}));
  EXPECT_EQ(zeros({3, 1, 2}).squeeze(0).shape(), (Shape{3, 1, 2}));
  EXPECT_EQ(x.flatten(1).shape(), (Shape{2, 12}));
  EXPECT_EQ(x.t().shape(), (Shape{2, 4, 3}));
}

TEST(Tensors, InPlaceChanges) {
  Tensor x = from_vector<float>({1, 2, 3, 4}, {2, 2});
  x.add_(from_vector<float>({10, 20}, {2}), 2);
  EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{21, 42, 23, 44}));
  x.mul_(0.5);
  EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{10.5F, 21, 11.5F, 22}));
  x.copy_(scalar_tensor(3, {.dtype = DType::f64}));
  EXPECT_EQ(x.to_vector<float>(), std::vector<float>(4, 3));
  x.t().copy_(from_vector<std::int32_t>({1, 2, 3, 4}, {2, 2}));
  EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{1, 3, 2, 4}));
  x.set(3, -1);
  EXPECT_EQ(x.zero_().to_vector<float>(), std::vector<float>(4, 0));
  expect_error([&] { x.copy_(zeros({3})); }, "copy_: ");
  expect_error([&] { x.add_(zeros({2, 2, 2})); }, "add_: ");
  expect_error([&] { x.at(4); }, "at: ");
}

TEST(Tensors, MultiplyingInPlaceRoundsOnce) {
  Tensor x = from_vector<float>({1, 3, INFINITY, -INFINITY}, {4});
  x.mul_(1e-10);
  EXPECT_EQ(x.to_vector<float>()[0], 1e-10F);
  EXPECT_EQ(x.to_vector<float>()[1], 3e-10F);
  EXPECT_EQ(x.to_vector<float>()[2], INFINITY);
  Tensor y = from_vector<float>({INFINITY, 3}, {2}).mul_(0.5);
  EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{INFINITY, 1.5F}));
}

TEST(Tensors, PrintingShowsShapeTypeAndValues) {
  const std::string text = to_string(from_vector<float>({1.5F, -2, 3, 4}, {2, 2}));
  EXPECT_EQ(text, "tensor [2, 2] f32 cpu\n[[1.5, -2],\n [3, 4]]");
  EXPECT_EQ(to_string(scalar_tensor(3, {.dtype = DType::i64})), "tensor [] i64 cpu 3");
  EXPECT_EQ(to_string(Tensor()), "tensor (undefined)");
  EXPECT_LT(to_string(zeros({1000, 1000})).size(), 500U);
  EXPECT_EQ(to_string(arange(0, 100)), "tensor [100] i64 cpu [0, 1, 2, …, 97, 98, 99]");
  EXPECT_EQ(to_string(zeros({0})), "tensor [0] f32 cpu []");
}

TEST(Tensors, UndefinedTensorsSaySo) {
  const Tensor none;
  EXPECT_FALSE(none);
  EXPECT_FALSE(TensorView(none));
  expect_error([&] { none.shape(); }, "shape: ");
  expect_error([&] { none.dtype(); }, "dtype: ");
  expect_error([&] { none.to_vector<float>(); }, "");
  expect_error([&] { none.backward(); }, "backward: ");
  expect_error([&] { Tensor().fill_(1); }, "fill_: ");
  expect_error([&] { zeros({2}).copy_(none); }, "copy_: ");
  expect_error([&] { zeros({2}).add_(none); }, "add_: ");
}

TEST(Tensors, ImpossibleShapesAreRefused) {
  expect_error([] { zeros({2, -1}); }, "empty: ");
  expect_error([] { zeros({1, 1, 1, 1, 1, 1, 1, 1, 1}); }, "shape: ");
  expect_error([] { empty({1LL << 40, 1LL << 40}); }, "");  // the product overflows 64 bits
  expect_error([] { empty({1LL << 45}); }, "memory: ");
  expect_error([] { zeros({1, 1, 1, 1, 1, 1, 1, 1}).unsqueeze(0); }, "");
}

TEST(Memory, StatisticsFollowTensors) {
  const MemoryStats before = memory_stats();
  {
    const MemoryTagScope tag(MemoryTag::data);
    const Tensor x = empty({1000});
    const MemoryStats during = memory_stats();
    const auto data = static_cast<std::size_t>(MemoryTag::data);
    EXPECT_GE(during.current[data], before.current[data] + 4000);
    EXPECT_GE(during.current_total, before.current_total + 4000);
    EXPECT_GE(during.peak_total, during.current_total);
    EXPECT_EQ(during.allocations, before.allocations + 1);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(TensorView(x).data) % 64, 0U);
  }
  EXPECT_EQ(memory_stats().current_total, before.current_total);
}

TEST(Memory, SteadyStateAsksTheSystemForNothing) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the address sanitizer must see every free, so blocks are not kept";
#endif
  const Tensor weight = randn({32, 32}, {.requires_grad = true});
  const auto step = [&] {
    Tensor w = weight;
    w.zero_grad();
    const Tensor x = randn({16, 32});
    sum(gelu(linear(x, weight)) * x).backward();
  };
  step();
  step();
  const MemoryStats before = memory_stats();
  for (int i = 0; i < 10; ++i) step();
  const MemoryStats after = memory_stats();
  EXPECT_GT(after.allocations, before.allocations);
  EXPECT_EQ(after.system_allocations, before.system_allocations);
  EXPECT_EQ(after.current_total, before.current_total);
}

TEST(Memory, CachedBlocksAreReleased) {
  { const Tensor x = empty({1 << 20}); }
  release_cached_memory();
  const MemoryStats stats = memory_stats();
  EXPECT_LE(stats.reserved, stats.current_total);
}

}  // namespace

}  // namespace binade::test
