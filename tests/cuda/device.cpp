// The CUDA backend on whatever device its plugin offers: a GPU, or the simulated device that BINADE_CUDA_PLUGIN names.
// Skipped where there is none. The operation suite judges each operation; here are the things it does not reach.
#include <gtest/gtest.h>

#include <cmath>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/formulas.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/cuda/compare.h"

namespace binade::test {

namespace {

constexpr DType all_dtypes[] = {DType::f64,    DType::f32, DType::f16, DType::bf16, DType::f8e4m3,
                                DType::f8e5m2, DType::i64, DType::i32, DType::u8,   DType::boolean};

TEST_F(CudaDevice, TransfersKeepEveryByte) {
  for (const std::int64_t count : {1, 7, 300'000, 5'000'000}) {  // within a slot, several slots, more than all of them
    const Tensor x = randint(0, 1 << 30, {count}, {.dtype = DType::i32});
    EXPECT_EQ(x.to_vector<std::int32_t>(), x.to(gpu).to_vector<std::int32_t>()) << count;
  }
}

TEST_F(CudaDevice, TransfersTakeAnyStridesAndDtypes) {
  const Tensor x = randn({5, 6, 7}), moved = x.to(gpu);
  expect_same_bits(cpu(moved.transpose(0, 2)), x.transpose(0, 2), "a transposed source");
  Tensor target = zeros({5, 14}, {.dtype = DType::bf16, .device = gpu});
  const Tensor every_other = target.slice(1, 0, 14, 2);
  Tensor(every_other).copy_(x.select(1, 0));
  expect_same_bits(cpu(every_other), x.select(1, 0).to(DType::bf16), "a strided target of another dtype");
  EXPECT_EQ(target.at(1), 0);
  EXPECT_EQ(moved.at(8), x.at(8));
  Tensor changed = moved.clone();
  changed.set(8, 0.5);
  EXPECT_EQ(changed.at(8), 0.5);
  EXPECT_EQ(changed.at(7), x.at(7));
  EXPECT_EQ(to_string(arange(0, 3, 1, {.dtype = DType::i64, .device = gpu})), "tensor [3] i64 cuda:0 [0, 1, 2]");
}

TEST_F(CudaDevice, CopiesFollowEarlierWork) {
  Tensor x = zeros({1000}, {.device = gpu});
  for (int i = 0; i < 40; ++i) {  // more small copies than the pinned memory has slots
    x.copy_(full({1000}, i));
    x.add_(ones({1000}, {.device = gpu}));
    ASSERT_EQ(x.at(999), i + 1);
  }
  std::vector<Tensor> many;
  for (int i = 0; i < 40; ++i) many.push_back(full({1000}, i).to(gpu));
  for (int i = 0; i < 40; ++i) ASSERT_EQ(many[static_cast<std::size_t>(i)].at(500), i);
}

TEST_F(CudaDevice, DevicesExchangeTensors) {
  Tensor there;
  try {
    there = arange(0, 1000, 1, {.device = device_from_name("cuda:1")});
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  const Tensor here = there.to(gpu);
  there.fill_(7);  // after the copy has read it
  EXPECT_EQ(there.at(0), 7);
  EXPECT_EQ(here.device(), gpu);
  EXPECT_EQ(here.at(999), 999);
  expect_error([&] { add(here, there); }, "add: inputs are on different devices");
}

TEST_F(CudaDevice, DeviceIndexIsChecked) {
  EXPECT_EQ(device_from_name("cuda:0"), gpu);
  expect_error([] { device_from_name("cuda:99"); }, "device: cuda:99 was asked for, but there are ");
  EXPECT_FALSE(device_description(gpu).empty());
}

TEST_F(CudaDevice, GradientsReturnToTheirDevice) {
  Tensor x = randn({4});
  x.requires_grad_();
  const Tensor y = x.to(gpu);
  sum(mul(y, y)).backward();
  ASSERT_TRUE(x.grad());
  EXPECT_EQ(x.grad().device(), Device{});
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(x.grad().at(i), 2 * x.at(i));
}

TEST_F(CudaDevice, EveryDtypeConvertsToEveryOther) {
  // halfway cases, subnormals and the ends of the narrow formats
  const std::vector<double> values = {0,       -0.0,      1,         -1,           2.5,
                                      255,     0x1.002p0, 0x1.006p0, 0x1.01p0,     0x1p-24,
                                      0x1p-25, 0x3p-26,   0x1p-9,    0x1p-10,      0x1.8p-10,
                                      448,     464,       465,       57344,        65504,
                                      65520,   1e-8,      3e38,      0x1.002001p0, 0x1.0180000001p0};
  for (const DType from : all_dtypes) {
    const Tensor x = from_vector(values, {static_cast<std::int64_t>(values.size())}, {.dtype = DType::f64}).to(from);
    for (const DType to : all_dtypes) {
      if (is_floating(from) && (is_integer(to) || to == DType::boolean)) continue;  // overflow is undefined there
      expect_same_bits(cpu(x.to(gpu).to(to)), x.to(to), to_text(from) + " to " + to_text(to));
    }
  }
}

TEST_F(CudaDevice, RandomNumbersAreTheCpus) {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    Tensor a = empty({3, 67}, {.dtype = dtype}), b = empty({3, 67}, {.dtype = dtype, .device = gpu});
    const PhiloxState state{42, 7};
    kernel::uniform(a, state, -1, 3);
    kernel::uniform(b, state, -1, 3);
    expect_same_bits(cpu(b), a, "uniform");
    const Tensor x = a.to(gpu);
    Tensor dropped = empty_like(a), dropped_there = empty_like(x);
    kernel::dropout(a, dropped, state, 0.3);
    kernel::dropout(x, dropped_there, state, 0.3);
    expect_same_bits(cpu(dropped_there), dropped, "dropout");
    kernel::normal(a, state, 0, 1);
    kernel::normal(b, state, 0, 1);
    // sqrt(-2 log(u)) cos(2 pi v), all in double. CUDA's Programming Guide gives log an error of at most 1 ulp and cos
    // one of 2 in double, sqrt and products none; glibc's manual gives its own log and cos at most 1. So log may differ
    // by 2 ulps, of which sqrt leaves half, cos by 3, and the roundings of sqrt and of the product by one each. Then
    // each is rounded to the dtype, and those bits may tip one rounding.
    constexpr double in_double = (1 + 3 + 1 + 1) * 0x1p-52;
    const double rounding = dtype == DType::f64 ? 0 : epsilon(dtype);
    const std::vector<double> here = a.to_vector<double>(), there = b.to_vector<double>();
    for (std::size_t i = 0; i < here.size(); ++i)
      EXPECT_NEAR(there[i], here[i], (in_double + rounding) * std::abs(here[i])) << to_text(dtype) << " " << i;
  }
  Tensor a = empty({500}, {.dtype = DType::i64}), b = empty({500}, {.dtype = DType::i64, .device = gpu});
  kernel::randint(a, {1, 2}, -5, 1'000'000'007);
  kernel::randint(b, {1, 2}, -5, 1'000'000'007);
  expect_same_bits(cpu(b), a, "randint");
}

TEST_F(CudaDevice, AnyStartAndLength) {  // whole vectors, their tails, and what cannot be moved with vectors
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64}) {
    const Tensor a = randint(-9, 9, {64}).to(dtype), b = randint(-9, 9, {64}).to(dtype);
    const Tensor a_there = a.to(gpu), b_there = b.to(gpu);
    for (const std::int64_t start : {0, 1, 8}) {
      for (const std::int64_t length : {1, 7, 8, 9, 31, 40}) {
        Tensor guarded = full({64}, 77, {.dtype = dtype, .device = gpu});
        kernel::binary_forward<formulas::Add>(a_there.narrow(0, start, length), b_there.narrow(0, start, length),
                                              guarded.narrow(0, start, length));
        const std::vector<double> got = guarded.to_vector<double>();
        for (std::int64_t i = 0; i < 64; ++i) {
          const bool inside = i >= start && i < start + length;
          ASSERT_EQ(got[static_cast<std::size_t>(i)], inside ? a.at(i) + b.at(i) : 77)
              << to_text(dtype) << ", start " << start << ", length " << length << ", element " << i;
        }
      }
    }
  }
}

TEST_F(CudaDevice, LongReductionsAreCutIntoPieces) {
  const Tensor row = randn({3, 20'000}), wide = randn({2'000, 9});
  for (const auto& [x, dim] : {std::pair{row, 1}, std::pair{wide, 0}}) {
    const Tensor exact = sum(x.to(DType::f64), {dim}), got = sum(x.to(gpu), {dim});
    const double terms = static_cast<double>(x.size(dim));
    for (std::int64_t i = 0; i < exact.numel(); ++i)
      EXPECT_NEAR(got.at(i), exact.at(i), 4 * epsilon(DType::f32) * std::sqrt(terms));
    expect_same_bits(cpu(max(x.to(gpu), {dim})), max(x, {dim}), "max");
    expect_same_bits(cpu(argmin(x.to(gpu), dim)), argmin(x, dim), "argmin");
    expect_same_bits(got, sum(x.to(gpu), {dim}), "the same sum again");
  }
}

TEST_F(CudaDevice, EmbeddingGradientsHaveTheCpusBits) {  // summed in order of position on both
  const std::int64_t count = 5'000;                      // sorted by several blocks
  const Tensor index = randint(0, 37, {count}), dy = randn({count, 5});
  for (const bool accumulate : {false, true}) {
    Tensor here = ones({40, 5}), there = ones({40, 5}, {.device = gpu});
    kernel::embedding_backward(dy, index, here, accumulate);
    kernel::embedding_backward(dy.to(gpu), index.to(gpu), there, accumulate);
    expect_same_bits(cpu(there), here, accumulate ? "accumulated" : "overwritten");
  }
}

TEST_F(CudaDevice, BadIndicesAreReportedAtTheNextSynchronisation) {
  const Tensor table = randn({4, 3}, {.device = gpu});
  const auto at = [&](std::int64_t i) { return from_vector<std::int64_t>({0, i}, {2}).to(gpu); };
  const auto row = [&](std::int64_t i) { return from_vector<std::int64_t>({i, i, i}, {1, 3}).to(gpu); };
  const std::vector<std::pair<const char*, std::function<void()>>> calls = {
      {"embedding: index out of range for 4 rows: position 1 has 4", [&] { embedding(table, at(4)); }},
      {"gather: index out of range: -1 along a dim of size 4", [&] { gather(table, 0, row(-1)); }},
      {"scatter_add: index out of range: 9", [&] { scatter_add(table, 0, row(9), table.narrow(0, 0, 1)); }},
      {"cross_entropy: targets must be in [0, 3) or ignore_index: row 1 has 3",
       [&] { cross_entropy(table.narrow(0, 0, 2), at(3)); }},
  };
  for (const auto& [text, call] : calls) {
    call();  // itself throws nothing
    expect_error([&] { synchronize(gpu); }, text, "reported at this synchronisation");
    synchronize(gpu);  // once
  }
  embedding(table, at(4));
  expect_error([&] { table.to_vector<float>(); }, "embedding: index out of range");
}

TEST_F(CudaDevice, OperandsOfAnyAlignmentAndStrides) {
  const Tensor a = randint(-3, 3, {2, 5, 9}).to(DType::bf16), b = randint(-3, 3, {2, 9, 7}).to(DType::bf16);
  const Tensor a_there = a.to(gpu), b_there = b.to(gpu);
  const Tensor inner_a = a.narrow(2, 1, 7), inner_b = b.narrow(1, 1, 7);
  expect_same_bits(cpu(matmul(a_there.narrow(2, 1, 7), b_there.narrow(1, 1, 7))), matmul(inner_a, inner_b), "shifted");
  expect_same_bits(cpu(matmul(b_there.transpose(1, 2), a_there.transpose(1, 2))),
                   matmul(b.transpose(1, 2), a.transpose(1, 2)), "transposed");
  Tensor c = ones({3, 11}, {.device = gpu});
  kernel::matmul(a_there.select(0, 1).narrow(0, 0, 3), b_there.select(0, 1), {}, c.narrow(1, 1, 7),
                 {.accumulate = true});
  Tensor straight = ones({2, 5, 7}, {.device = gpu});  // accumulated by the library itself
  kernel::matmul(a_there, b_there, {}, straight, {.accumulate = true});
  expect_same_bits(cpu(straight), add(matmul(a.to(DType::f32), b.to(DType::f32)), ones({1})), "accumulated");
  const Tensor product = matmul(a.select(0, 1).narrow(0, 0, 3).to(DType::f32), b.select(0, 1).to(DType::f32));
  for (std::int64_t i = 0; i < 3; ++i) {
    for (std::int64_t j = 0; j < 11; ++j) {
      const bool inside = j >= 1 && j < 8;
      EXPECT_EQ(c.at(11 * i + j), inside ? 1 + product.at(7 * i + j - 1) : 1) << i << ", " << j;
    }
  }
}

TEST_F(CudaDevice, MemoryIsReusedAndCounted) {
  const auto step = [&] {
    const MemoryTagScope tag(MemoryTag::gradients);
    const Tensor x = zeros({1100}, {.device = gpu});
    return memory_stats(gpu).current[static_cast<std::size_t>(MemoryTag::gradients)];
  };
  const std::size_t before = memory_stats(gpu).current[static_cast<std::size_t>(MemoryTag::gradients)];
  const std::size_t during = step();
  EXPECT_EQ(during - before, 4608U);  // 4400 bytes, in their size class
  const std::uint64_t taken = memory_stats(gpu).system_allocations;
  for (int i = 0; i < 10; ++i) step();
  EXPECT_EQ(memory_stats(gpu).system_allocations, taken);
  EXPECT_EQ(memory_stats(gpu).current[static_cast<std::size_t>(MemoryTag::gradients)], before);
  release_cached_memory(gpu);
  EXPECT_EQ(memory_stats(gpu).reserved, memory_stats(gpu).current_total);
}

TEST_F(CudaDevice, RunningOutOfMemoryIsExplained) {
  const Tensor held = zeros({1 << 20}, {.device = gpu});
  const std::string text = error_of([&] { empty({std::int64_t{1} << 40}, {.device = gpu}); });
  EXPECT_TRUE(text.starts_with("memory: out of memory on cuda:0: requested 4 TiB; ")) << text;
  for (const char* part : {" free of ", "reserved by binade", "activations 4 MiB", "a smaller batch"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
  EXPECT_EQ(zeros({100}, {.device = gpu}).at(99), 0);  // and the device still works
}

TEST_F(CudaDevice, AMissingKernelIsNamed) {
  const Tensor x = zeros({1, 1, 4, 4}, {.device = gpu});
  if (kernel::avg_pool2d.function(DeviceType::cuda)) GTEST_SKIP() << "there is one now";
  expect_error([&] { avg_pool2d(x); }, "avg_pool2d: no kernel for cuda in this build");
}

}  // namespace

}  // namespace binade::test
