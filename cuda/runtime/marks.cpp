#include "binade/cuda/runtime/marks.h"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "binade/core/base/error.h"
#include "binade/cuda/runtime/check.h"
#include "binade/cuda/runtime/context.h"
#include "binade/cuda/runtime/gpu.h"

namespace binade::cuda {

namespace {

struct Marks {
  std::vector<cudaEvent_t> events;  // made when they are needed, and kept
  std::size_t used = 0;
};
struct AllMarks {
  std::mutex mutex;
  std::map<int, Marks> of_device;
};
AllMarks& all_marks() {
  static auto* all = new AllMarks;  // never destroyed: the driver may be gone before static destructors run
  return *all;
}

}  // namespace

bool mark(int device) {
  if (draw_advance_of(gpu(device))) return false;  // captured: an event would become part of the graph
  const cudaStream_t stream = stream_of(gpu(device));
  const std::lock_guard lock(all_marks().mutex);
  Marks& marks = all_marks().of_device[device];
  if (marks.used == marks.events.size()) {
    cudaEvent_t made = nullptr;
    cuda_check(cudaEventCreate(&made), "event for kernel times");
    marks.events.push_back(made);
  }
  cuda_check(cudaEventRecord(marks.events[marks.used], stream), "event record");
  ++marks.used;
  return true;
}

// Each interval by itself, then added up: floats would lose microseconds after some seconds.
std::vector<double> take_marks(int device) {
  check(!draw_advance_of(gpu(device)), "kernel times cannot be asked for while a step is captured");
  stream_of(gpu(device));  // makes the device current
  const std::lock_guard lock(all_marks().mutex);
  Marks& marks = all_marks().of_device[device];
  std::vector<double> seconds(marks.used);
  if (marks.used > 0) cuda_check(cudaEventSynchronize(marks.events[marks.used - 1]), "wait for the last kernel");
  for (std::size_t i = 1; i < marks.used; ++i) {
    float milliseconds = 0;
    cuda_check(cudaEventElapsedTime(&milliseconds, marks.events[i - 1], marks.events[i]), "time between events");
    seconds[i] = seconds[i - 1] + 1e-3 * static_cast<double>(milliseconds);
  }
  marks.used = 0;
  return seconds;
}

}  // namespace binade::cuda
