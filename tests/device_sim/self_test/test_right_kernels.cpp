// Kernels without a mistake give the right numbers and raise no alarm, in every order of threads, lazily and eagerly.
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <thread>

#include "device.h"
#include "right_kernels.h"

namespace binade::test {

namespace {

using bf16 = __nv_bfloat16;

struct Manner {
  simt::ThreadOrder order;
  bool lazy;
};

class RightKernels : public DeviceSim, public testing::WithParamInterface<Manner> {
 protected:
  void SetUp() override {
    DeviceSim::SetUp();
    simt::settings().order = GetParam().order;
    simt::settings().lazy = GetParam().lazy;
  }
};

std::string name_of(const testing::TestParamInfo<Manner>& info) {
  const char* orders[] = {"forward", "reverse", "shuffled"};
  return std::string(orders[static_cast<int>(info.param.order)]) + (info.param.lazy ? "_lazy" : "_eager");
}
INSTANTIATE_TEST_SUITE_P(Orders, RightKernels,
                         testing::Values(Manner{simt::ThreadOrder::forward, true}, Manner{simt::ThreadOrder::reverse, true},
                                         Manner{simt::ThreadOrder::shuffled, true}, Manner{simt::ThreadOrder::forward, false}),
                         name_of);

float pattern(std::size_t i) { return static_cast<float>(static_cast<int>(i * 37 % 101) - 50) / 8; }

std::vector<bf16> bf16_values(std::size_t n) {
  std::vector<bf16> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = __float2bfloat16(pattern(i));
  return values;
}

// Rows normalised in double. Output in bf16: one rounding, 2^-9 relative, of values below 4; the float sums of up to
// 768 terms add less than 768 * 2^-24 * 4, which is far below.
void expect_rows(const std::vector<bf16>& x, const std::vector<bf16>& y, std::size_t columns) {
  for (std::size_t start = 0; start < x.size(); start += columns) {
    double mean = 0, squares = 0;
    for (std::size_t i = 0; i < columns; ++i) mean += double{__bfloat162float(x[start + i])} / static_cast<double>(columns);
    for (std::size_t i = 0; i < columns; ++i) squares += std::pow(__bfloat162float(x[start + i]) - mean, 2);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(columns) + 1e-5);
    for (std::size_t i = 0; i < columns; ++i) {
      ASSERT_NEAR(__bfloat162float(y[start + i]), (__bfloat162float(x[start + i]) - mean) * scale, 4 * 0x1p-9 + 1e-4);
    }
  }
}

}  // namespace

TEST_P(RightKernels, BlockReductionAndDynamicShared) {
  const Stream stream;
  const auto x = bf16_values(5 * 768);
  const Buffer<bf16> in(x, stream), out(x.size());
  row_norm(in.data, out.data, 5, 768, stream);
  expect_rows(x, out.read(stream), 768);
}

TEST_P(RightKernels, WarpPerRowWithARestOfRows) {
  const Stream stream;
  const auto x = bf16_values(6 * 64);
  const Buffer<bf16> in(x, stream), out(x.size());
  warp_row_norm(in.data, out.data, 6, stream);
  expect_rows(x, out.read(stream), 64);
}

TEST_P(RightKernels, VectorAccessWithATail) {
  const Stream stream;
  std::vector<float> x(1003), y(1003);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = pattern(i), y[i] = pattern(i + 7);
  const Buffer<float> dx(x, stream), dy(y, stream);
  axpy(2, dx.data, dy.data, 1003, stream);
  const auto result = dy.read(stream);
  for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(result[i], 2 * x[i] + y[i]) << i;  // exact in float
}

TEST_P(RightKernels, LastBlockDoneReadsWhatOthersPublished) {
  const Stream stream;
  std::vector<float> x(10000);
  std::iota(x.begin(), x.end(), 1.0F);
  const Buffer<float> in(x, stream), partial(8), sum(1);
  const Buffer<unsigned> done({0}, stream);
  for (int round = 0; round < 2; ++round) {
    sum_last_block(in.data, partial.data, done.data, sum.data, 10000, stream);
    EXPECT_EQ(sum.read(stream)[0], 50005000.0F);  // tree sums: below 10 roundings of 2^-24, and the result is even
  }
}

