// Where a step's time goes: every kernel by family, and for those that only move memory, how fast they move it.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "binade/core/base/device.h"

namespace bench {

struct Entry {
  double seconds = 0;  // without the kernels it called
  std::int64_t calls = 0;
  double bytes = 0;           // that must be read and written once, however often they really are; 0: not memory-bound
  double memory_seconds = 0;  // of the kernels that have bytes
  double rate() const { return memory_seconds > 0 ? bytes / memory_seconds : 0; }
};
struct Profile {
  double seconds = 0;                     // of the steps: by the wall clock; on a GPU from first to last kernel
  std::map<std::string, Entry> kernels;   // by slot name; matrix products as forward, dX and dW
  std::map<std::string, Entry> families;  // "linear products", "attention", "norms", ...; "outside kernels"
};
// Runs `step` `times` times and watches the kernels it calls on `device`.
Profile profile(const std::function<double()>& step, int times, binade::DeviceType device);

// STREAM's triad a = b + s c (McCalpin 1995) over arrays no cache holds, all threads: bytes per second, best of several
// passes. As in STREAM 24 bytes count per element, though the processor reads a before it writes it: a kernel that
// writes where it has read can exceed the triad.
double measure_triad();

}  // namespace bench
