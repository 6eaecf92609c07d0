#include "binade/cuda/runtime/probe.h"

#include <cstdlib>

namespace binade::cuda {

namespace {

constexpr int insufficient_driver = 35, no_device = 100;  // cudaError_t

std::string version(int v) { return std::to_string(v / 1000) + '.' + std::to_string(v % 1000 / 10); }

}  // namespace

ProbeAnswer judge(const DriverFacts& facts, std::string_view built) {
  if (facts.driver_version == 0) return {false, "no NVIDIA driver is installed"};
  if (facts.count_status == insufficient_driver || facts.driver_version / 1000 < facts.runtime_version / 1000) {
    return {false, "the NVIDIA driver is too old: it supports CUDA " + version(facts.driver_version) +
                       ", this build needs CUDA " + version(facts.runtime_version / 1000 * 1000)};
  }
  if (facts.count_status == no_device || (facts.count_status == 0 && facts.gpus.empty())) {
    return {false, "the driver reports no NVIDIA GPU (none is installed, or CUDA_VISIBLE_DEVICES hides it)"};
  }
  if (facts.count_status != 0) return {false, "the CUDA runtime does not start: " + facts.count_text};
  std::string names;
  for (const DriverFacts::Gpu& gpu : facts.gpus) {
    if (gpu.capability < std::atoi(std::string(built).c_str())) {
      return {false, gpu.name + " is an sm_" + std::to_string(gpu.capability) + " GPU; this build is for sm_" +
                         std::string(built) + " and newer (BINADE_CUDA_ARCHITECTURES)"};
    }
    names += (names.empty() ? "" : ", ") + gpu.name;
  }
  return {true, names};
}

}  // namespace binade::cuda
