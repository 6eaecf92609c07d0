#include "binade/cuda/runtime/probe.h"

#include <cstdlib>

namespace binade::cuda {

namespace {

constexpr int insufficient_driver = 35, no_device = 100;  // cudaError_t

std::string version(int v) { return std::to_string(v / 1000) + '.' + std::to_string(v % 1000 / 10); }

}  // namespace

bool runs_on(std::string_view built, int capability) {
  while (!built.empty()) {
    const std::size_t end = std::min(built.find(';'), built.size());
    const std::string entry(built.substr(0, end));
    built.remove_prefix(std::min(end + 1, built.size()));
    const int target = std::atoi(entry.c_str());
    const bool sass = entry.find("-virtual") == std::string::npos, ptx = entry.find("-real") == std::string::npos;
    if (sass && capability / 10 == target / 10 && capability >= target) return true;
    if (ptx && capability >= target) return true;
  }
  return false;
}

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
    if (!runs_on(built, gpu.capability)) {
      return {false, gpu.name + " is an sm_" + std::to_string(gpu.capability) + " GPU; this build is for " +
                         std::string(built) + " (BINADE_CUDA_ARCHITECTURES)"};
    }
    names += (names.empty() ? "" : ", ") + gpu.name;
  }
  return {true, names};
}

}  // namespace binade::cuda