TEST_P(RightKernels, Atomics) {
  const Stream stream;
  std::vector<unsigned char> x(1000);
  std::vector<int> expected(16);
  for (std::size_t i = 0; i < x.size(); ++i) ++expected[(x[i] = static_cast<unsigned char>(i * i % 251)) % 16];
  const Buffer<unsigned char> in(x, stream);
  const Buffer<int> counts(std::vector<int>(16), stream);
  histogram(in.data, counts.data, 1000, stream);
  EXPECT_EQ(counts.read(stream), expected);
}

TEST_P(RightKernels, WarpOperations) {
  const Stream stream;
  const Buffer<unsigned> out(32 * warp_results);
  warp_operations(out.data, stream);
  const auto r = out.read(stream);
  for (unsigned lane = 0; lane < 32; ++lane) {
    const auto at = [&](unsigned i) { return r[i * 32 + lane]; };
    EXPECT_EQ(at(0), 50U);
    EXPECT_EQ(at(1), (lane + 1) % 32 * 10);
    EXPECT_EQ(at(2), lane / 8 * 8 + 3);
    EXPECT_EQ(at(3), lane ^ 9);
    EXPECT_EQ(at(4), (lane ^ 9) / 8 <= lane / 8 ? lane ^ 9 : lane);  // an earlier segment may be read, a later not
    EXPECT_EQ(at(5), lane + 3 < 32 ? lane + 3 : lane);
    EXPECT_EQ(at(6), lane % 8 + 3 < 8 ? lane + 3 : lane);
    EXPECT_EQ(at(7), lane >= 3 ? lane - 3 : lane);
    EXPECT_EQ(at(8), lane % 8 >= 3 ? lane - 3 : lane);
    EXPECT_EQ(at(9), 0x49249249U);  // bits 0, 3, 6, ...
    EXPECT_EQ(at(10), 1U);
    EXPECT_EQ(at(11), lane < 16 ? lane ^ 1 : lane ^ 2);
    unsigned same = 0;
    for (unsigned other = 0; other < 32; ++other) same |= static_cast<unsigned>(other % 5 == lane % 5) << other;
    EXPECT_EQ(at(12), same);
    EXPECT_EQ(at(13), 496U);
    EXPECT_EQ(static_cast<int>(at(14)), -24);
    EXPECT_EQ(at(15), 0x7fU);
    EXPECT_EQ(at(16), lane ^ 1);
  }
}

TEST_P(RightKernels, CoordinatesInThreeDimensions) {
  const Stream stream;
  const Buffer<unsigned> out(2 * 3 * 2 * 8 * 4 * 2);
  coordinates(out.data, dim3(2, 3, 2), dim3(8, 4, 2), stream);
  const auto r = out.read(stream);
  std::size_t i = 0;
  for (unsigned bz = 0; bz < 2; ++bz) {
    for (unsigned by = 0; by < 3; ++by) {
      for (unsigned bx = 0; bx < 2; ++bx) {
        for (unsigned t = 0; t < 64; ++t, ++i) {
          ASSERT_EQ(r[i], bx | by << 4 | bz << 8 | t % 8 << 12 | t / 8 % 4 << 18 | t / 32 << 24);
        }
      }
    }
  }
}

// The order in which threads come by is what the setting says; a kernel that shows it does not keep to any rule.
TEST_P(RightKernels, OrderIsVisibleThroughAtomics) {
  const Stream stream;
  const Buffer<int> out(256);
  const Buffer<int> next({0}, stream);
  arrival_order(next.data, out.data, stream);
  const auto r = out.read(stream);
  std::vector<int> forward(256);
  std::iota(forward.begin(), forward.end(), 0);
  const std::vector<int> reverse(forward.rbegin(), forward.rend());
  EXPECT_EQ(r == forward, GetParam().order == simt::ThreadOrder::forward);
  EXPECT_EQ(r == reverse, GetParam().order == simt::ThreadOrder::reverse);
  EXPECT_TRUE(std::is_permutation(r.begin(), r.end(), forward.begin()));
}

