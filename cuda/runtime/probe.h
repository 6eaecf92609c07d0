// Whether CUDA can be used, from what the driver says; no CUDA header, so that every answer is tested without a GPU.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace binade::cuda {

struct DriverFacts {
  int count_status = 0;    // what cudaGetDeviceCount returned
  std::string count_text;  // and cudaGetErrorString of it
  int driver_version = 0;  // newest CUDA the driver supports, 1000 * major + 10 * minor; 0 without a driver
  int runtime_version = 0;
  struct Gpu {
    std::string name;
    int capability = 0;  // 10 * major + minor: 90 for sm_90
  };
  std::vector<Gpu> gpus;
};

struct ProbeAnswer {
  bool usable = false;
  std::string text;
};

// `built` as CMake lists architectures: "80-real;90-real;120". SASS runs on GPUs of its own major version and at least
// its minor one; PTX, of entries without "-real", on everything newer.
bool runs_on(std::string_view built, int capability);
ProbeAnswer judge(const DriverFacts& facts, std::string_view built);

}  // namespace binade::cuda
