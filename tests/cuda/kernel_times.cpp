// Kernel times on a GPU come from events in the compute stream. The simulated device's clock is made up, so that what
// events say can be predicted (tests/device_sim/durations.h).
#include "binade/core/backend/kernel_times.h"

#include <gtest/gtest.h>

#include <cmath>

#include "binade/core/backend/graphed_step.h"
#include "binade/core/backend/kernels.h"
#include "binade/tests/cuda/networks.h"
#include "binade/tests/cuda/simulated.h"
#include "binade/tests/device_sim/durations.h"

namespace binade::test {

namespace {

class DeviceTimes : public SimulatedDevice {};
constexpr double tolerance = 1e-9;  // of sums of a few floats of microseconds

TEST_F(DeviceTimes, AreThoseOfTheDevicesEvents) {
  const Tensor x = ones({64, 64}, {.device = gpu});
  matmul(x, x);  // its workspace, and the first marks, are made
  KernelTimes times;
  for (int i = 0; i < 3; ++i) x + x;
  matmul(x, x);
  const KernelTimes::Table table = times.take();
  EXPECT_EQ(table.kernels.at("add").calls, 3);
  EXPECT_NEAR(table.kernels.at("add").seconds, 3 * simt::kernel_seconds, tolerance);
  EXPECT_NEAR(table.kernels.at("matmul").seconds, simt::product_seconds, tolerance);
  EXPECT_NEAR(table.device_seconds, 3 * simt::kernel_seconds + simt::product_seconds, tolerance);
  EXPECT_TRUE(times.take().kernels.empty());
}

TEST_F(DeviceTimes, WhatAKernelCalledIsNotItsOwn) {
  const Tensor x = ones({65, 64}, {.device = gpu}).narrow(0, 1, 64), y = ones({4097}, {.device = gpu}).narrow(0, 1, 4096);
  const Tensor unaligned = y.view({64, 64});  // copied before it is multiplied
  KernelTimes times;
  matmul(x, unaligned);
  const KernelTimes::Table table = times.take();
  EXPECT_NEAR(table.kernels.at("matmul").seconds, simt::product_seconds, tolerance);
  EXPECT_NEAR(table.kernels.at("copy").seconds, simt::device_copy_seconds(4 * 4096), tolerance);
  EXPECT_EQ(table.kernels.at("copy").calls, 1);
}

// Work beside the kernels, here a copy, is between them in the table's total, and nobody's own.
TEST_F(DeviceTimes, TheTotalReachesFromTheFirstKernelToTheLast) {
  const Tensor x = ones({16}, {.device = gpu}), from = ones({16});
  Tensor to = zeros({16}, {.device = gpu});
  KernelTimes times;
  x + x;
  to.copy_(from);
  x + x;
  const KernelTimes::Table table = times.take();
  EXPECT_NEAR(table.device_seconds, 2 * simt::kernel_seconds + simt::host_copy_seconds(64), tolerance);
  EXPECT_NEAR(table.kernels.at("add").seconds, 2 * simt::kernel_seconds, tolerance);
}

TEST_F(DeviceTimes, AStepIsNotDisturbed) {
  std::vector<double> losses[2];
  for (const bool timed : {false, true}) {
    MlpTraining training(Mode::bf16, gpu);
    for (int t = 0; t < 3; ++t) training.step();
    std::optional<KernelTimes> times;
    if (timed) times.emplace();
    const simt::Counters before = simulator->counters();
    Tensor loss;
    for (int t = 0; t < 4; ++t) loss = training.step();
    const simt::Counters after = simulator->counters();
    EXPECT_EQ(after.host_syncs, before.host_syncs) << "a step that is timed waits for nothing";
    if (timed) {
      const KernelTimes::Table table = times->take();
      double own = 0;
      for (const auto& [name, kernel] : table.kernels) own += kernel.seconds;
      const auto launches = static_cast<double>(after.launches - before.launches - (after.library_launches - before.library_launches));
      const double expected = launches * simt::kernel_seconds +
                              static_cast<double>(after.library_launches - before.library_launches) * simt::product_seconds +
                              static_cast<double>(after.memsets - before.memsets) * simt::fill_seconds;
      EXPECT_NEAR(own, expected, 100 * tolerance) << "every launch of the step belongs to a kernel, once";
      EXPECT_EQ(table.kernels.at("adam").calls, 4);
    }
    times.reset();
    losses[timed] = {loss.item<double>(), training.step().item<double>()};
  }
  EXPECT_EQ(losses[0], losses[1]);
}

TEST_F(DeviceTimes, AKernelThatFailsIsLeftOut) {
  const Tensor x = ones({16}, {.device = gpu});
  KernelTimes times;
  simulator->fail_call("cudaLaunchKernel", 1, 701);  // cudaErrorLaunchOutOfResources
  EXPECT_THROW(x + x, Error);
  simulator->forget_failures();
  x* x;
  const KernelTimes::Table table = times.take();
  EXPECT_EQ(table.kernels.count("add"), 0U);
  EXPECT_NEAR(table.kernels.at("mul").seconds, simt::kernel_seconds, tolerance);
}

// A captured step's events would become part of the graph; what is run eagerly is timed as before.
TEST_F(DeviceTimes, CapturedStepsAreLeftOut) {
  cuda::GraphedStep step([](const Tensors& in) { return Tensors{in[0] + in[0]}; }, {.device = gpu, .warm_up = 1});
  const Tensor x = ones({16}, {.device = gpu});
  KernelTimes times;
  for (int i = 0; i < 3; ++i) {
    const Tensors y = step({x});
    EXPECT_EQ(y[0].at(3), 2);
  }
  EXPECT_TRUE(step.captured());
  const KernelTimes::Table table = times.take();
  EXPECT_EQ(table.kernels.at("add").calls, 1);
  EXPECT_NEAR(table.kernels.at("add").seconds, simt::kernel_seconds, tolerance);
}

}  // namespace

}  // namespace binade::test
