// How kernels are written and launched; every kernel file includes it first. The simulated device of the tests defines
// the same names instead, so that one text is compiled by nvcc and by g++ (rules for kernels: docs/gpu_truth.md).
#pragma once
#ifndef BINADE_CUDA_LAUNCH_H
#define BINADE_CUDA_LAUNCH_H
#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <type_traits>

#include "binade/cuda/runtime/check.h"
#include "binade/cuda/runtime/watch.h"

#define SHARED(T, name, n) __shared__ T name[n]
#define SHARED1(T, name) __shared__ T name
#define DYN_SHARED(T, name)                                             \
  extern __shared__ __align__(16) unsigned char binade_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(binade_dynamic_shared)

namespace binade::cuda {

struct LaunchConfig {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

// Starts kernel(args...) on the stream; throws naming the kernel. Parameters are plain data, 504 bytes at most.
template <class... P, class... A>
void launch(const LaunchConfig& config, void (*kernel)(P...), A... args) {
  static_assert((std::is_trivially_copyable_v<P> && ...) && (sizeof(P) + ... + 0) <= 504);
  cudaLaunchConfig_t c{};
  c.gridDim = config.grid;
  c.blockDim = config.block;
  c.dynamicSmemBytes = config.shared_bytes;
  c.stream = config.stream;
  const void* function = reinterpret_cast<const void*>(kernel);
  constexpr std::size_t always_allowed = 48 * 1024;
  if (config.shared_bytes > always_allowed) {
    cuda_check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(config.shared_bytes)),
               "shared memory of a kernel");
  }
  const cudaError_t status = cudaLaunchKernelEx(&c, kernel, P(args)...);
  if (status == cudaSuccess) [[likely]] {
    if (syncs_each_launch()) [[unlikely]]
      check_finished(function, config.stream);
    return;
  }
  const char* name = nullptr;
  if (cudaFuncGetName(&name, function) != cudaSuccess || !name) name = "?";
  cuda_check(status, std::string("launch of ") + name);
}

}  // namespace binade::cuda
#endif
