// Whether the device behind the CUDA plugin is a simulated one.
#pragma once
#include <dlfcn.h>

#include <cstdlib>

#include "binade/tests/core/test_device.h"
#include "binade/tests/device_sim/entry.h"

namespace binade::test {

// Null on a real device. The plugin must be loaded: ask cuda_available() first.
inline const simt::SimulatorEntry* find_simulator() {
  const char* plugin = std::getenv("BINADE_CUDA_PLUGIN");
  void* library = plugin ? dlopen(plugin, RTLD_NOW | RTLD_NOLOAD) : nullptr;
  const auto entry =
      library ? reinterpret_cast<simt::SimulatorEntryFunction>(dlsym(library, simt::simulator_entry)) : nullptr;
  return entry ? entry() : nullptr;
}

// Bounds that hardware needs and emulation does not hold only here.
inline bool tests_a_real_gpu() { return test_device().type == DeviceType::cuda && !find_simulator(); }

}  // namespace binade::test
