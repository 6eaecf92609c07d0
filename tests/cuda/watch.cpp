// BINADE_CUDA_SYNC=1: an error that a kernel raises while it runs is found at its launch and names kernel, operation and
// module. ctest runs these tests with the variable set.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "binade/binade.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/cuda/simulated.h"

namespace binade::test {

namespace {

constexpr int illegal_address = 700, launch_failure = 719;  // cudaErrorIllegalAddress, cudaErrorLaunchFailure

class CudaSync : public SimulatedDevice {
 protected:
  void SetUp() override {
    SimulatedDevice::SetUp();
    const char* sync = std::getenv("BINADE_CUDA_SYNC");
    if (!IsSkipped() && !(sync && std::string(sync) == "1")) GTEST_SKIP() << "BINADE_CUDA_SYNC is not 1";
  }
};

TEST_F(CudaSync, WaitsAfterEveryLaunch) {
  const Tensor x = ones({100}, {.device = gpu});
  const simt::Counters before = simulator->counters();
  const Tensor y = x + x;
  const simt::Counters after = simulator->counters();
  EXPECT_GE(after.host_syncs - before.host_syncs, after.launches - before.launches);
  EXPECT_GE(after.launches - before.launches, 1U);
}

TEST_F(CudaSync, NamesKernelOperationAndModule) {
  const Tensor x = ones({4, 8}, {.device = gpu});
  simulator->fail_call("cudaStreamSynchronize", 1, illegal_address);
  const std::string sum = error_of([&] { x + x; });
  EXPECT_EQ(sum.find("kernel "), 0U) << sum;
  EXPECT_NE(sum.find(" of add: "), std::string::npos) << sum;
  simulator->forget_failures();

  struct Net : nn::Module {
    Net() : norm(add("norm", nn::LayerNorm(8))) {}
    nn::LayerNorm norm;
  } net;
  net.to(gpu);
  simulator->fail_call("cudaStreamSynchronize", 1, launch_failure);
  const std::string norm = error_of([&] { net.norm(x); });
  EXPECT_NE(norm.find(" of layer_norm in norm: "), std::string::npos) << norm;
  simulator->forget_failures();
  EXPECT_EQ(error_of([&] { net.norm(x); }), "");
}

TEST_F(CudaSync, ALibraryCallIsNamedToo) {
  const Tensor a = ones({16, 16}, {.device = gpu});
  simulator->fail_call("cudaStreamSynchronize", 1, illegal_address);
  const std::string text = error_of([&] { matmul(a, a); });
  EXPECT_NE(text.find("matmul: "), std::string::npos) << text;
  simulator->forget_failures();
}

}  // namespace

}  // namespace binade::test
