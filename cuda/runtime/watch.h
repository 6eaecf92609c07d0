// For those who look closer: BINADE_CUDA_SYNC=1 waits after every launch, so that an error names the kernel and the
// operation that raised it; BINADE_NVTX=1 marks every operation, with its module, for Nsight.
#pragma once
#include <cuda_runtime_api.h>

namespace binade::cuda {

bool syncs_each_launch();  // BINADE_CUDA_SYNC is 1
// Waits for the stream, unless it is captured; throws naming the kernel and the running operation.
void check_finished(const void* kernel, cudaStream_t stream);

void install_watch();  // where the environment asks for one

}  // namespace binade::cuda
