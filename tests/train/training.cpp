// Small trainings: same bits for any number of threads, lower losses in every precision, and a run that was killed and
// resumed ends where an unbroken one does.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <filesystem>

#include "binade/binade.h"

namespace binade::test {

namespace {

struct Text {  // a sequence a small model can learn: each token follows from the one before
  Tensor tokens, targets;
};
Text text(std::int64_t vocabulary, std::int64_t batch, std::int64_t time, std::int64_t step) {
  std::vector<std::int64_t> tokens, targets;
  for (std::int64_t b = 0; b < batch; ++b) {
    std::int64_t token = (step * 31 + b * 7) % vocabulary;
    for (std::int64_t t = 0; t < time; ++t) {
      tokens.push_back(token);
      token = (token * 3 + 1) % vocabulary;
      targets.push_back(token);
    }
  }
  return {from_vector(tokens, {batch, time}), from_vector(targets, {batch, time})};
}

constexpr std::int64_t vocabulary = 29;
nn::GPT small_gpt(double dropout) {
  return nn::GPT(
      {.vocab_size = vocabulary, .block_size = 12, .n_layer = 2, .n_head = 2, .n_embd = 32, .dropout = dropout});
}

struct TinyTraining {  // a training that can be stopped and resumed
  nn::GPT model = small_gpt(0.1);
  optim::AdamW optimizer{model.parameters(), {.lr = 3e-3}};
  amp::GradScaler scaler{{.init_scale = 1024, .growth_interval = 4}};
  DType dtype;
  std::int64_t step = 0;
  std::vector<double> losses;

  explicit TinyTraining(DType precision) : dtype(precision) {}

  void train(std::int64_t until) {
    for (; step < until; ++step) {
      const auto [tokens, targets] = text(vocabulary, 4, 12, step);
      Tensor loss;
      {
        const amp::Autocast autocast(dtype);
        loss = model.loss(tokens, targets);
      }
      scaler.scale(loss).backward();
      scaler.step(optimizer);
      scaler.update();
      optimizer.zero_grad();
      losses.push_back(loss.item<double>());
    }
  }
  std::vector<float> weights() const {
    std::vector<float> all;
    for (const Tensor& p : model.parameters())
      for (const float v : p.to_vector<float>()) all.push_back(v);
    return all;
  }
};

class Precisions : public ::testing::TestWithParam<DType> {};

TEST_P(Precisions, GptLearns) {
  manual_seed(1);
  TinyTraining run(GetParam());
  run.train(60);
  EXPECT_NEAR(run.losses.front(), std::log(static_cast<double>(vocabulary)), 1);
  EXPECT_LT(run.losses.back(), 0.4 * run.losses.front());
}

TEST_P(Precisions, SameBitsForOneAndTwoThreads) {
  const int threads = omp_get_max_threads();
  const auto train = [&](int count) {
    omp_set_num_threads(count);
    manual_seed(2);
    TinyTraining run(GetParam());
    run.train(4);
    return std::pair(run.losses, run.weights());
  };
  const auto one = train(1), two = train(2), again = train(2);
  omp_set_num_threads(threads);
  EXPECT_EQ(one.first, two.first);
  EXPECT_TRUE(one.second == two.second) << "weights differ between one and two threads";
  EXPECT_TRUE(two.second == again.second) << "weights differ between two equal runs";
}

TEST_P(Precisions, ResumedRunEndsWhereAnUnbrokenOneDoes) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("binade_resume_" + to_text(GetParam()) + ".safetensors")).string();
  manual_seed(3);
  TinyTraining unbroken(GetParam());
  unbroken.train(5);
  io::save_checkpoint(path, {.model = unbroken.model.state_dict(),
                             .optimizer = unbroken.optimizer.state_dict(),
                             .scaler = unbroken.scaler.state_dict(),
                             .random = random_state(),
                             .loader = {},
                             .step = unbroken.step,
                             .numbers = {}});
  unbroken.train(10);

