// What a device backend outside libbinade offers, as a table of functions: the CUDA backend is a plugin that a program
// loads at run time, so that nothing links CUDA and the same program runs with and without a GPU.
#pragma once
#include <cstddef>
#include <memory>

#include "binade/core/backend/communicator.h"
#include "binade/core/base/device.h"
#include "binade/core/base/random.h"

namespace binade {

// Raised with every change of this file or of the kernel slots; plugin and library must agree.
inline constexpr int device_backend_abi = 5;

struct ProbeResult {
  bool usable = false;
  char text[400] = "";  // one line: why it is not usable, or what there is
};
struct DeviceMemory {  // bytes, of the whole device
  std::size_t free = 0, total = 0;
};

// Functions may throw Error unless they say otherwise. `device` is an index below device_count().
struct DeviceBackend {
  int abi = device_backend_abi;
  void (*probe)(ProbeResult& result) noexcept;  // the only one to call before it says `usable`
  int (*device_count)();
  void (*describe)(int device, char* text, std::size_t size);  // one line for people
  std::byte* (*allocate)(std::size_t bytes, int device);       // aligned to 256 bytes; null when there is none left
  void (*deallocate)(std::byte* block, int device) noexcept;
  DeviceMemory (*memory)(int device);
  // Ordered with the kernels of the device. Returns when the host's memory may be changed or read.
  void (*copy)(std::byte* to, Device to_device, const std::byte* from, Device from_device, std::size_t bytes);
  void (*synchronize)(int device);  // waits for everything; throws what kernels found wrong meanwhile
  void (*provide_kernels)();

  // Graphs (core/backend/graphed_step.h). Between begin and end or abandon, work for the device is recorded, not run;
  // what would make the host wait, or read its memory, throws. Memory may be allocated, not returned.
  void (*begin_capture)(int device);
  void* (*end_capture)(int device);  // the graph, ready to run; the capture is over even when it throws
  void (*abandon_capture)(int device) noexcept;
  // Draws recorded as {seed, offset} become {advance.seed, offset + advance.offset}.
  void (*replay)(void* graph, int device, PhiloxState advance);
  void (*destroy_graph)(void* graph, int device) noexcept;  // waits for what still runs

  // Joins the other ranks; throws Error, also where the library is missing.
  std::unique_ptr<DeviceCommunicator> (*make_communicator)(const CommunicatorOptions& options);
};

// The plugin's only symbol, extern "C": its table, or null where it was built for another `abi`.
using DeviceBackendEntry = const DeviceBackend* (*)(int abi);
inline constexpr const char* cuda_backend_entry = "binade_cuda_backend";

}  // namespace binade
