// Devices: which there are, and bringing in a backend's kernels at first use.
#include <fstream>
#include <mutex>
#include <thread>

#include "binade/core/backend/kernel_slot.h"
#include "binade/core/backend/plugin.h"
#include "binade/core/base/device.h"
#include "binade/core/base/error.h"

namespace binade {

namespace cpu {  // ops/cpu
void provide_kernels();  // gathered by the build
void limit_instruction_set();
std::string instruction_set();
}  // namespace cpu

namespace {
void load_cpu() {
  cpu::limit_instruction_set();
  cpu::provide_kernels();
}
}  // namespace

std::string to_text(DeviceType type) { return type == DeviceType::cpu ? "cpu" : "cuda"; }
std::string to_text(Device device) {
  return device.type == DeviceType::cpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

bool cuda_available() { return cuda_backend().functions != nullptr; }
std::string cuda_status() { return cuda_backend().text; }

Device default_device() { return cuda_available() ? Device{DeviceType::cuda, 0} : Device{}; }

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
  load_backend(DeviceType::cpu);
  return model + ", " + std::to_string(std::thread::hardware_concurrency()) + " hardware threads, " +
         cpu::instruction_set() + " kernels";
}

void load_backend(DeviceType device) {
  static std::once_flag once[device_types];
  std::call_once(once[static_cast<std::size_t>(device)],
                 device == DeviceType::cpu ? load_cpu : required_cuda_backend().provide_kernels);
}

}  // namespace binade
