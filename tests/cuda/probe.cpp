// What is said where CUDA cannot be used, from made-up drivers and made-up plugins: none of it needs a GPU.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "binade/core/backend/plugin.h"
#include "binade/cuda/runtime/probe.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/expect_error.h"

namespace binade::test {

namespace {

using cuda::DriverFacts;

DriverFacts healthy() {
  DriverFacts facts;
  facts.driver_version = facts.runtime_version = 13000;
  facts.gpus = {{"NVIDIA H100", 90}};
  return facts;
}
constexpr const char* built = "80,90,120";

TEST(CudaProbe, AGpuThatFitsIsUsable) {
  const cuda::ProbeAnswer answer = cuda::judge(healthy(), built);
  EXPECT_TRUE(answer.usable);
  EXPECT_EQ(answer.text, "NVIDIA H100");
}

TEST(CudaProbe, NoDriver) {
  DriverFacts facts = healthy();
  facts.count_status = 35;  // as the runtime answers: "insufficient driver", although there is none
  facts.driver_version = 0;
  facts.gpus.clear();
  const cuda::ProbeAnswer answer = cuda::judge(facts, built);
  EXPECT_FALSE(answer.usable);
  EXPECT_EQ(answer.text, "no NVIDIA driver is installed");
}

TEST(CudaProbe, DriverTooOldNamesBothVersions) {
  DriverFacts facts = healthy();
  facts.count_status = 35;
  facts.driver_version = 12040;
  const cuda::ProbeAnswer answer = cuda::judge(facts, built);
  EXPECT_FALSE(answer.usable);
  EXPECT_EQ(answer.text, "the NVIDIA driver is too old: it supports CUDA 12.4, this build needs CUDA 13.0");
}

TEST(CudaProbe, TheRuntimesOwnVerdictOnTheDriverCounts) {  // a runtime newer than the driver, of one major version
  DriverFacts facts = healthy();
  facts.count_status = 35;
  EXPECT_NE(cuda::judge(facts, built).text.find("too old"), std::string::npos);
}

TEST(CudaProbe, NoDevice) {
  DriverFacts facts = healthy();
  facts.count_status = 100;
  facts.gpus.clear();
  EXPECT_FALSE(cuda::judge(facts, built).usable);
  EXPECT_NE(cuda::judge(facts, built).text.find("no NVIDIA GPU"), std::string::npos);
  facts.count_status = 0;  // or a count of 0 without an error
  EXPECT_FALSE(cuda::judge(facts, built).usable);
}

TEST(CudaProbe, OtherFailuresAreQuoted) {
  DriverFacts facts = healthy();
  facts.count_status = 999;
  facts.count_text = "unknown error";
  EXPECT_FALSE(cuda::judge(facts, built).usable);
  EXPECT_NE(cuda::judge(facts, built).text.find("unknown error"), std::string::npos);
}

TEST(CudaProbe, ArchitectureThatWasNotBuilt) {
  DriverFacts facts = healthy();
  facts.gpus.push_back({"Tesla T4", 75});
  const cuda::ProbeAnswer answer = cuda::judge(facts, built);
  EXPECT_FALSE(answer.usable);
  EXPECT_NE(answer.text.find("Tesla T4 is an sm_75 GPU"), std::string::npos) << answer.text;
  EXPECT_NE(answer.text.find("80,90,120"), std::string::npos) << answer.text;
  facts.gpus = {{"of the future", 130}};  // runs the PTX
  EXPECT_TRUE(cuda::judge(facts, built).usable);
}

TEST(CudaPlugin, MissingFile) {
  const LoadedBackend backend = load_plugin("/nowhere/libbinade_cuda.so");
  EXPECT_EQ(backend.functions, nullptr);
  EXPECT_NE(backend.text.find("/nowhere/libbinade_cuda.so"), std::string::npos) << backend.text;
}

TEST(CudaPlugin, SomeOtherLibrary) {
  const LoadedBackend backend = load_plugin("libm.so.6");
  EXPECT_EQ(backend.functions, nullptr);
  EXPECT_NE(backend.text.find("not a binade backend"), std::string::npos) << backend.text;
}

TEST(CudaPlugin, BuiltForAnotherVersion) {
  const LoadedBackend backend = load_plugin(BINADE_STALE_PLUGIN);
  EXPECT_EQ(backend.functions, nullptr);
  EXPECT_NE(backend.text.find("another version"), std::string::npos) << backend.text;
}

TEST(CudaPlugin, ProbeDecidesAndItsReasonIsKept) {
  const LoadedBackend backend = load_plugin(BINADE_UNUSABLE_PLUGIN);
  EXPECT_EQ(backend.functions, nullptr);
  EXPECT_EQ(backend.text, "made up: no device");
}

bool backend_is_mapped() {
  std::ifstream maps("/proc/self/maps");
  const std::string text{std::istreambuf_iterator<char>(maps), {}};
  return text.find("binade_cuda") != std::string::npos || text.find("libcudart") != std::string::npos;
}

TEST(CudaPlugin, CpuWorkLoadsNothingOfCuda) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a fresh process, where no other test has asked for CUDA
  EXPECT_EXIT(
      {
        const Tensor x = ones({3});
        std::exit(sum(x).item<float>() == 3 && !backend_is_mapped() ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(CudaPlugin, LoadingAndAskingTakesMilliseconds) {
  const auto start = std::chrono::steady_clock::now();
  const bool there = cuda_available();
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
  if (there) GTEST_SKIP() << "a driver that starts up takes longer";
  EXPECT_LT(taken.count(), 50) << "expected about 1 ms; much more means that CUDA libraries are linked";
}

TEST(CudaPlugin, DeviceNamesAreRefusedWithTheReason) {
  if (cuda_available()) GTEST_SKIP() << "there is a CUDA device: " << cuda_status();
  const std::string text = error_of([] { device_from_name("cuda"); });
  EXPECT_TRUE(text.starts_with("device: cuda was asked for, but there is no CUDA device: ")) << text;
  EXPECT_NE(text.find(cuda_status()), std::string::npos) << text;
  EXPECT_EQ(text.find('\n'), std::string::npos) << "one line";
  EXPECT_EQ(default_device(), Device{});
  expect_error([] { required_cuda_backend(); }, "device: no CUDA device: ");
}

}  // namespace

}  // namespace binade::test
