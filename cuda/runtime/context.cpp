#include "binade/cuda/runtime/context.h"

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "binade/core/base/error.h"
#include "binade/cuda/runtime/check.h"
#include "binade/cuda/runtime/staging.h"

namespace binade::cuda {

namespace {

struct Context {
  std::once_flag created;
  std::mutex mutex;  // of the members below the stream
  cudaStream_t stream = nullptr;
  cudaEvent_t reached = nullptr;              // orders other devices' streams after this one
  cudaStream_t beside = nullptr;              // for allocations during a capture
  const PhiloxState* draw_advance = nullptr;  // set during a capture
  IndexFault* fault = nullptr;
  unsigned* arrivals = nullptr;
  int capability = 0;
  Staging staging;
  std::mutex failure_mutex;  // of the line below; taken while `mutex` may be held
  std::string failure;
};

void create(Context& c, int index) {
  int major = 0, minor = 0;
  cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "compute capability");
  cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index), "compute capability");
  c.capability = 10 * major + minor;
  cuda_check(cudaStreamCreateWithFlags(&c.stream, cudaStreamNonBlocking), "create the compute stream");
  cuda_check(cudaStreamCreateWithFlags(&c.beside, cudaStreamNonBlocking), "create a stream for allocations");
  cuda_check(cudaEventCreateWithFlags(&c.reached, cudaEventDisableTiming), "create an event");
  c.staging.create(c.stream);
  const auto zeroed = [&](std::size_t bytes, const char* what) {
    void* memory = nullptr;
    cuda_check(cudaMallocAsync(&memory, bytes, c.stream), what);
    cuda_check(cudaMemsetAsync(memory, 0, bytes, c.stream), what);
    return memory;
  };
  c.fault = static_cast<IndexFault*>(zeroed(sizeof(IndexFault), "memory for index checks"));
  c.arrivals = static_cast<unsigned*>(zeroed(arrival_words * sizeof(unsigned), "memory for blocks to count themselves"));
}

Context& context(Device device) {
  // Never destroyed: the driver may be gone before static destructors run.
  static auto* contexts = new std::vector<Context>(static_cast<std::size_t>(device_count()));
  check(device.index >= 0 && device.index < static_cast<int>(contexts->size()), "cuda: there is no device ",
        to_text(device));
  cuda_check(cudaSetDevice(device.index), "select the device");
  Context& c = (*contexts)[static_cast<std::size_t>(device.index)];
  std::call_once(c.created, [&] { create(c, device.index); });
  return c;
}

std::string explain(const IndexFault& f) {
  const std::string value = std::to_string(f.value), position = std::to_string(f.position),
                    limit = std::to_string(f.limit),
                    length = " must be in [0, " + limit + "]: sequence " + position + " has " + value;
  switch (f.user) {
    case IndexUser::embedding:
      return "embedding: index out of range for " + limit + " rows: position " + position + " has " + value;
    case IndexUser::cross_entropy:
      return "cross_entropy: targets must be in [0, " + limit + ") or ignore_index: row " + position + " has " + value;
    case IndexUser::gather:
      return "gather: index out of range: " + value + " along a dim of size " + limit;
    case IndexUser::scatter_add:
      return "scatter_add: index out of range: " + value + " along a dim of size " + limit;
    case IndexUser::query_lengths:
      return "scaled_dot_product_attention: q_lengths" + length;
    case IndexUser::key_lengths:
      return "scaled_dot_product_attention: kv_lengths" + length;
    case IndexUser::self_attention_lengths:
      return "packed_self_attention: lengths" + length;
  }
  return "index out of range: " + value;
}

void throw_failure(Context& c) {
  const std::lock_guard lock(c.failure_mutex);
  if (!c.failure.empty()) fail({std::exchange(c.failure, {})});
}

// Throws for a bad index since the last call. Waits for the stream. c.mutex is held.
void report_faults(Context& c) {
  IndexFault found;
  c.staging.to_host(reinterpret_cast<std::byte*>(&found), reinterpret_cast<const std::byte*>(c.fault), sizeof found,
                    c.stream);
  throw_failure(c);
  if (!found.raised) return;
  cuda_check(cudaMemsetAsync(c.fault, 0, sizeof(IndexFault), c.stream), "clear the index checks");
  fail({explain(found), " (found on the device, reported at this synchronisation)"});
}

void refuse_in_capture(const Context& c, const char* what) {
  check(!c.draw_advance, "GraphedStep: the step ", what, " while it is recorded; do that outside the step");
}
constexpr const char* reads_on_host = "reads a value on the host (item(), to_vector(), at(), synchronize())";

// What is pushed to `later` from now on runs after what `earlier` holds now.
void order(Context& earlier, Device earlier_device, Context& later, Device later_device) {
  cuda_check(cudaSetDevice(earlier_device.index), "select the device");
  cuda_check(cudaEventRecord(earlier.reached, earlier.stream), "event record");
  cuda_check(cudaSetDevice(later_device.index), "select the device");
  cuda_check(cudaStreamWaitEvent(later.stream, earlier.reached, 0), "wait for another device");
}

}  // namespace

int device_count() {
  int count = 0;
  cuda_check(cudaGetDeviceCount(&count), "count the devices");
  return count;
}

cudaStream_t stream_of(Device device) { return context(device).stream; }
int capability_of(Device device) { return context(device).capability; }
IndexFault* index_fault_of(Device device) { return context(device).fault; }
unsigned* arrivals_of(Device device) { return context(device).arrivals; }

void copy_bytes(std::byte* to, Device to_device, const std::byte* from, Device from_device, std::size_t bytes) {
  if (to_device.type == DeviceType::cpu) {
    Context& c = context(from_device);
    const std::lock_guard lock(c.mutex);
    refuse_in_capture(c, reads_on_host);
    report_faults(c);
    c.staging.to_host(to, from, bytes, c.stream);
    throw_failure(c);  // one that came while this was waiting
  } else if (from_device.type == DeviceType::cpu) {
    Context& c = context(to_device);
    const std::lock_guard lock(c.mutex);
    refuse_in_capture(c, "copies from the host");
    c.staging.to_device(to, from, bytes, c.stream);
  } else {
    Context &source = context(from_device), &target = context(to_device);
    const std::scoped_lock lock(source.mutex, target.mutex);
    refuse_in_capture(source, "copies between devices");
    refuse_in_capture(target, "copies between devices");
    order(source, from_device, target, to_device);
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, target.stream), "copy between devices");
    order(target, to_device, source, from_device);  // before the source's memory is used again
  }
}

void wait_for(Device device) {
  Context& c = context(device);
  const std::lock_guard lock(c.mutex);
  refuse_in_capture(c, reads_on_host);
  report_faults(c);
}

std::byte* allocate_block(std::size_t bytes, Device device) {
  const Context& c = context(device);
  const bool captured = c.draw_advance != nullptr;
  void* block = nullptr;
  const cudaError_t status = cudaMallocAsync(&block, bytes, captured ? c.beside : c.stream);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  cuda_check(status, "allocate device memory");
  if (captured) cuda_check(cudaStreamSynchronize(c.beside), "wait for an allocation");
  return static_cast<std::byte*>(block);
}

void fail_device(Device device, const std::string& why) {
  Context& c = context(device);
  const std::lock_guard lock(c.failure_mutex);
  c.failure = why;
}

void set_draw_advance(Device device, const PhiloxState* advance) { context(device).draw_advance = advance; }
const PhiloxState* draw_advance_of(Device device) { return context(device).draw_advance; }

}  // namespace binade::cuda
