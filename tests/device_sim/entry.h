// What a program says to the simulated device behind a CUDA plugin it has loaded: simulator.h as a table of functions,
// under one C symbol that only such plugins have.
#pragma once
#include "counters.h"

namespace simt {

struct SimulatorEntry {
  Counters (*counters)();
  void (*fail_call)(const char* function, int n, int error);  // error: a cudaError_t
  void (*forget_failures)();
};
inline constexpr const char* simulator_entry = "binade_simulated_device";
using SimulatorEntryFunction = const SimulatorEntry* (*)();

}  // namespace simt
