// The simulated device behind the CUDA plugin: what it counted, and calls of its runtime that are to fail.
#pragma once
#include <dlfcn.h>

#include <cstdlib>

#include "binade/tests/cuda/compare.h"
#include "binade/tests/device_sim/entry.h"

namespace binade::test {

// Null on a real device. The plugin must be loaded: ask cuda_available() first.
inline const simt::SimulatorEntry* find_simulator() {
  const char* plugin = std::getenv("BINADE_CUDA_PLUGIN");
  void* library = plugin ? dlopen(plugin, RTLD_NOW | RTLD_NOLOAD) : nullptr;
  const auto entry = library ? reinterpret_cast<simt::SimulatorEntryFunction>(dlsym(library, simt::simulator_entry))
                             : nullptr;
  return entry ? entry() : nullptr;
}

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
