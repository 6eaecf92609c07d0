// BINADE_NVTX=1: a range per operation, named with its module, as a profiler sees them. ctest runs this with the variable
// set and a stand-in for the profiler (plugins/nvtx_injection.cpp).
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <sstream>
#include <vector>

#include "binade/binade.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/cuda/simulated.h"

namespace binade::test {

namespace {

class CudaNvtx : public SimulatedDevice {
 protected:
  void SetUp() override {
    SimulatedDevice::SetUp();
    if (IsSkipped()) return;
    const char *wish = std::getenv("BINADE_NVTX"), *injection = std::getenv("NVTX_INJECTION64_PATH");
    if (!wish || std::string(wish) != "1" || !injection) GTEST_SKIP() << "BINADE_NVTX is not 1, or nobody listens";
    ones({1}, {.device = gpu});  // NVTX looks for its listener at the first range
    void* library = dlopen(injection, RTLD_NOW | RTLD_NOLOAD);
    ASSERT_NE(library, nullptr) << "NVTX has not loaded " << injection;
    take_ranges = reinterpret_cast<const char* (*)()>(dlsym(library, "binade_test_ranges"));
    ASSERT_NE(take_ranges, nullptr);
    take_ranges();
  }
  // The ranges of the outermost level, in order; those inside one as "outer > inner". Each must end.
  std::vector<std::string> ranges() const {
    std::vector<std::string> open, all;
    std::istringstream lines(take_ranges());
    for (std::string line; std::getline(lines, line);) {
      if (line == "-") {
        EXPECT_FALSE(open.empty()) << "a range ends that never began";
        if (!open.empty()) open.pop_back();
        continue;
      }
      std::string path;
      open.push_back(line.substr(1));
      for (const std::string& name : open) path += (path.empty() ? "" : " > ") + name;
      all.push_back(path);
    }
    EXPECT_TRUE(open.empty()) << open.back() << " never ends";
    return all;
  }
  const char* (*take_ranges)() = nullptr;
};

std::vector<std::string> of_modules(const std::vector<std::string>& ranges) {
  std::vector<std::string> some;
  std::ranges::copy_if(ranges, std::back_inserter(some), [](const std::string& r) { return r.find(" in ") != r.npos; });
  return some;
}

struct Net : nn::Module {
  Net() : first(add("first", nn::Linear(8, 16))), norm(add("norm", nn::LayerNorm(16))), last(add("last", nn::Linear(16, 4))) {}
  Tensor forward(const Tensor& x) { return last(norm(first(x))); }
  nn::Linear first;
  nn::LayerNorm norm;
  nn::Linear last;
};

TEST_F(CudaNvtx, ATrainingStepsOperationsInOrder) {
  manual_seed(1);
  Net net;
  net.to(gpu);
  optim::SGD optimizer(net.parameters(), {.lr = 0.1});
  const Tensor x = randn({6, 8}).to(gpu), targets = randint(0, 4, {6}).to(gpu);
  ranges();
  const Tensor loss = cross_entropy(net.forward(x), targets);
  const std::vector<std::string> forward = ranges();  // what follows is the mean of the losses
  ASSERT_GE(forward.size(), 4U);
  EXPECT_EQ(std::vector(forward.begin(), forward.begin() + 4),
            (std::vector<std::string>{"matmul in first", "layer_norm in norm", "matmul in last", "cross_entropy"}));
  EXPECT_EQ(of_modules(forward).size(), 3U);
  loss.backward();
  const std::vector<std::string> backward = ranges();
  ASSERT_GE(backward.size(), 5U);
  EXPECT_EQ(std::vector(backward.end() - 5, backward.end()),
            (std::vector<std::string>{"cross_entropy_backward", "matmul in last", "matmul in last",
                                      "layer_norm_backward in norm", "matmul in first"}));
  EXPECT_EQ(of_modules(backward).size(), 4U);
  optimizer.step();
  const std::vector<std::string> update = ranges();
  ASSERT_FALSE(update.empty());
  EXPECT_EQ(update.back(), "sgd");
  EXPECT_TRUE(of_modules(update).empty());
}

TEST_F(CudaNvtx, RangesEndWhereAKernelFails) {
  Net net;
  net.to(gpu);
  const Tensor x = ones({6, 8}, {.device = gpu});
  ranges();
  simulator->fail_call("cudaLaunchKernel", 1, 701);  // cudaErrorLaunchOutOfResources
  EXPECT_NE(error_of([&] { net.forward(x); }), "");
  simulator->forget_failures();
  EXPECT_EQ(ranges(), (std::vector<std::string>{"matmul in first", "layer_norm in norm"}));
  const Tensor unaligned = ones({65}, {.device = gpu}).narrow(0, 1, 64).view({8, 8});
  matmul(unaligned, unaligned.t());
  const std::vector<std::string> nested = ranges();
  ASSERT_EQ(nested.size(), 4U);  // filled, then copied twice within the product
  EXPECT_EQ(nested[1], "matmul");
  EXPECT_EQ(nested[2], "matmul > copy");
  EXPECT_EQ(nested[3], "matmul > copy");
}

}  // namespace

}  // namespace binade::test
