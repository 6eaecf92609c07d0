// A plugin that cannot be used: its probe says no. Compiled a second time as one built for another version.
#include <cstdio>

#include "binade/core/backend/device_backend.h"

namespace {

void probe(binade::ProbeResult& result) noexcept {
  std::snprintf(result.text, sizeof result.text, "made up: no device");
}

const binade::DeviceBackend backend = [] {
  binade::DeviceBackend table{};
  table.abi = BINADE_TEST_ABI;
  table.probe = probe;
  return table;
}();

}  // namespace

extern "C" const binade::DeviceBackend* binade_cuda_backend(int abi);
extern "C" const binade::DeviceBackend* binade_cuda_backend(int) { return &backend; }
