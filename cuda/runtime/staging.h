// Memory that transfers between host and device pass through, and the stream that brings what comes from the host.
#pragma once
#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>

namespace binade::cuda {

// Pinned slots, used in turn, and a slot of device memory behind each. A copy to the device crosses from one to the other
// on the copy stream, beside the kernels, and from there to its target on the compute stream: whose block that was before
// does not matter, for blocks are reused in compute-stream order. Two events per slot keep the streams apart: `arrived`
// before the compute stream reads it, `taken` before the copy stream writes it again. The host waits only where all slots
// are in flight. Small copies, for which two launches would cost more than they save, take the compute stream alone.
class Staging {
 public:
  static constexpr std::size_t slots = 16, slot_bytes = std::size_t{1} << 20, small_bytes = std::size_t{64} << 10;

  void create(cudaStream_t compute);
  void to_device(std::byte* to, const std::byte* from, std::size_t bytes, cudaStream_t compute);
  void to_host(std::byte* to, const std::byte* from, std::size_t bytes, cudaStream_t compute);

 private:
  void beside_kernels(std::byte* to, std::size_t slot, std::size_t bytes, cudaStream_t compute);
  cudaStream_t copies_ = nullptr;
  std::byte *pinned_ = nullptr, *landing_ = nullptr;
  std::array<cudaEvent_t, slots> arrived_{}, taken_{};
  std::size_t next_ = 0;
};

}  // namespace binade::cuda
