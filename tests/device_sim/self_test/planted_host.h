// What tests of planted mistakes in host code share.
#pragma once
#include <cstdlib>
#include <string>

#include "device.h"

namespace binade::test {

class PlantedHost : public DeviceSim {
 protected:
  // The findings so far are exactly of these kinds.
  void expect_found(const std::string& expected) { EXPECT_EQ(kinds(simt::take_findings()), expected); }
};
using PlantedHostDeathTest = PlantedHost;

template <class Body>
void run_and_exit(const Body& body) {
  body();
  std::exit(0);
}
// Runs the statements and ends normally; what is at fault decides the exit code.
#define EXPECT_FOUND_AT_EXIT(text, ...) \
  EXPECT_EXIT((run_and_exit([&] { __VA_ARGS__; })), testing::ExitedWithCode(simt::finding_exit_code), text)

}  // namespace binade::test