TEST_P(RightKernels, BarriersThatCount) {
  const Stream stream;
  const Buffer<int> out(96 * 3);
  barrier_counts(out.data, stream);
  const auto r = out.read(stream);
  for (std::size_t t = 0; t < 96; ++t) {
    EXPECT_EQ(r[t * 3], 32);
    EXPECT_EQ(r[t * 3 + 1], 1);
    EXPECT_EQ(r[t * 3 + 2], 0);
  }
}

TEST_P(RightKernels, SyncwarpOrdersSharedMemory) {
  const Stream stream;
  const Buffer<int> out(3 * 128);
  warp_message(out.data, stream);
  const auto r = out.read(stream);
  for (int i = 0; i < 3 * 128; ++i) EXPECT_EQ(r[static_cast<std::size_t>(i)], i % 128 / 32 * 100 + i / 128);
}

TEST_P(RightKernels, NarrowFormats) {
  const Stream stream;
  std::vector<float> x(100);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = pattern(i) * 1.37F;
  const Buffer<float> in(x, stream), out(400);
  narrow_formats(in.data, out.data, 100, stream);
  const auto y = out.read(stream);
  // One rounding to p bits of significand: at most 2^-p of the value, in the normal range that these values keep to.
  const double unit[] = {0x1p-4, 0x1p-3, 0x1p-8, 0x1p-11};
  bool rounded = false;
  for (std::size_t format = 0; format < 4; ++format) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double error = std::abs(double{y[format * 100 + i]} - x[i]);
      ASSERT_LE(error, unit[format] * std::abs(x[i])) << "format " << format << " of " << x[i];
      rounded = rounded || error > 0;
    }
  }
  EXPECT_TRUE(rounded);
}

TEST_P(RightKernels, ConstantsOfTheProgramMayBeRead) {
  const Stream stream;
  const Buffer<float> out(8);
  read_constant(out.data, 8, stream);
  EXPECT_EQ(out.read(stream), (std::vector<float>{1, 2, 4, 8, 1, 2, 4, 8}));
}

TEST_P(RightKernels, PageLockedMemoryMayBeRead) {
  const Stream stream;
  const Pinned<float> host(100, 3);
  const Buffer<float> out(100);
  copy_words(host.data, out.data, 100, stream);
  EXPECT_EQ(out.read(stream), std::vector<float>(100, 3));
}

TEST_P(RightKernels, LargeDynamicSharedMemory) {
  const Stream stream;
  const Buffer<float> out(1);
  use_shared(out.data, 100 * 1024, stream);
  EXPECT_EQ(out.read(stream)[0], 25599.0F);
}

// A kernel file's host code is instrumented as its kernels are, and runs in other threads while a kernel does.
TEST_P(RightKernels, HostCodeBesideAKernelIsNotTheKernel) {
  std::atomic<bool> done = false;
  std::atomic<std::uint64_t> rounds = 0;
  std::thread host([&] {
    const std::vector<std::uint64_t> words(1000, 1);
    while (!done) {
      EXPECT_EQ(host_sum(words.data(), 1000), 1000U);
      ++rounds;
    }
  });
  const Stream stream;
  const auto x = bf16_values(5 * 768);
  const Buffer<bf16> in(x, stream), out(x.size());
  const std::uint64_t wanted = rounds + 200;
  for (int launches = 0; launches < 20 || rounds < wanted; ++launches) {
    row_norm(in.data, out.data, 5, 768, stream);
    ASSERT_EQ(stream.synchronize(), cudaSuccess);
  }
  done = true;
  host.join();
  expect_rows(x, out.read(stream), 768);
}

}  // namespace binade::test
