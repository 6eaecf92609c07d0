// What the simulated device counted. Tests of "a training step synchronises nothing and allocates nothing" read it.
#pragma once
#include <cstdint>

namespace simt {

struct Counters {
  std::uint64_t launches = 0;         // kernels, library calls included, not those replayed by a graph
  std::uint64_t library_launches = 0; // of these, cuBLASLt
  std::uint64_t graph_launches = 0, graph_nodes = 0;  // nodes: operations that graphs ran
  std::uint64_t host_syncs = 0;       // calls that made the host wait: *Synchronize, pageable copies to the host, cudaFree
  std::uint64_t copies = 0, pageable_copies = 0;
  std::uint64_t bytes_to_device = 0, bytes_to_host = 0, bytes_on_device = 0;  // by copies; on_device: device to device
  std::uint64_t memsets = 0;
  std::uint64_t allocations = 0, frees = 0;           // of device memory
  std::uint64_t pinned_allocations = 0;
  std::uint64_t event_records = 0, stream_waits = 0;
  // Global memory, by checked kernels only: each access counts, for there are no caches.
  std::uint64_t kernel_bytes_read = 0, kernel_bytes_written = 0;
  std::uint64_t library_bytes_read = 0, library_bytes_written = 0;  // by cuBLASLt and cuDNN: each operand once
};

// Of everything since the process began, or since reset_counters().
Counters counters();
void reset_counters();

}  // namespace simt
