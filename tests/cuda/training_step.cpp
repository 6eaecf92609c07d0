// What a training step asks of the simulated device: no wait of the host, no memory from the driver, and an error
// instead of a crash when any of its calls fails.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "binade/core/autograd/observer.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/cuda/networks.h"
#include "binade/tests/cuda/simulated.h"

namespace binade::test {

namespace {

class TrainingStep : public SimulatedDevice, public ::testing::WithParamInterface<Mode> {};

// Of `count` steps after the first `warm_up`, which allocate what stays.
template <class Step>
simt::Counters steady(const simt::SimulatorEntry& simulator, int warm_up, int count, const Step& step) {
  for (int t = 0; t < warm_up; ++t) step();
  const simt::Counters before = simulator.counters();
  for (int t = 0; t < count; ++t) step();
  simt::Counters used = simulator.counters();
  used.host_syncs -= before.host_syncs;
  used.allocations -= before.allocations;
  used.bytes_to_host -= before.bytes_to_host;
  used.launches -= before.launches;
  used.library_launches -= before.library_launches;
  used.memsets -= before.memsets;
  return used;
}

TEST_P(TrainingStep, WaitsForNothingAndAllocatesNothing) {
  MlpTraining training(GetParam(), gpu);
  constexpr std::uint64_t count = 8;
  const simt::Counters used = steady(*simulator, 3, count, [&] { training.step(); });
  EXPECT_EQ(used.host_syncs, 0U);
  EXPECT_EQ(used.bytes_to_host, 0U);
  EXPECT_EQ(used.allocations, 0U);
  EXPECT_GT(used.launches, 10 * count) << "the counters count";
  std::printf("  simulated device: %llu launches per step, %llu of them cuBLASLt, and %llu memsets\n",
              static_cast<unsigned long long>(used.launches / count),
              static_cast<unsigned long long>(used.library_launches / count),
              static_cast<unsigned long long>(used.memsets / count));
}

TEST_P(TrainingStep, APlantedReadIsSeen) {
  MlpTraining training(GetParam(), gpu);
  const simt::Counters used = steady(*simulator, 3, 1, [&] { training.step().item<float>(); });
  EXPECT_GE(used.host_syncs, 1U);
  EXPECT_GE(used.bytes_to_host, sizeof(float));
}

// Of six parameters with f32 gradients, unscaled where the mode scales the loss, and clipped.
class EndOfAStep : public SimulatedDevice, public ::testing::WithParamInterface<Mode> {};

TEST_P(EndOfAStep, ReadsGradientsTwiceAndWritesThemNever) {
  constexpr std::int64_t each = 50'000;
  Tensors params;
  for (int i = 0; i < 6; ++i) params.push_back(randn({each}).to(gpu).clone().requires_grad_());
  optim::AdamW adamw(params);
  amp::GradScaler scaler({.init_scale = 1024, .enabled = GetParam() == Mode::fp16});
  for (Tensor param : params) param.set_grad((randn({each}) * 1024.0).to(gpu).clone());
  simt::Counters before, after;
  for (int t = 0; t < 2; ++t) {  // the first makes the optimizer's state
    synchronize(gpu);
    before = simulator->counters();
    scaler.step(adamw, {.max_norm = 1});
    synchronize(gpu);
    after = simulator->counters();
    scaler.update();
  }
  EXPECT_EQ(after.launches - before.launches, 5U);
  EXPECT_EQ(after.memsets - before.memsets, 0U);
  if (after.kernel_bytes_read == before.kernel_bytes_read) GTEST_SKIP() << "only checked kernels count bytes";
  const double unit = 6 * each * sizeof(float);  // one pass over f32
  const double read = static_cast<double>(after.kernel_bytes_read - before.kernel_bytes_read) / unit,
               written = static_cast<double>(after.kernel_bytes_written - before.kernel_bytes_written) / unit;
  std::printf("  simulated device: the end of a step reads %.3f and writes %.3f times its gradients' size\n", read, written);
  EXPECT_GE(read, 5.0) << "gradients twice, parameters and two moments";
  // Each thread reads the step's factors, 64 bytes, for 32 elements or the end of a tensor. Another pass would be 6.
  EXPECT_LE(read, 5.6);
  EXPECT_GE(written, 3.0);
  EXPECT_LE(written, 3.02);
}

// Launches of one more layer of a GPT, forward and backward: where gradients are overwritten, as after zero_grad(), and
// where they are added to those of an earlier batch. An optimizer step comes before, so that every weight is new.
class GptLayer : public SimulatedDevice, public ::testing::WithParamInterface<Mode> {
 protected:
  simt::Counters count(std::int64_t layers, bool accumulate) {
    manual_seed(3);
    nn::GPT model({.vocab_size = 65, .block_size = 32, .n_layer = layers, .n_head = 2, .n_embd = 32});
    model.to(gpu);
    optim::AdamW optimizer(model.parameters(), {.lr = 1e-3});
    const Tensor tokens = randint(0, 65, {2, 32}).to(gpu), targets = randint(0, 65, {2, 32}).to(gpu);
    const auto forward_and_backward = [&] {
      const amp::Autocast autocast(autocast_dtype(GetParam()));
      if (!accumulate) model.zero_grad();
      model.loss(tokens, targets).backward();
    };
    for (int t = 0; t < 3; ++t) {
      forward_and_backward();
      optimizer.step();
    }
    return steady(*simulator, 0, 1, forward_and_backward);
  }
};

TEST_P(GptLayer, TakesFewLaunches) {
  for (const bool accumulate : {false, true}) {
    const simt::Counters two = count(2, accumulate), three = count(3, accumulate);
    const std::uint64_t launches = three.launches - two.launches, memsets = three.memsets - two.memsets;
    std::printf("  simulated device: %llu launches and %llu memsets per GPT layer, %llu of the launches cuBLASLt%s\n",
                static_cast<unsigned long long>(launches), static_cast<unsigned long long>(memsets),
                static_cast<unsigned long long>(three.library_launches - two.library_launches),
                accumulate ? ", gradients accumulated" : "");
    // 21: 12 products, which bring the bias gradients, 2 sums with their norms and 2 of the norms' gradients, 1 + 2 of
    // attention, 2 of GELU. In 16 bits GELU comes with its product and attention's backward is one plan, and 2
    // gradients are cast. Accumulated, a launch adds ten bias gradients.
    EXPECT_LE(launches, accumulate ? 22U : 21U);
    EXPECT_EQ(memsets, 0U);
  }
}

// What the operations of a step have to move if each reads its operands and writes its results once, forward and
// backward, in the dtypes the door gave them. Views move nothing. Casts are left out: they are the price of precision.
class MustMove : public Observer {
 public:
  void on_forward_call(const ForwardCall& call) override {
    if (is_view(call) || call.op->name() == "cast") return;
    const bool norm_of_sum = call.op->name() == "layer_norm" && last_sum_.defined() && call.seen[0].is_same(last_sum_);
    last_sum_ = call.op->name() == "add" ? call.output : Tensor();
    for (const Tensor& x : call.seen) bytes += bytes_of(x);
    bytes += bytes_of(call.output);
    if (norm_of_sum) bytes -= bytes_of(call.seen[0]);  // the sum's kernel has it at hand
    std::uint64_t& saved = saved_[call.sequence];  // read again by the gradient: what a product or a curve depends on
    if (call.op->name() == "add") return;
    for (const Tensor& x : call.seen) saved += bytes_of(x);
  }
  void on_gradients(const BackwardCall& call) override {
    const auto saved = saved_.find(call.sequence);
    if (saved == saved_.end()) return;
    bytes += saved->second + bytes_of(call.dy);
    for (const DeliveredGradient& g : call.gradients) bytes += bytes_of(g.gradient);
  }
  std::uint64_t bytes = 0;

