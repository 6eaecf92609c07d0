// Queues, clocks, errors, and what is checked at exit.
#include "runtime.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <utility>

#include "findings.h"
#include "grid.h"
#include "settings.h"
#include "simulator.h"

namespace simt {

namespace {

thread_local int device_of_thread = 0;
thread_local cudaError_t last_error = cudaSuccess;

struct Injected {
  int remaining;
  cudaError_t error;
};
std::multimap<std::string, Injected>& injected() {
  static auto* map = [] {
    auto* all = new std::multimap<std::string, Injected>;
    std::string list = settings().fail;
    while (!list.empty()) {  // function:n:error, ...
      const std::string item = list.substr(0, list.find(','));
      list.erase(0, std::min(list.size(), item.size() + 1));
      char function[100];
      int n = 0, error = 0;
      if (std::sscanf(item.c_str(), " %99[A-Za-z0-9_]:%d:%d", function, &n, &error) != 3) {
        std::fprintf(stderr, "simulated device: BINADE_SIM_FAIL: cannot read '%s'\n", item.c_str());
        std::exit(2);
      }
      all->insert({function, {n, static_cast<cudaError_t>(error)}});
    }
    return all;
  }();
  return *map;
}

}  // namespace

std::optional<cudaError_t> injected_result(const char* function) {
  std::optional<cudaError_t> error;
  auto [first, last] = injected().equal_range(function);
  while (first != last) {
    if (--first->second.remaining > 0) {
      ++first;
    } else {
      error = first->second.error;
      first = injected().erase(first);
    }
  }
  return error;
}

Runtime::Runtime() {
  device_memory();
  epochs();
  install_fault_handler();
  const auto devices = static_cast<std::size_t>(settings().devices);
  sticky.assign(devices, cudaSuccess);
  default_pools.resize(devices);
  for (std::size_t d = 0; d < devices; ++d) {
    default_pools[d].device = static_cast<int>(d);
    current_pools.push_back(&default_pools[d]);
  }
  std::atexit([] { runtime().check_exit(); });
}

Runtime& runtime() {
  static auto* all = new Runtime;  // outlives static destructors
  return *all;
}

int current_device() { return device_of_thread; }
void set_current_device(int device) { device_of_thread = device; }

MemoryWindow::MemoryWindow() { device_memory().open(), pinned_memory().open(); }
MemoryWindow::~MemoryWindow() { device_memory().close(), pinned_memory().close(); }
ClosedMemory::ClosedMemory() { device_memory().close(), pinned_memory().close(); }
ClosedMemory::~ClosedMemory() { device_memory().open(), pinned_memory().open(); }

// ---- queues

Stream* Runtime::find(cudaStream_t handle, const char* function) {
  if (!handle || handle == cudaStreamLegacy || handle == cudaStreamPerThread) {
    report("legacy-stream", std::string(function) + ": the default stream is not used in this project");
    return nullptr;
  }
  const auto found = streams.find(reinterpret_cast<Stream*>(handle));
  if (found == streams.end() || found->second->destroyed) {
    report("bad-handle", std::string(function) + ": not a stream, or destroyed");
    return nullptr;
  }
  return found->first;
}

Stream* Runtime::add_stream(unsigned flags, int priority) {
  auto stream = std::make_unique<Stream>();
  stream->number = ++stream_numbers;
  stream->device = current_device();
  stream->flags = flags;
  stream->priority = priority;
  stream->lane = new_lane();
  Stream* handle = stream.get();
  streams.emplace(handle, std::move(stream));
  return handle;
}

cudaError_t Runtime::push(Stream& stream, Operation operation, Lock& lock, const Clock* before) {
  if (stream.capture) {
    Graph& graph = stream.capture->graph;
    graph.nodes.push_back({std::move(operation), stream.device, stream.branch, stream.tail});
    stream.tail = {graph.nodes.size() - 1};
    return cudaSuccess;
  }
  stream.clock.join(host);
  if (before) stream.clock.join(*before);
  operation.stamp = {stream.lane, ++stream.queued};
  stream.clock.set(operation.stamp);
  operation.clock = stream.clock;
  operation.not_before = host_seconds;
  const HostRange& h = operation.host;
  if (h.address) pinned_memory().add_pending(h.address, h.bytes, h.device_writes, operation.stamp, operation.name);
  stream.queue.push_back(std::move(operation));
  return settings().lazy ? cudaSuccess : run_until(stream, stream.queued, lock);
}

cudaError_t Runtime::run_operation(const Operation& operation, int device, Lock& lock) {
  OperationContext context{lock, device, operation.clock, epochs().begin(operation.stamp, operation.name)};
  return operation.run(context);
}

cudaError_t Runtime::run_until(Stream& stream, std::uint64_t position, Lock& lock) {
  const auto device = static_cast<std::size_t>(stream.device);
  const MemoryWindow window;
  while (stream.executed < position) {
    if (sticky[device] != cudaSuccess) return sticky[device];
    if (stream.running) {  // by another host thread
      const ClosedMemory closed;
      changed.wait(lock, [&] { return !stream.running || stream.executed >= position; });
      continue;
    }
    stream.running = true;
    const Operation operation = std::move(stream.queue.front());
    stream.queue.pop_front();
    stream.seconds = std::max(stream.seconds, operation.not_before);
    const cudaError_t error = run_operation(operation, stream.device, lock);
    stream.seconds += operation.seconds;
    stream.running = false;
    ++stream.executed;
    changed.notify_all();
    if (error != cudaSuccess) {
      std::fprintf(stderr, "simulated device: %s failed on device %d, stream #%d (%s)\n", operation.name, stream.device,
                   stream.number, cudaGetErrorName(error));
      return sticky[device] = error;
    }
  }
  return cudaSuccess;
}

cudaError_t Runtime::drain(int device, Lock& lock) {
  std::vector<Stream*> all;
  for (const auto& [handle, stream] : streams) {
    if (stream->device == device) all.push_back(handle);
  }
  for (Stream* stream : all) {
    if (const cudaError_t error = run_until(*stream, stream->queued, lock); error != cudaSuccess) return error;
    host_waits_for(stream->clock, stream->seconds);
  }
  return cudaSuccess;
}

void Runtime::host_waits_for(const Clock& clock, double seconds) {
  host.join(clock);
  host_seconds = std::max(host_seconds, seconds);
  pinned_memory().host_waited(host);
}

bool Runtime::any_capture() const {
  for (const auto& [handle, stream] : streams) {
    if (stream->capture && stream->capture->mode != cudaStreamCaptureModeRelaxed) return true;
  }
  return false;
}

// ---- calls

Call::Call(const char* function, InCapture in_capture) : lock(runtime().mutex), function_(function) {
  Runtime& all = runtime();
  const std::optional<cudaError_t> injected = injected_result(function);
  left_out_ = injected == cudaSuccess;
  if (injected && !left_out_) {
    error_ = result(*injected);
  } else if (static_cast<std::size_t>(current_device()) < all.sticky.size() &&
             all.sticky[static_cast<std::size_t>(current_device())] != cudaSuccess) {
    error_ = result(all.sticky[static_cast<std::size_t>(current_device())]);
  } else if (in_capture == InCapture::forbidden && all.any_capture()) {
    for (const auto& [handle, stream] : all.streams) {
      if (stream->capture) stream->capture->invalid = true;
    }
    error_ = refuse(cudaErrorStreamCaptureUnsupported, "capture", "not allowed while a stream is captured");
  }
}

cudaError_t Call::result(cudaError_t error) const {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t Call::refuse(cudaError_t error, const char* kind, const std::string& text) const {
  report(kind, std::string(function_) + ": " + text);
  return result(error);
}

// ---- tests and exit

void fail_call(const char* function, int n, cudaError_t error) {
  const Lock lock(runtime().mutex);
  injected().insert({function, {n, error}});
}

void forget_failures() {
  const Lock lock(runtime().mutex);
  injected().clear();
}

Counters counters() {
  const Lock lock(runtime().mutex);
  Counters c = runtime().counted;
  c.kernel_bytes_read += the_grid().bytes_read();
  c.kernel_bytes_written += the_grid().bytes_written();
  return c;
}

void reset_counters() {
  const Lock lock(runtime().mutex);
  Counters& c = runtime().counted;
  c = {};
  c.kernel_bytes_read -= the_grid().bytes_read();  // wraps; counters() adds it again
  c.kernel_bytes_written -= the_grid().bytes_written();
}

void Runtime::forget_all() {
  streams.clear();
  for (Event* e : events) delete e;
  for (Graph* g : graphs) delete g;
  for (GraphExec* g : graph_execs) delete g;
  for (MemoryPool* p : pools) delete p;
  events.clear(), graphs.clear(), graph_execs.clear(), pools.clear(), retired.clear(), peers.clear(), dynamic_shared_limit.clear();
  device_memory().forget_all();
  pinned_memory().forget_all();
  sticky.assign(sticky.size(), cudaSuccess);
  host_seconds = 0;
  for (std::size_t d = 0; d < default_pools.size(); ++d) {
    default_pools[d] = {.device = static_cast<int>(d)};
    current_pools[d] = &default_pools[d];
  }
}

void reset_simulator() {
  reset_counters();
  const Lock lock(runtime().mutex);
  runtime().forget_all();
  injected().clear();
  forget_unchecked_kernels();
  take_findings();
  settings() = settings_from_environment();
  last_error = cudaSuccess;
  device_of_thread = 0;
}

void Runtime::check_exit() {
  write_launches();
  bool broken = false;
  for (const cudaError_t error : sticky) broken = broken || error != cudaSuccess;
  for (const auto& [handle, stream] : streams) {
    if (!settings().leaks) break;
    if (!stream->queue.empty() && !broken) {
      report("unsynchronised", "stream #" + std::to_string(stream->number) + ": " +
                                   std::to_string(stream->queue.size()) + " operations that nothing waited for, first " +
                                   stream->queue.front().name);
    }
    if (!stream->destroyed) report("leak", "stream #" + std::to_string(stream->number));
  }
  if (settings().leaks) {
    for (const auto& [address, a] : device_memory().live()) report("leak", device_memory().describe(address));
    if (!events.empty()) report("leak", std::to_string(events.size()) + " events");
    if (!graphs.empty()) report("leak", std::to_string(graphs.size()) + " graphs");
    if (!graph_execs.empty()) report("leak", std::to_string(graph_execs.size()) + " executable graphs");
    if (pinned_memory().count()) report("leak", std::to_string(pinned_memory().count()) + " page-locked blocks");
  }
  if (has_findings()) {
    std::fflush(nullptr);
    _exit(finding_exit_code);
  }
}

}  // namespace simt

extern "C" {

cudaError_t cudaGetLastError() {
  const cudaError_t last = cudaPeekAtLastError();
  simt::last_error = cudaSuccess;
  return last;
}

cudaError_t cudaPeekAtLastError() {
  const simt::Lock lock(simt::runtime().mutex);
  const auto device = static_cast<std::size_t>(simt::current_device());
  const auto& sticky = simt::runtime().sticky;
  return device < sticky.size() && sticky[device] != cudaSuccess ? sticky[device] : simt::last_error;
}

}  // extern "C"
