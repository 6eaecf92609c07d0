// What a test says to the simulated device: settings, findings, counters, injected failures.
#pragma once
#include <cuda_runtime_api.h>

#include "counters.h"
#include "findings.h"
#include "settings.h"

namespace simt {

// The n-th next call (1: the very next) of a runtime function fails with this error. "cudaLaunchKernel": launches.
// cudaSuccess, for cudaEventRecord and cudaStreamWaitEvent: the call is left out, as a programmer may forget it.
void fail_call(const char* function, int n, cudaError_t error);
void forget_failures();  // those that have not happened yet

// The devices as after process start: allocations, streams, events, errors, findings, counters and settings are gone.
void reset_simulator();

}  // namespace simt
