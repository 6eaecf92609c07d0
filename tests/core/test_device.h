// Where tests run that can run anywhere: the device BINADE_TEST_DEVICE names, otherwise the CPU.
#pragma once
#include <cstdlib>

#include "binade/core/base/device.h"

namespace binade::test {

inline Device test_device() {
  static const char* const name = std::getenv("BINADE_TEST_DEVICE");
  return name ? device_from_name(name) : Device{};
}
inline bool tests_the_cpu() { return test_device().type == DeviceType::cpu; }

}  // namespace binade::test
