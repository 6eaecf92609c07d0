// Loader: order, seeds, epochs, positions, errors.
#include <gtest/gtest.h>

#include <algorithm>

#include "binade/core/data/loader.h"
#include "binade/tests/data/folder.h"

namespace {

using namespace binade;
using namespace binade::test;

data::TensorDataset counting(std::int64_t n) {
  return {arange(0, static_cast<double>(n), 1, {.dtype = DType::f32}).reshape({n, 1}),
          arange(0, static_cast<double>(n))};
}

using Epoch = std::vector<std::vector<std::int64_t>>;
Epoch run_epoch(data::Loader& loader) {
  Epoch out;
  for (const auto& [inputs, targets] : loader) {
    out.push_back(targets.to_vector<std::int64_t>());
    EXPECT_EQ(inputs.to_vector<std::int64_t>(), out.back());
    EXPECT_EQ(inputs.dim(), 2);
  }
  return out;
}
std::vector<std::int64_t> joined(const Epoch& epoch) {
  std::vector<std::int64_t> out;
  for (const auto& batch : epoch) out.insert(out.end(), batch.begin(), batch.end());
  return out;
}

TEST(Loader, InOrder) {
  data::Loader loader(counting(10), {.batch_size = 4});
  EXPECT_EQ(loader.batches(), 3);
  EXPECT_EQ(run_epoch(loader), (Epoch{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}}));
  data::Loader full(counting(10), {.batch_size = 4, .drop_last = true});
  EXPECT_EQ(run_epoch(full), (Epoch{{0, 1, 2, 3}, {4, 5, 6, 7}}));
}

TEST(Loader, ShuffleDependsOnSeedAndEpoch) {
  data::Loader a(counting(100), {.batch_size = 7, .shuffle = true, .seed = 5, .prefetch = 3});
  data::Loader b(counting(100), {.batch_size = 7, .shuffle = true, .seed = 5, .prefetch = 0});
  data::Loader c(counting(100), {.batch_size = 7, .shuffle = true, .seed = 6});
  const Epoch first = run_epoch(a), second = run_epoch(a);
  EXPECT_NE(first, second);
  EXPECT_EQ(run_epoch(b), first);
  EXPECT_EQ(run_epoch(b), second);
  EXPECT_NE(run_epoch(c), first);
  std::vector<std::int64_t> all = joined(first);
  std::sort(all.begin(), all.end());
  EXPECT_EQ(all, counting(100).targets().to_vector<std::int64_t>());
}

TEST(Loader, PermutationIsUniform) {
  std::array<int, 6> counts{};
  for (std::uint64_t i = 0; i < 6000; ++i) {
    const std::vector<std::int64_t> p = data::permutation(3, {1, i});
    ++counts[static_cast<std::size_t>(p[0] * 2 + (p[1] > p[2]))];
  }
  for (const int count : counts) EXPECT_NEAR(count, 1000, 150);  // 5 standard deviations
}

TEST(Loader, GoesOnFromASavedPosition) {
  const data::LoaderOptions options{.batch_size = 3, .shuffle = true, .seed = 9};
  data::Loader whole(counting(20), options);
  const Epoch first = run_epoch(whole), second = run_epoch(whole);
  for (const std::size_t stop : {1U, 3U, 7U}) {  // 7: after the last batch
    data::Loader loader(counting(20), options);
    std::size_t seen = 0;
    data::LoaderState state;
    for ([[maybe_unused]] const auto& batch : loader) {
      if (++seen == stop) {
        state = loader.state();
        break;
      }
    }
    data::Loader resumed(counting(20), options);
    resumed.load_state(state);
    Epoch rest = run_epoch(resumed);
    if (stop < first.size()) {
      EXPECT_EQ(rest, Epoch(first.begin() + static_cast<std::ptrdiff_t>(stop), first.end()));
      rest = run_epoch(resumed);
    }
    EXPECT_EQ(rest, second);
    EXPECT_EQ(run_epoch(loader), second);  // a loop that was left early counts as an epoch
  }
}

struct Failing : data::Dataset {
  std::int64_t size() const override { return 10; }
  data::Batch get(std::span<const std::int64_t> indices) const override {
    check(indices[0] < 4, "failing: sample ", indices[0]);
    return {zeros({1}), zeros({1})};
  }
};

TEST(Loader, ErrorsReachTheCaller) {
  for (const std::int64_t prefetch : {0, 1, 5}) {
    int seen = 0;
    const std::string message = error_of([&] {
      for ([[maybe_unused]] const auto& batch :
           data::Loader(Failing(), {.batch_size = 2, .prefetch = prefetch})) {
        ++seen;
      }
    });
    EXPECT_EQ(message, "failing: sample 4");
    EXPECT_EQ(seen, 2);
  }
}

