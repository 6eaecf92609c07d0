// How long the simulated device says that work takes, for events. Made-up numbers, no model of any GPU: they are there so
// that tests can add up and compare what events say. The emulation's own time does not count.
#pragma once
#include <cstddef>

namespace simt {

inline constexpr double kernel_seconds = 2e-6, plan_seconds = 4e-6, fill_seconds = 1e-6;
inline constexpr double product_seconds = 8e-6;  // cuBLASLt's slowest algorithm; the others take a fraction of it

inline double host_copy_seconds(std::size_t bytes) { return 1e-6 + static_cast<double>(bytes) / 25e9; }
inline double device_copy_seconds(std::size_t bytes) { return 1e-6 + static_cast<double>(bytes) / 1e12; }

}  // namespace simt
