#include "entry.h"

#include "simulator.h"

extern "C" __attribute__((visibility("default"))) const simt::SimulatorEntry* binade_simulated_device();
extern "C" const simt::SimulatorEntry* binade_simulated_device() {
  static constexpr simt::SimulatorEntry entry{
      .counters = simt::counters,
      .fail_call = [](const char* function, int n, int error) {
        simt::fail_call(function, n, static_cast<cudaError_t>(error));
      },
      .forget_failures = simt::forget_failures,
  };
  return &entry;
}
