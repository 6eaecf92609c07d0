// Kernel launches and what the runtime says about kernels.
#include <dlfcn.h>

#include <cstdio>

#include "binade/core/base/error.h"
#include "durations.h"
#include "findings.h"
#include "grid.h"
#include "runtime.h"
#include "settings.h"

namespace simt {

namespace {

constexpr std::size_t dynamic_shared_default = 48 * 1024;

std::string text_of(dim3 d) {
  return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
}

cudaError_t check_launch(const Call& call, dim3 grid, dim3 block, std::size_t shared, cudaStream_t handle, Stream*& stream,
                         const Kernel& kernel) {
  if (call.failed()) return call.error();
  stream = call.stream(handle);
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (stream->device != current_device()) {
    report("wrong-device", "launch on a stream of device " + std::to_string(stream->device) + " while device " +
                               std::to_string(current_device()) + " is current");
    return cudaErrorInvalidResourceHandle;
  }
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > max_block_threads || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffU || grid.y > 65535 || grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  const auto raised = runtime().dynamic_shared_limit.find(kernel.function);
  const std::size_t limit = raised == runtime().dynamic_shared_limit.end()
                                ? dynamic_shared_default
                                : std::max(dynamic_shared_default, static_cast<std::size_t>(raised->second));
  return shared > limit ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace

void enqueue_kernel(dim3 grid, dim3 block, std::size_t shared, cudaStream_t handle, const Kernel& kernel) {
  if (shared > dynamic_shared_default) {  // as cuda/kernels/launch.h does
    const cudaError_t error = cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shared));
    if (error != cudaSuccess) {
      binade::fail({"launch of ", place_of(kernel.function).function, ": ", std::to_string(shared),
                    " bytes of shared memory: ", cudaGetErrorString(error), " (simulated device)"});
    }
  }
  Call call("cudaLaunchKernel");
  Stream* stream = nullptr;
  cudaError_t error = check_launch(call, grid, block, shared, handle, stream, kernel);
  if (error == cudaSuccess) {
    ++runtime().counted.launches;
    Runtime::Largest& largest = runtime().largest[kernel.function];
    largest.threads = std::max(largest.threads, block.x * block.y * block.z);
    largest.dynamic_shared = std::max(largest.dynamic_shared, shared);
    const auto run = [=](OperationContext& context) {
      if (!kernel.checked) note_unchecked_kernel();
      return the_grid().run({grid, block, shared, &kernel, context.device, &context.clock});
    };
    error = runtime().push(*stream, {.name = "a kernel", .run = run, .seconds = kernel_seconds}, call.lock);
  }
  if (error == cudaSuccess) return;
  call.result(error);
  call.lock.unlock();
  binade::fail({"launch of ", place_of(kernel.function).function, ": ", cudaGetErrorString(error), " (",
                cudaGetErrorName(error), ", grid ", text_of(grid), ", block ", text_of(block), ", ",
                std::to_string(shared), " bytes of shared memory, simulated device)"});
}

// A line per kernel: the library it is in, its place there, threads of a block, bytes of dynamic shared memory.
void Runtime::write_launches() const {
  if (settings().launches.empty()) return;
  FILE* const file = std::fopen(settings().launches.c_str(), "a");
  if (!file) return;
  for (const auto& [function, most] : largest) {
    Dl_info info{};
    if (!dladdr(function, &info) || !info.dli_fname) continue;
    const auto offset = static_cast<const char*>(function) - static_cast<const char*>(info.dli_fbase);
    std::fprintf(file, "%s %zx %u %zu\n", info.dli_fname, static_cast<std::size_t>(offset), most.threads, most.dynamic_shared);
  }
  std::fclose(file);
}

}  // namespace simt

using simt::Call;
using simt::runtime;

extern "C" {

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  Call call("cudaFuncSetAttribute");
  if (call.failed()) return call.error();
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;  // hints
  if (value < 0 || static_cast<std::size_t>(value) > simt::shared_bytes_max) return call.result(cudaErrorInvalidValue);
  runtime().dynamic_shared_limit[function] = value;
  return cudaSuccess;
}

// Registers and static shared memory are unknown here: what nvcc says is read in the compile checks.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  Call call("cudaFuncGetAttributes");
  if (call.failed()) return call.error();
  *attributes = {};
  attributes->maxThreadsPerBlock = static_cast<int>(simt::max_block_threads);
  attributes->numRegs = 32;
  attributes->binaryVersion = attributes->ptxVersion = simt::settings().capability;
  const auto raised = runtime().dynamic_shared_limit.find(function);
  attributes->maxDynamicSharedSizeBytes =
      raised == runtime().dynamic_shared_limit.end() ? static_cast<int>(simt::dynamic_shared_default) : raised->second;
  return cudaSuccess;
}

cudaError_t cudaFuncGetName(const char** name, const void* function) {
  static std::map<const void*, std::string> names;
  Call call("cudaFuncGetName");
  const auto [found, added] = names.try_emplace(function);
  if (added) found->second = simt::place_of(function).function;
  *name = found->second.c_str();
  return cudaSuccess;
}

// 2048 threads and 228 KiB of shared memory per multiprocessor, 32 blocks at most.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int block_threads, size_t shared) {
  Call call("cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  if (call.failed()) return call.error();
  if (block_threads <= 0 || block_threads > 1024) return call.result(cudaErrorInvalidValue);
  const int by_threads = 2048 / block_threads;
  const int by_shared = static_cast<int>(std::size_t{228} * 1024 / (shared + 1024));
  *blocks = std::min({32, by_threads, by_shared});
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* function, int block_threads,
                                                                   size_t shared, unsigned) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, block_threads, shared);
}

}  // extern "C"
