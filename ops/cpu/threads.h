// Threads: OpenMP, shared with oneDNN. Work is cut into chunks of a fixed size that does not depend on the number of
// threads, so that sums taken chunk by chunk, and combined in order, are the same for any number.
#pragma once
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <mutex>

namespace binade::cpu {

inline constexpr std::int64_t elementwise_grain = 16384;  // elements: enough work to pay for waking a thread

inline std::int64_t chunk_count(std::int64_t count, std::int64_t grain) { return (count + grain - 1) / grain; }

// How many processors this machine has: not how many threads run, so that what is cut by it is the same for any number.
inline std::int64_t machine_processors() {
  static const std::int64_t count = std::clamp<std::int64_t>(sysconf(_SC_NPROCESSORS_CONF), 1, 64);
  return count;
}

// body(task) for each task, taken by whichever thread is free; exceptions of a body reach the caller.
template <class Body>
void parallel_tasks(std::int64_t count, const Body& body) {
  if (count <= 1 || omp_in_parallel() || omp_get_max_threads() == 1) {
    for (std::int64_t task = 0; task < count; ++task) body(task);
    return;
  }
  std::exception_ptr error;
  std::mutex mutex;
#pragma omp parallel for schedule(dynamic, 1)
  for (std::int64_t task = 0; task < count; ++task) {
    try {
      body(task);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

// body(begin, end) for consecutive chunks of `grain`.
template <class Body>
void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
  parallel_tasks(chunk_count(count, grain),
                 [&](std::int64_t c) { body(c * grain, std::min(count, (c + 1) * grain)); });
}

}  // namespace binade::cpu
