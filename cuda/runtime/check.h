// CUDA's status codes as binade::Error.
#pragma once
#include <cuda_runtime_api.h>

#include <string_view>

namespace binade::cuda {

struct CallSite {  // std::source_location, which clang 14 does not have
  const char* file;
  int line;
  static constexpr CallSite here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// cuda_check(cudaEventRecord(...), "event record") throws "event record: an illegal memory access was encountered
// (cudaErrorIllegalAddress, transfer.cpp:41)". A failed kernel is often reported by a later call: the text says so.
void cuda_check(cudaError_t status, std::string_view what, CallSite where = CallSite::here());

}  // namespace binade::cuda
