// Collectives of every dtype against float64 sums, and the rules of their arguments.
#include <algorithm>
#include <cmath>
#include <thread>

#include "binade/core/base/random.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/distributed/ranks.h"

namespace {

using namespace binade;
using namespace binade::test;
using dist::ReduceOp;

constexpr DType all_dtypes[] = {DType::f64,    DType::f32, DType::f16, DType::bf16, DType::f8e4m3,
                                DType::f8e5m2, DType::i64, DType::i32, DType::u8,   DType::boolean};
constexpr std::int64_t sizes[] = {0, 1, 3, 64, 1000, 9001};  // fewer elements than ranks, odd sizes, many blocks

// Rank r's values: known to every rank, so that each can compute what all together give.
Tensor values_of(int rank, std::int64_t count, DType dtype, double low = -4, double high = 4) {
  const PhiloxState state{977 + static_cast<std::uint64_t>(rank), static_cast<std::uint64_t>(count)};
  std::vector<double> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double u = uniform_from_word(philox_word(state, i));
    values[i] = dtype == DType::boolean ? std::floor(2 * u) : dtype == DType::u8 ? std::floor(60 * u) : low + (high - low) * u;
    if (is_integer(dtype)) values[i] = std::floor(values[i]);
  }
  return from_vector(values, {count}).to(dtype).to(device());
}
double unit(DType dtype) { return is_floating(dtype) ? epsilon(dtype) / 2 : 0; }

class Collectives : public Ranks, public testing::WithParamInterface<DType> {};
INSTANTIATE_TEST_SUITE_P(, Collectives, testing::ValuesIn(all_dtypes),
                         [](const auto& parameter) { return std::string(name(parameter.param)); });

// The reduction of all ranks' values in float64, and how far a sum of FP32 additions in a tree, rounded once into the
// dtype, may be from it: log2(ranks) + 1 roundings in FP32 of the sum of magnitudes, one of the result.
struct Expected {
  std::vector<double> value, allowed;
};
Expected expected(const std::vector<std::vector<double>>& all, ReduceOp op, DType dtype) {
  Expected out;
  const double ranks = static_cast<double>(all.size()), accumulate = dtype == DType::f64 ? 0x1p-53 : 0x1p-24;
  for (std::size_t i = 0; i < all[0].size(); ++i) {
    double value = all[0][i], magnitude = std::abs(value);
    for (std::size_t r = 1; r < all.size(); ++r) {
      const double x = all[r][i];
      magnitude += std::abs(x);
      value = op == ReduceOp::max ? std::max(value, x) : op == ReduceOp::min ? std::min(value, x) : value + x;
    }
    if (op == ReduceOp::avg) value /= ranks, magnitude /= ranks;
    const bool exact = op == ReduceOp::max || op == ReduceOp::min || !is_floating(dtype);
    out.value.push_back(value);
    out.allowed.push_back(exact ? 0 : (std::ceil(std::log2(ranks)) + 1) * accumulate * magnitude + unit(dtype) * std::abs(value) +
                                          smallest_subnormal(dtype) / 2);
  }
  return out;
}

bool applies(ReduceOp op, DType dtype) {
  return (op != ReduceOp::avg || is_floating(dtype)) && (op != ReduceOp::sum || dtype != DType::boolean);
}
constexpr ReduceOp ops[] = {ReduceOp::sum, ReduceOp::avg, ReduceOp::max, ReduceOp::min};

std::vector<std::vector<double>> everyones(std::int64_t count, DType dtype) {
  std::vector<std::vector<double>> all;
  for (int r = 0; r < group().size(); ++r) all.push_back(values_of(r, count, dtype).to_vector<double>());
  return all;
}

void expect_near(const Tensor& x, const Expected& want, std::int64_t offset = 0) {
  const std::vector<double> got = x.to_vector<double>();
  for (std::size_t i = 0; i < got.size(); ++i) {
    const std::size_t at = i + static_cast<std::size_t>(offset);
    ASSERT_LE(std::abs(got[i] - want.value[at]), want.allowed[at]) << "element " << i << ": " << got[i] << ", expected " << want.value[at];
  }
}

TEST_P(Collectives, AllReduce) {
  for (const ReduceOp op : ops) {
    if (!applies(op, GetParam())) continue;
    for (const std::int64_t count : sizes) {
      SCOPED_TRACE(std::string(name(op)) + " of " + std::to_string(count));
      const Tensor x = values_of(rank(), count, GetParam());
      group().all_reduce(x, op).wait();
      expect_near(x, expected(everyones(count, GetParam()), op, GetParam()));
      EXPECT_TRUE(same_on_all_ranks(x));
    }
  }
}

TEST_P(Collectives, ReduceScatter) {
  for (const ReduceOp op : ops) {
    if (!applies(op, GetParam())) continue;
    for (const std::int64_t count : sizes) {
      SCOPED_TRACE(std::string(name(op)) + " of " + std::to_string(count));
      const Tensor in = values_of(rank(), count * size(), GetParam()), out = empty({count}, {.dtype = GetParam(), .device = device()});
      const Expected want = expected(everyones(count * size(), GetParam()), op, GetParam());
      group().reduce_scatter(out, in, op).wait();
      expect_near(out, want, count * rank());
      const Tensor own = in.narrow(0, count * rank(), count);  // in place
      group().reduce_scatter(own, in, op).wait();
      expect_near(own, want, count * rank());
    }
  }
}

void expect_equal(const Tensor& got, const Tensor& want) { EXPECT_EQ(got.to_vector<double>(), want.to_vector<double>()); }

