// Whole trainings on the device follow the CPU's. They cannot have its bits (sums of products in another order), so the
// allowed distance is measured: how far the CPU's own losses move when its starting weights change by one rounding of the
// dtype the products are taken in.
#include <gtest/gtest.h>

#include "binade/core/backend/kernels.h"
#include "binade/tests/cuda/networks.h"
#include "binade/tests/cuda/simulated.h"

namespace binade::test {

namespace {

constexpr int steps = 50, overflow_at = 10;

// Every element times 1 + d, |d| <= epsilon of the dtype.
void disturb(const Tensors& params, DType dtype, std::uint64_t seed) {
  const NoGrad no_grad;
  manual_seed(seed);
  for (Tensor p : params) p.copy_(mul(p, rand(p.shape()) * (2 * epsilon(dtype)) + (1 - epsilon(dtype))));
}

// run(device, seed of a disturbance or 0) -> losses of one training.
template <class Run>
void expect_to_follow_the_cpu(DType dtype, Device gpu, const Run& run) {
  const std::vector<double> expected = run(Device{}, 0), got = run(gpu, 0);
  double moved = 0;
  for (const std::uint64_t seed : {1, 2, 3}) {
    const std::vector<double> disturbed = run(Device{}, seed);
    for (std::size_t t = 0; t < expected.size(); ++t) moved = std::max(moved, std::abs(disturbed[t] - expected[t]));
  }
  // Every step rounds again where the disturbance rounded once.
  const double allowed = 4 * moved + epsilon(dtype);
  ASSERT_EQ(got.size(), expected.size());
  double farthest = 0;
  for (std::size_t t = 0; t < expected.size(); ++t) {
    ASSERT_NEAR(got[t], expected[t], allowed) << "step " << t;
    farthest = std::max(farthest, std::abs(got[t] - expected[t]));
  }
  EXPECT_LT(expected.back(), 0.8 * expected.front()) << "it learns";
  EXPECT_LT(allowed, 0.5 * (expected.front() - expected.back())) << "the comparison could not tell learning from none";
  std::printf("  losses %.4f to %.4f, farthest apart %.2g, allowed %.2g\n", expected.front(), expected.back(), farthest,
              allowed);
}

class CudaTraining : public CudaDevice, public ::testing::WithParamInterface<Mode> {};

TEST_P(CudaTraining, MlpFollowsTheCpu) {
  const Mode mode = GetParam();
  expect_to_follow_the_cpu(autocast_dtype(mode), gpu, [&](Device device, std::uint64_t seed) {
    MlpTraining training(mode, device);
    if (seed != 0) disturb(training.model.parameters(), autocast_dtype(mode), seed);
    std::vector<double> losses;
    for (int t = 0; t < steps; ++t) {
      const bool overflow = mode == Mode::fp16 && t == overflow_at;
      losses.push_back(training.step(overflow ? INFINITY : 1).item<double>());
      if (overflow) {
        EXPECT_TRUE(training.scaler.last_step_skipped());
      }
    }
    if (mode == Mode::fp16) {
      EXPECT_EQ(training.scaler.skipped_steps(), 1) << to_text(device);
      EXPECT_EQ(training.scaler.get_scale(), 1024) << "halved once, doubled after 20 good steps";
      EXPECT_EQ(training.optimizer->state_dict().at("state.0.step").item<std::int64_t>(), steps - 1);
    }
    return losses;
  });
}
INSTANTIATE_TEST_SUITE_P(, CudaTraining, ::testing::ValuesIn(all_modes),
                         [](const auto& p) { return name_of(p.param); });

TEST_F(CudaDevice, TinyGptFollowsTheCpu) {
  load_backend(DeviceType::cuda);
  for (const auto& [present, what] : {std::pair(kernel::attention.function(DeviceType::cuda) != nullptr, "attention"),
                                      {kernel::attention_backward.function(DeviceType::cuda) != nullptr, "attention_backward"}})
    if (!present) GTEST_SKIP() << "the CUDA backend has no kernel " << what << " yet";
  constexpr std::int64_t vocabulary = 29, batch = 4, time = 12;
  expect_to_follow_the_cpu(DType::bf16, gpu, [&](Device device, std::uint64_t seed) {
    manual_seed(23);
    nn::GPT model({.vocab_size = vocabulary, .block_size = time, .n_layer = 1, .n_head = 2, .n_embd = 32});
    model.to(device);
    if (seed != 0) disturb(model.parameters(), DType::bf16, seed);
    optim::AdamW optimizer(model.parameters(), {.lr = 3e-3});
    std::vector<double> losses;
    for (int t = 0; t < 20; ++t) {
      std::vector<std::int64_t> tokens;  // each follows from the one before
      for (std::int64_t i = 0; i < batch * (time + 1); ++i)
        tokens.push_back(i % (time + 1) == 0 ? (t * 31 + i) % vocabulary : (tokens.back() * 3 + 1) % vocabulary);
      const Tensor text = from_vector(tokens, {batch, time + 1}).to(device);
      Tensor loss;
      {
        const amp::Autocast autocast(DType::bf16);
        loss = model.loss(text.narrow(1, 0, time).reshape({batch, time}), text.narrow(1, 1, time).reshape({batch, time}));
      }
      loss.backward();
      optimizer.step();
      optimizer.zero_grad();
      losses.push_back(loss.item<double>());
    }
    return losses;
  });
}

TEST_F(CudaDevice, IsChosenByItselfWhereItCanTrain) { EXPECT_EQ(default_device(), gpu); }

}  // namespace

}  // namespace binade::test
