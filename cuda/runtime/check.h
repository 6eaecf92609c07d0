// CUDA's status codes as binade::Error.
#pragma once
#include <cuda_runtime_api.h>

#include <source_location>
#include <string_view>

namespace binade::cuda {

// cuda_check(cudaEventRecord(...), "event record") throws "event record: an illegal memory access was encountered
// (cudaErrorIllegalAddress, transfer.cpp:41)". A failed kernel is often reported by a later call: the text says so.
void cuda_check(cudaError_t status, std::string_view what,
                std::source_location where = std::source_location::current());

}  // namespace binade::cuda