  manual_seed(999);  // a new process knows nothing
  TinyTraining resumed(GetParam());
  const io::Checkpoint checkpoint = io::load_checkpoint(path);
  resumed.model.load_state_dict(checkpoint.model);
  resumed.optimizer.load_state_dict(checkpoint.optimizer);
  resumed.scaler.load_state_dict(checkpoint.scaler);
  set_random_state(checkpoint.random);
  resumed.step = checkpoint.step;
  resumed.train(10);
  std::filesystem::remove(path);

  EXPECT_EQ(resumed.step, 10);
  EXPECT_EQ(std::vector<double>(unbroken.losses.begin() + 5, unbroken.losses.end()), resumed.losses);
  EXPECT_TRUE(unbroken.weights() == resumed.weights());
  EXPECT_EQ(unbroken.scaler.get_scale(), resumed.scaler.get_scale());
}

std::string dtype_name(const ::testing::TestParamInfo<DType>& info) { return to_text(info.param); }
INSTANTIATE_TEST_SUITE_P(Training, Precisions, ::testing::Values(DType::f32, DType::bf16, DType::f16), dtype_name);

// A layer wide enough that every kernel splits its work.
TEST(Threads, WideMlpGivesTheSameBits) {
  const int threads = omp_get_max_threads();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto train = [&](int count) {
      omp_set_num_threads(count);
      manual_seed(4);
      nn::Sequential model(nn::Linear(300, 511), nn::GELU(), nn::LayerNorm(511), nn::Dropout(0.1), nn::Linear(511, 10));
      optim::AdamW optimizer(model.parameters(), {.lr = 1e-3});
      std::vector<float> bits;
      for (int step = 0; step < 3; ++step) {
        const Tensor x = randn({130, 300}), targets = randint(0, 10, {130});
        Tensor loss;
        {
          const amp::Autocast autocast(dtype);
          loss = cross_entropy(model(x), targets);
        }
        loss.backward();
        optim::clip_grad_norm_(model.parameters(), 1.0);
        optimizer.step();
        optimizer.zero_grad();
        bits.push_back(loss.item<float>());
      }
      for (const Tensor& p : model.parameters())
        for (const float v : p.to_vector<float>()) bits.push_back(v);
      return bits;
    };
    EXPECT_TRUE(train(1) == train(2)) << name(dtype);
  }
  omp_set_num_threads(threads);
}

TEST(Scaling, SmallF16GradientsSurviveThroughTheScaler) {
  // dy * x is 2^-26 or so: below f16's smallest number, unless it is scaled.
  const auto gradient = [](double scale) {
    const Tensor w = ones({4, 4}, {.requires_grad = true});
    amp::GradScaler scaler({.init_scale = scale});
    optim::SGD optimizer({w}, {.lr = 1});
    Tensor loss;
    {
      const amp::Autocast autocast(DType::f16);
      const Tensor y = linear(ones({1, 4}), w);
      loss = sum(y) * 0x1p-27;
    }
    scaler.scale(loss).backward();
    scaler.unscale_(optimizer);
    return w.grad().at(0);
  };
  EXPECT_EQ(gradient(1), 0);
  EXPECT_EQ(gradient(65536), 0x1p-27);
}

TEST(Scaling, OverflowSkipsTheStepAndLowersTheScale) {
  const Tensor w = ones({2}, {.requires_grad = true});
  optim::SGD optimizer({w}, {.lr = 0.1});
  amp::GradScaler scaler({.init_scale = 1024, .growth_interval = 2});
  const auto step = [&](double factor) {
    scaler.scale(sum(w * factor)).backward();
    scaler.step(optimizer);
    scaler.update();
    optimizer.zero_grad();
  };
  step(INFINITY);
  EXPECT_EQ(w.to_vector<float>(), (std::vector<float>{1, 1}));
  EXPECT_EQ(scaler.get_scale(), 512);
  EXPECT_TRUE(scaler.last_step_skipped());
  step(1);
  EXPECT_FALSE(scaler.last_step_skipped());
  EXPECT_EQ(w.to_vector<float>(), (std::vector<float>{0.9F, 0.9F}));
  EXPECT_EQ(scaler.get_scale(), 512);
  step(1);
  EXPECT_EQ(scaler.get_scale(), 1024);
  EXPECT_EQ(scaler.skipped_steps(), 1);
}

}  // namespace

}  // namespace binade::test
