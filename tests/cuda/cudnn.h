// Tests of which calls become cuDNN's plans, on the simulated device.
#pragma once
#include "binade/tests/cuda/simulated.h"
#include "binade/tests/cuda/traced.h"

namespace binade::test {

class CudnnTest : public SimulatedDevice {
 protected:
  // How many library calls the function and its gradients made.
  std::uint64_t library_calls(const Function& function, const Tensors& inputs, DType dtype = DType::f16) {
    const std::uint64_t before = simulator->counters().library_launches;
    outcome(function, inputs, gpu, dtype);
    return simulator->counters().library_launches - before;
  }
  // Neither `op` nor its gradient became a plan, for this reason.
  void expect_own_kernels(const std::string& op, const std::string& reason, const Function& function,
                          const Tensors& inputs, DType dtype = DType::f16) {
    std::uint64_t calls = 0;
    const std::string lines = traced([&] { calls = library_calls(function, inputs, dtype); });
    EXPECT_EQ(calls, 0U) << reason;
    EXPECT_TRUE(contains(lines, "binade: dispatch: " + op + " on cuda:0: own kernels: " + reason)) << lines;
    EXPECT_TRUE(contains(lines, op + "_backward on cuda:0: own kernels: " + reason)) << lines;
  }
  // The gradient may be a plan's where forward was ours, and the other way round: what is saved between them agrees.
  void expect_different_roads(const Function& function, const Tensors& inputs, DType dtype, double terms) {
    for (const bool own_forward : {true, false}) {
      const Function either = [&](const Tensors& in) {
        setenv("BINADE_CUDNN", own_forward ? "0" : "1", 1);
        const Tensor y = function(in);
        setenv("BINADE_CUDNN", own_forward ? "1" : "0", 1);
        return y;
      };
      EXPECT_EQ(library_calls(either, inputs), 1U);
      expect_close(either, inputs, dtype, terms, own_forward ? "own forward" : "own backward", gpu);
    }
    unsetenv("BINADE_CUDNN");
  }
};

}  // namespace binade::test