TEST(Loader, RejectsBadOptions) {
  EXPECT_NE(error_of([] { data::Loader(counting(3), {.batch_size = 4}); }).find("the data set has 3"),
            std::string::npos);
  EXPECT_THROW(data::Loader(counting(3), {.batch_size = 0}), Error);
  EXPECT_THROW(data::Loader(counting(3), {.prefetch = -1}), Error);
  data::Loader loader(counting(3), {.batch_size = 1});
  EXPECT_THROW(loader.load_state({0, 3}), Error);
  EXPECT_THROW(data::TensorDataset(zeros({3, 1}), zeros({4})), Error);
}

std::vector<Epoch> ranks_epochs(std::int64_t n, data::LoaderOptions options, std::int64_t world_size) {
  std::vector<Epoch> out;
  for (std::int64_t rank = 0; rank < world_size; ++rank) {
    options.rank = rank;
    options.world_size = world_size;
    data::Loader loader(counting(n), options);
    out.push_back(run_epoch(loader));
  }
  return out;
}

TEST(Loader, RanksShareTheGlobalBatchesOfOneProcess) {
  const data::LoaderOptions options{.batch_size = 8, .shuffle = true, .drop_last = true, .seed = 3};
  data::Loader alone(counting(27), options);
  const Epoch whole = run_epoch(alone);
  ASSERT_EQ(whole.size(), 3U);
  for (const std::int64_t world_size : {1, 2, 4, 8}) {
    const std::vector<Epoch> parts = ranks_epochs(27, options, world_size);
    for (std::size_t batch = 0; batch < whole.size(); ++batch) {
      std::vector<std::int64_t> together;
      for (const Epoch& part : parts) together.insert(together.end(), part[batch].begin(), part[batch].end());
      EXPECT_EQ(together, whole[batch]) << world_size << " ranks";
    }
  }
}

TEST(Loader, ALastBatchIsPaddedWithTheFirstSamples) {
  // 10 samples in batches of 8: two are left, one for each of two ranks; four ranks need two more.
  EXPECT_EQ(ranks_epochs(10, {.batch_size = 8}, 2), (std::vector<Epoch>{{{0, 1, 2, 3}, {8}}, {{4, 5, 6, 7}, {9}}}));
  EXPECT_EQ(ranks_epochs(10, {.batch_size = 8}, 4), (std::vector<Epoch>{{{0, 1}, {8}}, {{2, 3}, {9}}, {{4, 5}, {0}}, {{6, 7}, {1}}}));
  // The same samples for any number of ranks.
  EXPECT_EQ(ranks_epochs(10, {.batch_size = 8, .pad_multiple = 4}, 2), (std::vector<Epoch>{{{0, 1, 2, 3}, {8, 9}}, {{4, 5, 6, 7}, {0, 1}}}));
  EXPECT_EQ(ranks_epochs(10, {.batch_size = 8, .pad_multiple = 4}, 1), (std::vector<Epoch>{{{0, 1, 2, 3, 4, 5, 6, 7}, {8, 9, 0, 1}}}));
  EXPECT_EQ(ranks_epochs(10, {.batch_size = 8, .drop_last = true}, 2), (std::vector<Epoch>{{{0, 1, 2, 3}}, {{4, 5, 6, 7}}}));
}

TEST(Loader, ShuffledPaddingComesFromTheEpoch) {
  const std::vector<Epoch> parts = ranks_epochs(10, {.batch_size = 8, .shuffle = true, .seed = 4}, 4);
  std::vector<std::int64_t> seen;
  for (const Epoch& part : parts)
    for (const auto& batch : part) seen.insert(seen.end(), batch.begin(), batch.end());
  ASSERT_EQ(seen.size(), 12U);
  std::ranges::sort(seen);
  const auto twice = std::ranges::unique(seen);
  EXPECT_EQ(std::ranges::distance(seen.begin(), twice.begin()), 10);  // each sample, two of them twice
}

TEST(Loader, BadRanks) {
  const auto error = [](data::LoaderOptions options) { return error_of([&] { data::Loader loader(counting(20), options); }); };
  EXPECT_TRUE(error({.batch_size = 8, .rank = 2, .world_size = 2}).starts_with("Loader: rank must be in [0, world_size), got 2 of 2"));
  EXPECT_TRUE(error({.batch_size = 9, .world_size = 2}).starts_with("Loader: the global batch_size must be a multiple of pad_multiple"));
  EXPECT_TRUE(error({.batch_size = 12, .world_size = 2, .pad_multiple = 3}).starts_with("Loader: the global batch_size must be"));
}

}  // namespace
