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

// `built`: the architectures of this build, oldest first: "80,90,120". PTX of the oldest is part of it, and runs on all
// that is newer.
ProbeAnswer judge(const DriverFacts& facts, std::string_view built);

}  // namespace binade::cuda
