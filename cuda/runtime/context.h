// What binade keeps per GPU: one compute stream, one for copies from the host, and the note of bad indices.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "binade/core/base/device.h"
#include "binade/core/base/random.h"
#include "binade/cuda/runtime/index_fault.h"

namespace binade::cuda {

int device_count();

// All kernels of a device run on its one compute stream, in order, and what copies bring is there in that order too
// (staging.h); nothing runs on the legacy default stream. The call makes the device current for the calling thread.
cudaStream_t stream_of(Device device);
int capability_of(Device device);                // 10 * major + minor: 90 for sm_90
IndexFault* index_fault_of(Device device);  // device memory, for kernels that check indices
// Device memory, zero whenever no kernel runs: where the blocks of one kernel count themselves (kernels/arrival.h).
inline constexpr std::int64_t arrival_words = 1024;
unsigned* arrivals_of(Device device);

// Ordered on the devices' streams. Returns when the host's side may be changed or read; a copy to the host first
// throws what index_fault_of() noted.
void copy_bytes(std::byte* to, Device to_device, const std::byte* from, Device from_device, std::size_t bytes);
// While a step is captured on the device (graph.cpp), both throw: the host cannot wait for work that does not run.
void wait_for(Device device);  // everything on the device; throws what index_fault_of() noted

// For memory from the driver: the compute stream or, while that is captured, a stream beside it, which is waited for.
std::byte* allocate_block(std::size_t bytes, Device device);  // null when there is none left

// The next synchronisation of the device throws `why`, once. From any thread, also while another one synchronises.
void fail_device(Device device, const std::string& why);

// Set while the device's stream is captured: where its kernels find how far the random stream has advanced since.
void set_draw_advance(Device device, const PhiloxState* advance);
const PhiloxState* draw_advance_of(Device device);
void store_draw_advance(PhiloxState* target, PhiloxState value, Device device);  // in stream order; kernels/random.cu

}  // namespace binade::cuda
