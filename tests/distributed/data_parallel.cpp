// DataParallel against one process: gradients, whole runs, overflow, accumulation, unused parameters.
#include <algorithm>

#include "binade/tests/core/expect_error.h"
#include "binade/tests/distributed/models.h"

namespace {

using namespace binade;
using namespace binade::test;

using DataParallel = Ranks;

// In f64 only a mistake can make a difference: rounding is 2^-53, and a step's sums have at most 32 * 48 terms.
TEST_F(DataParallel, SameAsOneProcessInF64) {
  const Trained one = train({.group = alone(), .dtype = DType::f64}), many = train({.group = shared_group(), .dtype = DType::f64});
  for (std::size_t i = 0; i < one.parameters.size(); ++i) {
    EXPECT_LT(largest_difference(many.parameters[i], one.parameters[i]), 1e-12);
    EXPECT_TRUE(same_on_all_ranks(many.parameters[i]));
  }
  for (std::size_t i = 0; i < one.losses.size(); ++i) EXPECT_NEAR(many.losses[i], one.losses[i], 1e-12);
}

// FP32 rounding, 2^-24 for each sum of at most 32 * 48 terms: growth 40, twenty steps, momentum 0.9 (sums to 10).
TEST_F(DataParallel, SameAsOneProcessToRoundingInF32) {
  const Trained one = train({.group = alone()}), many = train({.group = shared_group()});
  for (std::size_t i = 0; i < one.parameters.size(); ++i) {
    EXPECT_LT(largest_difference(many.parameters[i], one.parameters[i]), 0x1p-24 * 40 * 20 * 10);
    EXPECT_TRUE(same_on_all_ranks(many.parameters[i]));
  }
}

TEST_F(DataParallel, DeterministicReductionGivesTheSameBits) {
  for (const DType autocast : {DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(name(autocast));
    const Trained one = train({.group = alone(), .micro_batches = 8, .autocast = autocast, .clip_norm = 0.5});
    const Trained many = train({.group = shared_group(), .micro_batches = 8, .autocast = autocast, .clip_norm = 0.5});
    expect_same_bits(many.parameters, one.parameters);
    EXPECT_EQ(many.losses, one.losses);
    EXPECT_LT(many.losses.back(), many.losses.front());
  }
}

// The gradient of a deterministic step is what one backward over the whole batch gives.
TEST_F(DataParallel, DeterministicReductionIsTheMean) {
  const Trained whole = train({.group = alone(), .dtype = DType::f64});
  const Trained parts = train({.group = shared_group(), .micro_batches = 4, .dtype = DType::f64});
  for (std::size_t i = 0; i < whole.parameters.size(); ++i)
    EXPECT_LT(largest_difference(parts.parameters[i], whole.parameters[i]), 1e-12);
}

TEST_F(DataParallel, OverflowOnOneRankSkipsTheStepEverywhere) {
  std::vector<std::int64_t> skipped;
  std::vector<double> scales;
  const Trained many = train({.group = shared_group(),
                              .steps = 8,
                              .autocast = DType::f16,
                              .after_step =
                                  [&](std::int64_t, amp::GradScaler& scaler) {
                                    skipped.push_back(scaler.skipped_steps());
                                    scales.push_back(scaler.get_scale());
                                  },
                              .spoil =
                                  [](std::int64_t step, Tensor& loss) {
                                    if (step == 3 && group().rank() == group().size() - 1) loss = loss * 1e38;
                                  }});
  EXPECT_EQ(skipped, (std::vector<std::int64_t>{0, 0, 0, 1, 1, 1, 1, 1}));
  EXPECT_EQ(scales[2], 1024);
  EXPECT_EQ(scales[3], 512);
  for (const Tensor& x : many.parameters) EXPECT_TRUE(same_on_all_ranks(x));
}

// An infinity that appears on one rank after the reduction: without agreement that rank alone would skip.
TEST_F(DataParallel, FoundInfIsAgreed) {
  Tensor parameter = ones({4}, {.device = device(), .requires_grad = true});
  optim::SGD optimizer({parameter}, {.lr = 1});
  amp::GradScaler scaler({.agree = dist::agree_on_overflow(shared_group())});
  Tensor gradient = ones({4});
  if (rank() == size() - 1) gradient.set(2, INFINITY);
  parameter.set_grad(gradient.to(device()));
  scaler.step(optimizer);
  scaler.update();
  EXPECT_TRUE(scaler.last_step_skipped());
  EXPECT_EQ(parameter.at(0), 1);
}

TEST_F(DataParallel, ValuesOfRankZero) {
  const nn::Sequential model = small_mlp(100 + static_cast<std::uint64_t>(rank()));
  nn::BatchNorm1d norm(3);
  norm.to(device());
  for (const auto& [name, x] : norm.named_buffers()) Tensor(x).fill_(rank() + 2);
  const dist::DataParallel parallel(model, {.group = shared_group()}), other(norm, {.group = shared_group()});
  const nn::Sequential expected = small_mlp(100);
  for (std::size_t i = 0; i < expected.parameters().size(); ++i)
    EXPECT_EQ(model.parameters()[i].to_vector<float>(), expected.parameters()[i].to_vector<float>());
  for (const auto& [name, x] : norm.named_buffers()) EXPECT_EQ(x.at(0), 2) << name;
}

TEST_F(DataParallel, RunningStatisticsStayTogether) {
  nn::BatchNorm1d norm(3);
  norm.to(device());
  const dist::DataParallel parallel(norm, {.group = shared_group()});
  manual_seed(static_cast<std::uint64_t>(rank()));
  mean(norm(randn({16, 3}).to(device()))).backward();
  EXPECT_NE(norm.named_buffers()[0].second.at(0), 0);
  for (const auto& [name, x] : norm.named_buffers()) EXPECT_TRUE(same_on_all_ranks(x)) << name;
}

TEST_F(DataParallel, ModelsThatDifferAreAnError) {
  if (size() == 1) GTEST_SKIP() << "needs 2 ranks";
  const bool last = rank() == size() - 1;
  const std::string who = size() == 2 ? "0" : "0, 1, 2", last_rank = std::to_string(size() - 1);
  const auto error = [](const nn::Module& model) {
    return error_of([&] { const dist::DataParallel parallel(model, {.group = shared_group()}); });
  };
  const std::string shape = error(nn::Sequential(nn::Linear(4, 8), nn::Linear(8, last ? 3 : 2)));
  EXPECT_EQ(shape, "DataParallel: the ranks' models differ: 1.weight [2, 8] f32 on rank " + who + "; 1.weight [3, 8] f32 on rank " + last_rank);
  nn::Sequential half(nn::Linear(4, 8), nn::ReLU());
  if (last) half.to(DType::bf16);
  EXPECT_NE(error(half).find("0.weight [8, 4] bf16 on rank " + last_rank), std::string::npos);
  nn::Sequential longer(nn::Linear(4, 8), nn::ReLU());
  if (last) longer.push_back(nn::Linear(8, 8));
  EXPECT_NE(error(longer).find("nothing on rank " + who), std::string::npos) << error(longer);
}

TEST_F(DataParallel, NoSyncAccumulates) {
  const data::Batch set = small_batch(64);
  const std::int64_t share = 32 / size();
  const auto part = [&](std::int64_t half) { return data::Batch{set.inputs.narrow(0, 32 * half + rank() * share, share), set.targets.narrow(0, 32 * half + rank() * share, share)}; };
  nn::Sequential model = small_mlp(), whole = small_mlp();
  model.to(DType::f64), whole.to(DType::f64);
  const dist::DataParallel parallel(model, small_buckets(shared_group()));
  const auto backward = [](nn::Sequential& m, const data::Batch& b) { cross_entropy(m(b.inputs.to(DType::f64)), b.targets).backward(); };
  for (int step = 0; step < 2; ++step) {
    {
      const auto local = parallel.no_sync();
      group().barrier().wait();  // all that was asked for has started
      clear_notes();
      backward(model, part(0));
      // Nothing is communicated. What came before may still be on its way to its end.
      EXPECT_TRUE(std::ranges::none_of(noted(), [](const std::string& event) { return event.starts_with("started"); }));
    }
    backward(model, part(1));
    backward(whole, {set.inputs.narrow(0, 0, 32), set.targets.narrow(0, 0, 32)});
    backward(whole, {set.inputs.narrow(0, 32, 32), set.targets.narrow(0, 32, 32)});
    for (std::size_t i = 0; i < model.parameters().size(); ++i)
      EXPECT_LT(largest_difference(model.parameters()[i].grad(), whole.parameters()[i].grad()), 1e-13);
    model.zero_grad(), whole.zero_grad();
  }
}

struct TwoHeads : nn::Module {
  nn::Linear body = add("body", nn::Linear(4, 4)), left = add("left", nn::Linear(4, 1)), right = add("right", nn::Linear(4, 1)),
             never = add("never", nn::Linear(4, 1));
};

TEST_F(DataParallel, UnusedParametersAreNamed) {
  TwoHeads model;
  model.to(device());
  const dist::DataParallel parallel(model, {.group = shared_group()});
  expect_error([&] { mean(model.left(model.body(ones({2, 4}, {.device = device()})))).backward(); },
               "DataParallel: backward gave no gradient to right.weight, right.bias, never.weight, never.bias: use them");
}

TEST_F(DataParallel, UnusedParametersAreFound) {
  manual_seed(3);
  TwoHeads model;
  model.to(device());
  const dist::DataParallel parallel(model, {.group = shared_group(), .find_unused_parameters = true});
  for (int step = 0; step < 3; ++step) {  // after the first the buckets are rebuilt
    const bool left = rank() == 0;
    const Tensor x = ones({2, 4}, {.device = device()});
    mean(left ? model.left(model.body(x)) : model.right(model.body(x))).backward();
    // d mean / d bias = 1 for a head that is used
    EXPECT_FLOAT_EQ(static_cast<float>(model.left.bias.grad().at(0)), 1.0F / static_cast<float>(size()));
    if (size() > 1) {
      EXPECT_FLOAT_EQ(static_cast<float>(model.right.bias.grad().at(0)), static_cast<float>(size() - 1) / static_cast<float>(size()));
    } else {
      EXPECT_FALSE(model.right.bias.grad());
    }
    EXPECT_FALSE(model.never.weight.grad());  // no rank used it: the optimizer leaves it alone
    EXPECT_TRUE(same_on_all_ranks(model.body.weight.grad()));
    model.zero_grad();
  }
}

TEST_F(DataParallel, Bf16Communication) {
  nn::Sequential model = small_mlp(), whole = small_mlp();
  dist::DataParallelOptions options = small_buckets(shared_group());
  options.communication = DType::bf16;
  const dist::DataParallel parallel(model, options);
  const data::Batch set = small_batch(32);
  const std::int64_t share = 32 / size();
  group().barrier().wait();  // all that was asked for has started; that it ended may be noted later
  clear_notes();
  cross_entropy(model(set.inputs.narrow(0, rank() * share, share)), set.targets.narrow(0, rank() * share, share)).backward();
  const std::vector<std::string> events = noted();
  const auto first = std::ranges::find_if(events, [](const std::string& event) { return event.starts_with("started"); });
  ASSERT_NE(first, events.end());
  EXPECT_TRUE(first->starts_with("started all_reduce") && first->find("avg of bf16") != std::string::npos) << *first;
  cross_entropy(whole(set.inputs), set.targets).backward();
  for (std::size_t i = 0; i < model.parameters().size(); ++i) {
    const Tensor grad = model.parameters()[i].grad();
    EXPECT_EQ(grad.dtype(), DType::f32);
    // One rounding to bf16 (2^-9) of each rank's gradient, one of the mean; ranks' gradients are larger than their mean.
    EXPECT_LT(largest_difference(grad, whole.parameters()[i].grad()), 2 * 0x1p-9 * 3);
    EXPECT_TRUE(same_on_all_ranks(grad));
  }
}

TEST_F(DataParallel, SixteenBitParameters) {
  const Trained one = train({.group = alone(), .steps = 3, .dtype = DType::bf16}), many = train({.group = shared_group(), .steps = 3, .dtype = DType::bf16});
  for (std::size_t i = 0; i < one.parameters.size(); ++i) {
    EXPECT_LT(largest_difference(many.parameters[i], one.parameters[i]), 8 * 0x1p-9);
    EXPECT_TRUE(same_on_all_ranks(many.parameters[i]));
  }
}

TEST_F(DataParallel, BadOptions) {
  const nn::Sequential model = small_mlp();
  const auto expect = [&](dist::DataParallelOptions options, const char* text) {
    expect_error([&] { const dist::DataParallel parallel(model, std::move(options)); }, std::string("DataParallel: ") + text);
  };
  expect({}, "options.group is not set");
  expect({.group = shared_group(), .bucket_bytes = 0}, "bucket sizes must be positive");
  expect({.group = shared_group(), .communication = DType::f16}, "communication must be f32 or bf16, got f16");
  expect({.group = shared_group(), .micro_batches = 12}, "micro_batches must be a power of two");
  expect({.group = shared_group(), .find_unused_parameters = true, .micro_batches = 8}, "micro_batches goes neither");
  const dist::DataParallel parallel(model, {.group = shared_group(), .micro_batches = 4 * size()});
  expect_error([&] { parallel.split(data::Batch{zeros({6, 20}), zeros({6})}); }, "DataParallel: split: 6 samples");
  expect_error([&] { (void)parallel.no_sync(); }, "DataParallel: no_sync:");
}

}  // namespace
