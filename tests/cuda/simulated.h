// The simulated device behind the CUDA plugin: what it counted, and calls of its runtime that are to fail.
#pragma once
#include "binade/tests/cuda/compare.h"
#include "binade/tests/cuda/find_simulator.h"

namespace binade::test {

class SimulatedDevice : public CudaDevice {
 protected:
  void SetUp() override {
    CudaDevice::SetUp();
    if (IsSkipped()) return;
    simulator = find_simulator();
    if (!simulator) GTEST_SKIP() << "the device is not a simulated one";
  }
  const simt::SimulatorEntry* simulator = nullptr;
};

}  // namespace binade::test
