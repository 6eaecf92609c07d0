// A step of data parallelism on a device: it must not make the host wait, nor ask the driver for memory.
#include "binade/tests/cuda/simulated.h"
#include "binade/tests/distributed/models.h"
#include "binade/distributed/sharded_optimizer.h"

namespace {

using namespace binade;
using namespace binade::test;

class DeviceStep : public Ranks {
 protected:
  void SetUp() override {
    Ranks::SetUp();
    if (device() == Device{}) GTEST_SKIP() << "the ranks are on the CPU";
    simulator = find_simulator();
    if (!simulator) GTEST_SKIP() << "the device is not a simulated one";
  }
  // Of 5 steps after the first few, which build buckets and allocate what stays.
  template <class Step>
  void expect_no_waits(const Step& step) {
    for (int i = 0; i < 4; ++i) step();
    const simt::Counters before = simulator->counters();
    for (int i = 0; i < 5; ++i) step();
    const simt::Counters after = simulator->counters();
    EXPECT_EQ(after.host_syncs - before.host_syncs, 0U);
    EXPECT_EQ(after.bytes_to_host - before.bytes_to_host, 0U);
    EXPECT_EQ(after.bytes_to_device - before.bytes_to_device, 0U);
    EXPECT_EQ(after.allocations - before.allocations, 0U);
    EXPECT_GT(after.launches - before.launches, 50U) << "the counters count";
  }
  const simt::SimulatorEntry* simulator = nullptr;
};

TEST_F(DeviceStep, DataParallelWaitsForNothing) {
  const Tensor x = randn({8, 20}).to(device()), y = zeros({8}, {.dtype = DType::i64, .device = device()});
  const nn::Sequential model = small_mlp();
  const dist::DataParallel parallel(model, small_buckets(shared_group()));
  optim::AdamW optimizer(model.parameters(), {.lr = 1e-3});
  amp::GradScaler scaler({.agree = dist::agree_on_overflow(shared_group())});
  expect_no_waits([&] {
    const amp::Autocast autocast(DType::f16);
    scaler.scale(cross_entropy(model(x), y)).backward();
    scaler.step(optimizer, {.max_norm = 1});
    scaler.update();
    optimizer.zero_grad();
  });
}

TEST_F(DeviceStep, ShardedOptimizerWaitsForNothing) {
  const Tensor x = randn({8, 20}).to(device()), y = zeros({8}, {.dtype = DType::i64, .device = device()});
  const nn::Sequential model = small_mlp();
  const dist::DataParallel parallel(model, small_buckets(shared_group(), 8));
  const auto optimizer = dist::shard<optim::AdamW>(parallel, optim::AdamWOptions{.lr = 1e-3});
  expect_no_waits([&] {
    for (std::int64_t i = 0; i < parallel.reducer()->passes(); ++i) cross_entropy(model(x), y).backward();
    optim::clipped_step(*optimizer, 1);
    optimizer->zero_grad();
  });
}

// Device tensors are not read before the collective has written them, though wait() did not wait for it.
TEST_F(DeviceStep, FurtherWorkComesAfterTheCollective) {
  for (int round = 0; round < 5; ++round) {
    Tensor x = full({5000}, rank() + round, {.device = device()});
    x.mul_(2);  // before it
    const auto before = simulator->counters().host_syncs;
    group().all_reduce(x).wait();
    x.mul_(0.5);  // after it
    EXPECT_EQ(simulator->counters().host_syncs, before);
    EXPECT_EQ(x.at(4999), size() * round + size() * (size() - 1) / 2.0);
  }
}

}  // namespace
