// Buckets: their sizes and order, gradients as views, and communication that begins before backward ends.
#include <algorithm>
#include <cstdio>
#include <thread>

#include "binade/tests/distributed/models.h"

namespace {

using namespace binade;
using namespace binade::test;

using Buckets = Ranks;
using Names = std::vector<std::string>;

TEST_F(Buckets, ReverseOrderFirstOneSmall) {
  const nn::Sequential model = small_mlp();
  const dist::DataParallel parallel(model, small_buckets(shared_group()));
  EXPECT_TRUE(parallel.buckets().empty());
  cross_entropy(model(ones({2, 20}, {.device = device()})), zeros({2}, {.dtype = DType::i64, .device = device()})).backward();
  const auto buckets = parallel.buckets();
  ASSERT_EQ(buckets.size(), 3U);  // the first one is full at 970 bytes, others at 4096
  EXPECT_EQ(buckets[0].names, (Names{"4.weight", "4.bias"}));
  EXPECT_EQ(buckets[1].names, (Names{"2.weight"}));
  EXPECT_EQ(buckets[2].names, (Names{"2.bias", "0.weight", "0.bias"}));
  EXPECT_GE(buckets[0].bytes, 245 * 4);
  EXPECT_LT(buckets[0].bytes, 245 * 4 + 16);  // padded to the number of ranks
}

struct Swapped : nn::Module {  // registered in the order opposite to use
  nn::Linear second = add("second", nn::Linear(6, 6)), first = add("first", nn::Linear(6, 6));
  Tensor operator()(const Tensor& x) const { return second(relu(first(x))); }
};

TEST_F(Buckets, RebuiltInTheOrderOfUse) {
  Swapped model;
  model.to(device());
  const dist::DataParallel parallel(model, {.group = shared_group(), .first_bucket_bytes = 1, .bucket_bytes = 1});
  mean(model(ones({2, 6}, {.device = device()}))).backward();
  const auto buckets = parallel.buckets();
  ASSERT_EQ(buckets.size(), 4U);
  EXPECT_TRUE(buckets[0].names[0].starts_with("second")) << buckets[0].names[0];  // used last: its gradient comes first
  EXPECT_TRUE(buckets[3].names[0].starts_with("first")) << buckets[3].names[0];
}

TEST_F(Buckets, GradientsAreViews) {
  nn::Sequential model = small_mlp();
  const dist::DataParallel parallel(model, small_buckets(shared_group()));
  std::vector<const std::byte*> places;
  for (int step = 0; step < 3; ++step) {
    cross_entropy(model(ones({2, 20}, {.device = device()})), zeros({2}, {.dtype = DType::i64, .device = device()})).backward();
    std::vector<const std::byte*> now;
    for (const auto& parameter : parallel.reducer()->parameters()) {
      const Tensor& flat = parallel.reducer()->buckets()[parameter.bucket].gradients;
      EXPECT_TRUE(parameter.tensor.grad().shares_memory_with(flat)) << parameter.name;
      now.push_back(TensorView(parameter.tensor.grad()).data);
      EXPECT_EQ(now.back(), TensorView(flat).data + parameter.offset * 4);
    }
    EXPECT_TRUE(step == 0 || now == places);  // the rebuilt buckets stay
    places = now;
    model.zero_grad();
  }
}

TEST_F(Buckets, AGradientFromOutsideIsTakenIn) {
  nn::Sequential model = small_mlp();
  const dist::DataParallel parallel(model, small_buckets(shared_group()));
  const auto step = [&] { cross_entropy(model(ones({2, 20}, {.device = device()})), zeros({2}, {.dtype = DType::i64, .device = device()})).backward(); };
  step();
  Tensor bias = model.named_parameters()[1].second;
  const std::vector<float> once = bias.grad().to_vector<float>();
  model.zero_grad();
  bias.set_grad(full(bias.shape(), rank(), {.device = device()}));  // the next backward adds to it
  step();
  for (std::int64_t i = 0; i < bias.numel(); ++i)
    EXPECT_NEAR(bias.grad().at(i), once[static_cast<std::size_t>(i)] + (size() - 1) / 2.0, 1e-6);
}

// The order of events, not their times: the last gradient of backward waits until the first bucket's all_reduce has begun.
TEST_F(Buckets, CommunicationStartsBeforeBackwardEnds) {
  if (size() == 1) GTEST_SKIP() << "needs 2 ranks";
  const nn::Sequential model = small_mlp();
  const auto first_started = [] {
    for (const std::string& event : noted())
      if (event.starts_with("started all_reduce")) return true;
    return false;
  };
  bool watching = false, overlapped = false;
  Tensor last = model.parameters().front();
  last.register_hook([&](const Tensor&) {  // before DataParallel's own hook
    if (!watching) return Tensor();
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!first_started() && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
    overlapped = first_started();
    note("the last gradient");
    return Tensor();
  });
  const dist::DataParallel parallel(model, small_buckets(shared_group()));
  const auto step = [&] { cross_entropy(model(ones({2, 20}, {.device = device()})), zeros({2}, {.dtype = DType::i64, .device = device()})).backward(); };
  for (int i = 0; i < 2; ++i) {  // with the first buckets and with the rebuilt ones
    clear_notes();
    watching = true;
    step();
    note("backward ended");
    EXPECT_TRUE(overlapped);
    const auto finished = [&] {
      const auto events = noted();
      return std::ranges::count_if(events, [](const std::string& e) { return e.starts_with("finished all_reduce"); });
    };
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);  // a device ends when it ends
    while (device() != Device{} && finished() < 3 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
    const std::vector<std::string> events = noted();
    const auto at = [&](const std::string& event) { return std::ranges::find_if(events, [&](const std::string& e) { return e.starts_with(event); }) - events.begin(); };
    EXPECT_LT(at("started all_reduce"), at("the last gradient"));
    EXPECT_LT(at("the last gradient"), at("backward ended"));
    EXPECT_EQ(finished(), 3);
    if (rank() == 0 && i == 0)
      for (const std::string& event : events) std::printf("    %s\n", event.c_str());
  }
}

}  // namespace
