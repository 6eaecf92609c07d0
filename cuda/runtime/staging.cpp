#include "binade/cuda/runtime/staging.h"

#include <algorithm>
#include <cstring>

#include "binade/cuda/runtime/check.h"

namespace binade::cuda {

void Staging::create(cudaStream_t compute) {
  void *pinned = nullptr, *landing = nullptr;
  cuda_check(cudaHostAlloc(&pinned, slots * slot_bytes, cudaHostAllocDefault), "pinned memory for transfers");
  cuda_check(cudaMallocAsync(&landing, slots * slot_bytes, compute), "device memory for transfers");
  pinned_ = static_cast<std::byte*>(pinned);
  landing_ = static_cast<std::byte*>(landing);
  cuda_check(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "create the copy stream");
  for (auto* events : {&arrived_, &taken_})
    for (cudaEvent_t& event : *events)
      cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event for transfers");
  for (const cudaEvent_t event : taken_) cuda_check(cudaEventRecord(event, compute), "event record");  // allocated
}

void Staging::to_device(std::byte* to, const std::byte* from, std::size_t bytes, cudaStream_t compute) {
  for (std::size_t at = 0; at < bytes; at += slot_bytes, next_ = (next_ + 1) % slots) {
    const std::size_t length = std::min(slot_bytes, bytes - at);
    std::byte* const slot = pinned_ + next_ * slot_bytes;
    cuda_check(cudaEventSynchronize(arrived_[next_]), "wait for an earlier copy to the device");
    std::memcpy(slot, from + at, length);
    if (bytes > small_bytes) {
      beside_kernels(to + at, next_, length, compute);
    } else {
      cuda_check(cudaMemcpyAsync(to + at, slot, length, cudaMemcpyHostToDevice, compute), "copy to the device");
      cuda_check(cudaEventRecord(arrived_[next_], compute), "event record");
    }
  }
}

void Staging::beside_kernels(std::byte* to, std::size_t slot, std::size_t bytes, cudaStream_t compute) {
  const std::size_t offset = slot * slot_bytes;
  cuda_check(cudaStreamWaitEvent(copies_, taken_[slot], 0), "wait for an earlier copy from the slot");
  cuda_check(cudaMemcpyAsync(landing_ + offset, pinned_ + offset, bytes, cudaMemcpyHostToDevice, copies_),
             "copy to the device");
  cuda_check(cudaEventRecord(arrived_[slot], copies_), "event record");
  cuda_check(cudaStreamWaitEvent(compute, arrived_[slot], 0), "wait for a copy to the device");
  cuda_check(cudaMemcpyAsync(to, landing_ + offset, bytes, cudaMemcpyDeviceToDevice, compute), "copy to its target");
  cuda_check(cudaEventRecord(taken_[slot], compute), "event record");
}

// The compute stream has waited for every copy out of the pinned slots: its own copies into them come later.
void Staging::to_host(std::byte* to, const std::byte* from, std::size_t bytes, cudaStream_t compute) {
  for (std::size_t at = 0; at < bytes; at += slots * slot_bytes) {
    const std::size_t length = std::min(slots * slot_bytes, bytes - at);
    cuda_check(cudaMemcpyAsync(pinned_, from + at, length, cudaMemcpyDeviceToHost, compute), "copy to the host");
    cuda_check(cudaStreamSynchronize(compute), "wait for a copy to the host");
    std::memcpy(to + at, pinned_, length);
  }
}

}  // namespace binade::cuda
