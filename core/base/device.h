// Where memory lies and operations run.
#pragma once
#include <string>
#include <string_view>

namespace binade {

enum class DeviceType { cpu, cuda };
inline constexpr int device_types = 2;

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  friend constexpr bool operator==(Device, Device) = default;
};

std::string to_text(DeviceType type);
std::string to_text(Device device);                // "cpu", "cuda:0"
Device device_from_name(std::string_view name);    // "cpu", "cuda", "cuda:1"; throws otherwise, or where there is none
Device default_device();                           // CUDA where there is one that can train, else the CPU
bool cuda_available();                             // a CUDA backend in this build and a device it can use
std::string cuda_status();                         // one line: the CUDA devices, or why there are none
void synchronize(Device device);  // waits for a CUDA device's work; throws what its kernels found, such as a bad index
std::string device_description(Device device);     // one line for people: CPU model, threads, SIMD; or the GPU

}  // namespace binade