TEST_P(Collectives, AllGather) {
  for (const std::int64_t count : sizes) {
    const Tensor out = zeros({size(), count}, {.dtype = GetParam(), .device = device()});
    group().all_gather(out, values_of(rank(), count, GetParam())).wait();
    for (int r = 0; r < size(); ++r) expect_equal(out.select(0, r), values_of(r, count, GetParam()));
  }
}

TEST_P(Collectives, AllToAll) {
  for (const std::int64_t count : sizes) {
    const Tensor out = zeros({size(), count}, {.dtype = GetParam(), .device = device()});
    group().all_to_all(out, values_of(rank(), count * size(), GetParam())).wait();
    for (int r = 0; r < size(); ++r)
      expect_equal(out.select(0, r), values_of(r, count * size(), GetParam()).narrow(0, rank() * count, count));
  }
}

TEST_P(Collectives, Broadcast) {
  for (int root = 0; root < size(); ++root) {
    for (const std::int64_t count : sizes) {
      const Tensor x = values_of(rank(), count, GetParam());
      group().broadcast(x, root).wait();
      expect_equal(x, values_of(root, count, GetParam()));
    }
  }
}

using CollectiveRules = Ranks;

TEST_F(CollectiveRules, SixteenBitSumsAreTakenInFp32) {
  if (size() < 4) GTEST_SKIP() << "needs 4 ranks";
  // In FP16, (2048 + 1) rounds to 2048: the sum would be 2048 + 2 or less. In FP32 it is 2051, which rounds to 2052.
  const Tensor x = full({5}, rank() == 0 ? 2048 : 1, {.dtype = DType::f16, .device = device()});
  group().all_reduce(x).wait();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(x.at(i), 2052);
}

TEST_F(CollectiveRules, InfinitiesAndNansReachEveryRank) {
  for (int bad = 0; bad < size(); ++bad) {  // whichever rank has them
    for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
      for (const ReduceOp op : ops) {
        Tensor x = full({3}, 1, {.dtype = dtype});
        if (rank() == bad) x.set(0, NAN), x.set(1, INFINITY);
        x = x.to(device());
        group().all_reduce(x, op).wait();
        EXPECT_TRUE(std::isnan(x.at(0))) << name(op) << ", rank " << bad;
        if (op != ReduceOp::min || size() == 1) {
          EXPECT_EQ(x.at(1), INFINITY) << name(op);
        }
        EXPECT_EQ(x.at(2), op == ReduceOp::sum ? size() : 1) << name(op);
      }
    }
  }
}

TEST_F(CollectiveRules, TheSumIsABinaryTreeOverRanks) {
  // Any other order gives other bits for one of these.
  std::vector<std::vector<float>> rows;
  for (int r = 0; r < size(); ++r) rows.push_back(values_of(r, 3000, DType::f32).to_vector<float>());
  for (std::size_t stride = 1; stride < rows.size(); stride *= 2)
    for (std::size_t r = 0; r + stride < rows.size(); r += 2 * stride)
      for (std::size_t i = 0; i < rows[r].size(); ++i) rows[r][i] += rows[r + stride][i];
  const Tensor x = values_of(rank(), 3000, DType::f32);
  group().all_reduce(x).wait();
  EXPECT_EQ(x.to_vector<float>(), rows[0]);
}

TEST_F(CollectiveRules, ManyAtOnceKeepTheirOrder) {
  std::vector<Tensor> tensors;
  std::vector<dist::Work> work;
  for (int i = 0; i < 40; ++i) {
    tensors.push_back(full({1 + 997 * (i % 5)}, i + rank(), {.device = device()}));
    work.push_back(group().all_reduce(tensors.back()));
  }
  for (int i = 39; i >= 0; --i) {
    const auto at = static_cast<std::size_t>(i);
    work[at].wait();
    const Tensor& x = tensors[at];
    EXPECT_EQ(x.at(x.numel() - 1), size() * i + size() * (size() - 1) / 2.0);
    EXPECT_TRUE(work[at].done());
  }
}

TEST_F(CollectiveRules, WorkIsDoneOnlyWhenAllHaveArrived) {
  if (size() == 1) GTEST_SKIP() << "needs 2 ranks";
  const Tensor x = ones({4}, {.device = device()});
  clear_notes();
  if (rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const dist::Work work = group().all_reduce(x);
  EXPECT_TRUE(rank() != 0 || !work.done());  // rank 1 is still asleep
  work.wait();
  EXPECT_EQ(x.at(0), size());
}

TEST_F(CollectiveRules, Mean) { EXPECT_EQ(dist::mean_over_ranks(group(), rank()), (size() - 1) / 2.0); }

TEST_F(CollectiveRules, BadArguments) {
  const auto f32 = zeros({4}), wrong = zeros({4 * size() + 1});
  expect_error([&] { (void)group().all_reduce(Tensor()); }, "all_reduce: a tensor is undefined");
  expect_error([&] { (void)group().all_reduce(zeros({4, 4}).t()); }, "all_reduce: tensors must be contiguous");
  expect_error([&] { (void)group().all_gather(wrong, f32); }, "all_gather: with");
  expect_error([&] { (void)group().reduce_scatter(f32, wrong); }, "reduce_scatter: with");
  expect_error([&] { (void)group().broadcast(f32, size()); }, "broadcast: root must be a rank below");
  expect_error([&] { (void)group().all_gather(zeros({4 * size()}, {.dtype = DType::f16}), f32); }, "all_gather: the tensors' dtypes differ");
  expect_error([&] { (void)group().all_reduce(zeros({4}, {.dtype = DType::i32}), ReduceOp::avg); }, "all_reduce: avg needs a floating dtype");
  expect_error([&] { (void)group().all_reduce(zeros({4}, {.dtype = DType::boolean})); }, "all_reduce: sum needs numbers, got bool");
}

}  // namespace
