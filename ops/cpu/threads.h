// Threads: OpenMP, shared with oneDNN. Work is cut into chunks of a fixed size that does not depend on the number of
// threads, so that sums taken chunk by chunk, and combined in order, are the same for any number.
#pragma once
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <mutex>

namespace binade::cpu {

inline constexpr std::int64_t elementwise_grain = 16384;  // elements: enough work to pay for waking a thread

inline std::int64_t chunk_count(std::int64_t count, std::int64_t grain) { return (count + grain - 1) / grain; }

// body(begin, end) for consecutive chunks of `grain`; exceptions of a body reach the caller.
template <class Body>
void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
  const std::int64_t chunks = chunk_count(count, grain);
  if (chunks <= 1 || omp_in_parallel() || omp_get_max_threads() == 1) {
    for (std::int64_t c = 0; c < chunks; ++c) body(c * grain, std::min(count, (c + 1) * grain));
    return;
  }
  std::exception_ptr error;
  std::mutex mutex;
#pragma omp parallel for schedule(static)
  for (std::int64_t c = 0; c < chunks; ++c) {
    try {
      body(c * grain, std::min(count, (c + 1) * grain));
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace binade::cpu
