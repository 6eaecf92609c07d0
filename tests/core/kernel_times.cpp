// Kernel times on the CPU: own times, labels, what a kernel that fails leaves behind.
#include "binade/core/backend/kernel_times.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "binade/core/base/error.h"
#include "binade/core/tensor/tensor.h"

namespace binade::test {

namespace {

constexpr std::chrono::milliseconds nap{20};

KernelSlot<void(TensorView x)> inner{"test_inner"};
KernelSlot<void(TensorView x, bool fails)> outer{"test_outer"};

void sleeps(TensorView) { std::this_thread::sleep_for(nap); }
void calls_twice(TensorView x, bool fails) {
  std::this_thread::sleep_for(nap);
  inner(x);
  check(!fails, "as planted");
  inner(x);
}

class KernelTimesOnCpu : public ::testing::Test {
 protected:
  void SetUp() override {
    inner.provide(DeviceType::cpu, sleeps);
    outer.provide(DeviceType::cpu, calls_twice);
  }
  Tensor x = zeros({1});
};

TEST_F(KernelTimesOnCpu, WhatAKernelCalledIsNotItsOwn) {
  const double least = std::chrono::duration<double>(nap).count();
  const auto start = std::chrono::steady_clock::now();
  KernelTimes times([](std::string_view slot) { return "the " + std::string(slot); });
  outer(x, false);
  const KernelTimes::Table table = times.take();
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  ASSERT_EQ(table.kernels.size(), 2U);
  const KernelTime own = table.kernels.at("the test_outer"), called = table.kernels.at("the test_inner");
  EXPECT_EQ(own.calls, 1);
  EXPECT_EQ(called.calls, 2);
  EXPECT_GE(own.seconds, least);
  EXPECT_GE(called.seconds, 2 * least);
  EXPECT_LE(own.seconds + called.seconds, wall) << "time is counted twice";
  EXPECT_EQ(table.device_seconds, 0);
  EXPECT_TRUE(times.take().kernels.empty()) << "taken once";
}

TEST_F(KernelTimesOnCpu, AKernelThatFailsIsLeftOut) {
  KernelTimes times;
  EXPECT_THROW(outer(x, true), Error);
  inner(x);
  const KernelTimes::Table table = times.take();
  EXPECT_EQ(table.kernels.count("test_outer"), 0U);
  EXPECT_EQ(table.kernels.at("test_inner").calls, 2);
}

TEST_F(KernelTimesOnCpu, TheObserverBeforeComesBack) {
  ASSERT_EQ(kernel_observer, nullptr);
  {
    KernelTimes first;
    {
      const KernelTimes second;
      inner(x);
      EXPECT_EQ(kernel_observer, &second);
    }
    EXPECT_EQ(kernel_observer, &first);
    EXPECT_TRUE(first.take().kernels.empty());
  }
  EXPECT_EQ(kernel_observer, nullptr);
}

}  // namespace

}  // namespace binade::test
