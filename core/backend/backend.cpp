// Devices: which there are, and bringing in a backend's kernels at first use.
#include <fstream>
#include <mutex>
#include <thread>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/plugin.h"
#include "binade/core/base/device.h"
#include "binade/core/base/error.h"

namespace binade {

namespace cpu {
void provide_kernels();  // ops/cpu, gathered by the build
}

std::string to_text(DeviceType type) { return type == DeviceType::cpu ? "cpu" : "cuda"; }
std::string to_text(Device device) {
  return device.type == DeviceType::cpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

bool cuda_available() { return cuda_backend().functions != nullptr; }
std::string cuda_status() { return cuda_backend().text; }

// CUDA is not chosen by itself while its backend has no optimizer kernels (docs/gpu_truth.md); asked for, it is used.
Device default_device() {
  if (!cuda_available()) return {};
  load_backend(DeviceType::cuda);
  return kernel::adam.function(DeviceType::cuda) ? Device{DeviceType::cuda, 0} : Device{};
}

Device device_from_name(std::string_view text) {
  if (text == "cpu") return {};
  const bool cuda = text.starts_with("cuda");
  const std::string_view rest = cuda ? text.substr(4) : text;
  const bool indexed = rest.size() > 1 && rest[0] == ':' &&
                       rest.find_first_not_of("0123456789", 1) == std::string_view::npos && rest.size() < 6;
  check(cuda && (rest.empty() || indexed), "device: unknown device '", text, "', expected cpu, cuda or cuda:N");
  check(cuda_available(), "device: ", text, " was asked for, but there is no CUDA device: ", cuda_status());
  const int index = indexed ? std::stoi(std::string(rest.substr(1))) : 0;
  const int count = required_cuda_backend().device_count();
  check(index < count, "device: ", text, " was asked for, but there are ", count, " CUDA devices");
  return {DeviceType::cuda, index};
}

void synchronize(Device device) {
  if (device.type == DeviceType::cuda) required_cuda_backend().synchronize(device.index);
}

std::string device_description(Device device) {
  if (device.type == DeviceType::cuda) {
    char text[200] = "";
    required_cuda_backend().describe(device.index, text, sizeof text);
    return text;
  }
  std::string model = "CPU";
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    model = line.substr(line.find(':') + 2);
    break;
  }
  return model + ", " + std::to_string(std::thread::hardware_concurrency()) + " hardware threads";
}

void load_backend(DeviceType device) {
  static std::once_flag once[device_types];
  std::call_once(once[static_cast<std::size_t>(device)],
                 device == DeviceType::cpu ? cpu::provide_kernels : required_cuda_backend().provide_kernels);
}

}  // namespace binade
