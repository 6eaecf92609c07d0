// The simulated CUDA runtime, inside: queues, clocks, errors. The functions of cuda_runtime_api.h are in runtime_*.cpp.
#pragma once
#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "checker.h"
#include "counters.h"
#include "memory.h"
#include "order.h"
#include "pinned.h"

namespace simt {

using Lock = std::unique_lock<std::mutex>;

struct OperationContext {  // of an operation while it runs
  Lock& lock;
  int device;
  const Clock& clock;
  std::uint32_t epoch;
  RangeUser user(const char* operation) const { return {operation, &clock, epoch, device}; }
  RangeUser any_device(const char* operation) const { return {operation, &clock, epoch, -1}; }
};
using Run = std::function<cudaError_t(OperationContext&)>;

struct HostRange {  // page-locked memory that an operation reads or writes
  const void* address = nullptr;
  std::size_t bytes = 0;
  bool device_writes = false;
};

struct Operation {
  const char* name = "";
  Run run;
  double seconds = 0;  // that it takes, by the simulated clock (durations.h)
  // Of one that waits for another process: does what can be done now; true once run() will not wait any more.
  std::function<bool(OperationContext&)> attempt = {};
  HostRange host{};
  Stamp stamp{};
  Clock clock{};
  double not_before = 0;  // when the host queued it
};

// ---- graphs

struct GraphNode {
  Operation operation;
  int device = 0;
  std::size_t branch = 0;  // the captured stream it came from; nodes of one branch are in order
  std::vector<std::size_t> after;
};
struct Graph {
  std::vector<GraphNode> nodes;  // each after those it depends on
  std::size_t branches = 0;
};
struct GraphExec {
  Graph graph;
  std::vector<Stamp> last;  // of each branch: its lane, and how many operations it ran
  Clock clock;              // of the previous launch: one launch follows the other
};

struct Stream;
struct Capture {
  Graph graph;
  Stream* origin = nullptr;
  std::vector<Stream*> members;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool invalid = false;
  unsigned long long id = 0;
};

// ---- streams and events

struct Stream {
  int number = 0, device = 0, priority = 0;
  unsigned flags = 0;
  std::uint32_t lane = 0;
  std::uint64_t queued = 0, executed = 0;
  bool running = false, destroyed = false;
  std::deque<Operation> queue;
  Clock clock;         // of the last operation queued
  double seconds = 0;  // simulated time at the end of the last one that ran
  std::shared_ptr<Capture> capture;
  std::size_t branch = 0;
  std::vector<std::size_t> tail;  // capture: nodes the next one comes after
};

struct EventMark {  // one recording
  Stream* stream = nullptr;
  std::uint64_t position = 0;
  Clock clock;
  double seconds = 0;  // when the device came by, simulated
};
struct Event {
  unsigned flags = 0;
  int device = 0;
  std::shared_ptr<EventMark> mark;
  std::shared_ptr<Capture> capture;  // recorded while capturing
  std::vector<std::size_t> nodes;
};

struct MemoryPool {
  int device = 0;
  std::uint64_t release_threshold = 0, used = 0, used_high = 0;
};

// ---- the whole

class Runtime {
 public:
  Runtime();
  std::mutex mutex;
  std::condition_variable changed;
  std::map<Stream*, std::unique_ptr<Stream>> streams;
  std::set<Event*> events;
  std::set<Graph*> graphs;
  std::set<GraphExec*> graph_execs;
  std::set<MemoryPool*> pools;  // made by the user
  std::vector<std::shared_ptr<void>> retired;  // destroyed events and graphs, empty: nothing new gets their handles
  std::vector<MemoryPool> default_pools;
  std::vector<MemoryPool*> current_pools;
  std::map<const void*, int> dynamic_shared_limit;  // of kernels that raised it
  struct Largest {  // launch of a kernel
    unsigned threads = 0;
    std::size_t dynamic_shared = 0;
  };
  std::map<const void*, Largest> largest;
  std::set<std::pair<int, int>> peers;
  std::vector<cudaError_t> sticky;  // per device
  Clock host;                       // what the host has waited for
  double host_seconds = 0;          // and until when, simulated
  Counters counted;
  int stream_numbers = 0;
  unsigned long long capture_ids = 0;

  std::uint32_t new_lane() { return next_lane_++; }
  Stream* find(cudaStream_t stream, const char* function);  // null after reporting
  Stream* add_stream(unsigned flags, int priority);

  // Appends to the stream's queue, or to the graph it is captured into. `before`: what it additionally comes after.
  cudaError_t push(Stream& stream, Operation operation, Lock& lock, const Clock* before = nullptr);
  cudaError_t run_until(Stream& stream, std::uint64_t position, Lock& lock);
  cudaError_t drain(int device, Lock& lock);
  void host_waits_for(const Clock& clock, double seconds);
  cudaError_t run_operation(const Operation& operation, int device, Lock& lock);
  bool any_capture() const;
  template <class T>
  void retire(T* object) {
    *object = {};
    retired.push_back(std::shared_ptr<T>(object));
  }
  void check_exit();
  void write_launches() const;  // BINADE_SIM_LAUNCHES
  void forget_all();

 private:
  std::uint32_t next_lane_ = 1;
};

Runtime& runtime();
inline void count_library_bytes(std::size_t bytes, Access access) {  // while an operation runs
  Counters& c = runtime().counted;
  (access == Access::read ? c.library_bytes_read : c.library_bytes_written) += bytes;
}
// What a call of this function is to return now instead of doing its work; the lock is held.
std::optional<cudaError_t> injected_result(const char* function);
int current_device();
void set_current_device(int device);

// Opens device and page-locked memory for the simulator itself.
struct MemoryWindow {
  MemoryWindow();
  ~MemoryWindow();
};
struct ClosedMemory {  // the reverse, while an operation waits or calls the user's code
  ClosedMemory();
  ~ClosedMemory();
};

// One call of an API function: holds the lock, and says whether the call may proceed at all.
class Call {
 public:
  enum class InCapture { allowed, forbidden };
  explicit Call(const char* function, InCapture in_capture = InCapture::allowed);
  bool failed() const { return error_ != cudaSuccess; }
  cudaError_t error() const { return error_; }
  bool left_out() const { return left_out_; }  // the call is to do nothing and say it succeeded: a planted mistake
  cudaError_t result(cudaError_t error) const;  // remembered for cudaGetLastError
  cudaError_t refuse(cudaError_t error, const char* kind, const std::string& text) const;  // and a finding
  Stream* stream(cudaStream_t handle) const { return runtime().find(handle, function_); }
  Lock lock;

 private:
  const char* function_;
  cudaError_t error_ = cudaSuccess;
  bool left_out_ = false;
};

void install_fault_handler();

}  // namespace simt