 private:
  static std::uint64_t bytes_of(const Tensor& x) {
    return x ? static_cast<std::uint64_t>(x.numel() * size_of(x.dtype())) : 0;
  }
  static bool is_view(const ForwardCall& call) {
    const std::byte* const out = TensorView(call.output).data;
    return std::any_of(call.seen.begin(), call.seen.end(), [&](const Tensor& x) {
      const std::byte* const start = TensorView(x).data;
      return out && start && out >= start && out < start + bytes_of(x);
    });
  }
  std::map<std::uint64_t, std::uint64_t> saved_;
  Tensor last_sum_;
};

// Bytes that a layer's kernels ask memory for, against what must move. The simulated device has no caches: what a kernel
// reads twice counts twice, which a GPU mostly finds in its L1 or L2. Library calls count each operand once.
TEST_P(GptLayer, MovesFewBytes) {
  constexpr std::int64_t batch = 2, time = 64;
  const auto moved = [&](std::int64_t layers, std::uint64_t& must) {
    manual_seed(3);
    nn::GPT model({.vocab_size = 65, .block_size = time, .n_layer = layers, .n_head = 2, .n_embd = 64});
    model.to(gpu);
    const Tensor tokens = randint(0, 65, {batch, time}).to(gpu), targets = randint(0, 65, {batch, time}).to(gpu);
    MustMove watched;
    const auto step = [&] {
      const amp::Autocast autocast(autocast_dtype(GetParam()));
      model.zero_grad();
      model.loss(tokens, targets).backward();
      synchronize(gpu);
    };
    step();
    const simt::Counters before = simulator->counters();
    {
      const ObserverScope watching(watched);
      step();
    }
    const simt::Counters after = simulator->counters();
    must = watched.bytes;
    simt::Counters used;
    used.kernel_bytes_read = after.kernel_bytes_read - before.kernel_bytes_read;
    used.kernel_bytes_written = after.kernel_bytes_written - before.kernel_bytes_written;
    used.library_bytes_read = after.library_bytes_read - before.library_bytes_read;
    used.library_bytes_written = after.library_bytes_written - before.library_bytes_written;
    return used;
  };
  std::uint64_t must_two = 0, must_three = 0;
  const simt::Counters two = moved(2, must_two), three = moved(3, must_three);
  if (three.kernel_bytes_read == 0) GTEST_SKIP() << "only checked kernels count bytes";
  const std::uint64_t must = must_three - must_two,
                      kernels = three.kernel_bytes_read - two.kernel_bytes_read + three.kernel_bytes_written -
                                two.kernel_bytes_written,
                      libraries = three.library_bytes_read - two.library_bytes_read + three.library_bytes_written -
                                  two.library_bytes_written;
  const auto per_token = [](std::uint64_t bytes) { return static_cast<double>(bytes) / (batch * time); };
  const double ratio = static_cast<double>(kernels + libraries) / static_cast<double>(must);
  std::printf("  simulated device: %.0f bytes moved per token and GPT layer, %.0f of them by libraries; %.0f must move: "
              "%.2f times\n",
              per_token(kernels + libraries), per_token(libraries), per_token(must), ratio);
  EXPECT_GT(libraries, 0U);
  EXPECT_GE(ratio, 1.0);
  EXPECT_LE(ratio, 1.8);
}

// The n-th call of each kind fails, for every n a step has. The weights may then be half updated; the device works on.
class FailingStep : public TrainingStep {};

TEST_P(FailingStep, AnyCallMayFail) {
  MlpTraining training(GetParam(), gpu);
  for (int t = 0; t < 3; ++t) training.step();
  const auto used = [&] { return memory_stats(gpu).current_total; };
  synchronize(gpu);
  const std::size_t held = used();
  constexpr int out_of_memory = 2, launch_failed = 701;  // cudaErrorMemoryAllocation, cudaErrorLaunchOutOfResources
  int failures = 0;
  for (const auto& [function, error] : {std::pair("cudaLaunchKernel", launch_failed),
                                        {"cublasLtMatmul", launch_failed},
                                        {"cudaMallocAsync", out_of_memory},
                                        {"cudaMemsetAsync", launch_failed}}) {
    const bool allocation = error == out_of_memory;
    bool reached = true;
    int n = 1;
    for (; reached && n < 500; ++n) {
      if (allocation) release_cached_memory(gpu);  // a steady step asks the driver for nothing
      simulator->fail_call(function, n, error);
      if (allocation) simulator->fail_call(function, n + 1, error);  // and again, once the cache is given back
      const std::string text = error_of([&] { training.step(); });
      simulator->forget_failures();
      reached = !text.empty();
      if (!reached) break;
      EXPECT_TRUE(text.find("launch of ") == 0 || text.find("memory: out of memory on cuda:0") == 0 ||
                  text.find("matmul: cuBLASLt product failed") == 0 || text.find("fill with zeros: ") == 0 ||
                  text.find("clear a maximum: ") == 0)
          << function << " " << n << ": " << text;
      training.optimizer->zero_grad();
      if (training.mode == Mode::fp16) training.scaler.update(1024.0);  // forgets the step that broke off
      const double loss = training.step().item<double>();
      ASSERT_TRUE(std::isfinite(loss)) << function << " " << n << ": the next step works";
      ASSERT_EQ(used(), held) << function << " " << n << ": memory is still held after: " << text;
      ++failures;
    }
    EXPECT_FALSE(reached) << function;
    EXPECT_TRUE(n > 1 || std::string(function) == "cudaMemsetAsync") << function << ": never called by a step";
  }
  std::printf("  simulated device: %d calls failed, one at a time\n", failures);
}

constexpr auto mode_name = [](const auto& p) { return name_of(p.param); };
INSTANTIATE_TEST_SUITE_P(, TrainingStep, ::testing::ValuesIn(all_modes), mode_name);
INSTANTIATE_TEST_SUITE_P(, EndOfAStep, ::testing::Values(Mode::fp32, Mode::fp16), mode_name);
INSTANTIATE_TEST_SUITE_P(, GptLayer, ::testing::Values(Mode::fp32, Mode::bf16, Mode::fp16), mode_name);
INSTANTIATE_TEST_SUITE_P(, FailingStep, ::testing::Values(Mode::fp32, Mode::fp16, Mode::fp8_delayed), mode_name);

}  // namespace

}  // namespace binade::test
