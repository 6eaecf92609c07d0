// The plugin's entry: the table of functions libbinade loads.
#include "binade/core/backend/device_backend.h"

#include <cuda_runtime_api.h>

#include <cstdio>

#include "binade/cuda/runtime/check.h"
#include "binade/cuda/runtime/communicator.h"
#include "binade/cuda/runtime/context.h"
#include "binade/cuda/runtime/gpu.h"
#include "binade/cuda/runtime/graph.h"
#include "binade/cuda/runtime/marks.h"
#include "binade/cuda/runtime/probe.h"
#include "binade/cuda/runtime/watch.h"

namespace binade::cuda {

void provide_kernels();  // cuda/kernels and cuda/libs, gathered by the build

namespace {

DriverFacts ask_driver() {
  DriverFacts facts;
  int count = 0;  // left untouched by a failure
  const cudaError_t status = cudaGetDeviceCount(&count);
  facts.count_status = status;
  facts.count_text = cudaGetErrorString(status);
  if (cudaDriverGetVersion(&facts.driver_version) != cudaSuccess) facts.driver_version = 0;
  if (cudaRuntimeGetVersion(&facts.runtime_version) != cudaSuccess) facts.runtime_version = 0;
  for (int d = 0; d < (status == cudaSuccess ? count : 0); ++d) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, d) != cudaSuccess) continue;
    facts.gpus.push_back({properties.name, 10 * properties.major + properties.minor});
  }
  cudaGetLastError();
  return facts;
}

void probe(ProbeResult& result) noexcept {
  try {
    const ProbeAnswer answer = judge(ask_driver(), BINADE_CUDA_ARCHITECTURES);
    result.usable = answer.usable;
    std::snprintf(result.text, sizeof result.text, "%s", answer.text.c_str());
  } catch (const std::exception& error) {
    result.usable = false;
    std::snprintf(result.text, sizeof result.text, "%s", error.what());
  }
}

void describe(int device, char* text, std::size_t size) {
  cudaDeviceProp p;
  cuda_check(cudaGetDeviceProperties(&p, device), "device properties");
  std::snprintf(text, size, "%s, %.0f GiB, %d multiprocessors, sm_%d%d", p.name,
                static_cast<double>(p.totalGlobalMem) / (1 << 30), p.multiProcessorCount, p.major, p.minor);
}

std::byte* allocate(std::size_t bytes, int device) { return allocate_block(bytes, gpu(device)); }

void deallocate(std::byte* block, int device) noexcept {
  try {
    cudaFreeAsync(block, stream_of(gpu(device)));
  } catch (const std::exception&) {  // at exit the driver may be gone, and the memory with it
  }
}

DeviceMemory memory(int device) {
  stream_of(gpu(device));  // makes it current
  DeviceMemory m;
  cuda_check(cudaMemGetInfo(&m.free, &m.total), "free device memory");
  return m;
}

void synchronize(int device) { wait_for(gpu(device)); }

void start() {
  provide_kernels();
  install_watch();
}

constexpr DeviceBackend backend{
    .abi = device_backend_abi,
    .probe = probe,
    .device_count = device_count,
    .describe = describe,
    .allocate = allocate,
    .deallocate = deallocate,
    .memory = memory,
    .copy = copy_bytes,
    .synchronize = synchronize,
    .provide_kernels = start,
    .begin_capture = begin_capture,
    .end_capture = end_capture,
    .abandon_capture = abandon_capture,
    .replay = replay,
    .destroy_graph = destroy_graph,
    .mark = mark,
    .take_marks = take_marks,
    .make_communicator = make_communicator,
};

}  // namespace

}  // namespace binade::cuda

extern "C" __attribute__((visibility("default"))) const binade::DeviceBackend* binade_cuda_backend(int abi);
extern "C" const binade::DeviceBackend* binade_cuda_backend(int abi) {
  return abi == binade::device_backend_abi ? &binade::cuda::backend : nullptr;
}
