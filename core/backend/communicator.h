// DeviceCommunicator: what a device backend offers processes that train together: the memories of their devices
// exchanged by the devices themselves. distributed/group_nccl.cpp makes a ProcessGroup of it.
#pragma once
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "binade/core/tensor/view.h"

namespace binade::dist {
enum class ReduceOp { sum, avg, max, min };  // max and min: a NaN of any rank stays NaN
}  // namespace binade::dist

namespace binade {

// One collective, given to the device. Usable from any thread, also after its communicator has gone.
class DeviceWork {
 public:
  virtual ~DeviceWork() = default;
  virtual bool done() const = 0;  // never waits
  // What the device's compute stream is given from now on comes after this work. The host does not wait.
  virtual void order_compute_stream() const = 0;
};

struct CommunicatorOptions {
  int device = 0, rank = 0, size = 1;
  std::chrono::milliseconds timeout = std::chrono::minutes(10);  // of calls that wait for the other ranks to connect
  std::function<void(std::span<std::byte> id)> share_id = {};    // makes rank 0's bytes everybody's; if empty,
  std::string address = {};                                      // ranks meet at "host:port" of rank 0
};

// All ranks call the same collectives with the same sizes in the same order, from one thread. Views are contiguous and
// on the communicator's device. A call returns once the device has the work, which it does on a stream of its own after
// everything that its compute stream holds by then; only the first calls wait for the other ranks to connect.
class DeviceCommunicator {
 public:
  // Whose sums: this project's, taken in FP32 in the tree of process_group.h, or the library's own, faster where the
  // network can add, in an order (and for 16-bit types a precision) that is the library's.
  enum class Sums { tree, library };

  virtual ~DeviceCommunicator() = default;
  virtual std::unique_ptr<DeviceWork> broadcast(const TensorView& x, int root) = 0;
  virtual std::unique_ptr<DeviceWork> all_reduce(const TensorView& x, dist::ReduceOp op, Sums sums) = 0;
  virtual std::unique_ptr<DeviceWork> reduce_scatter(const TensorView& out, const TensorView& in, dist::ReduceOp op,
                                                     Sums sums) = 0;
  virtual std::unique_ptr<DeviceWork> all_gather(const TensorView& out, const TensorView& in) = 0;
  virtual std::unique_ptr<DeviceWork> all_to_all(const TensorView& out, const TensorView& in) = 0;
  virtual std::unique_ptr<DeviceWork> barrier() = 0;

  // From any thread:
  virtual std::string problem() = 0;  // what the library has found wrong meanwhile; empty: nothing
  // Ends what is under way, without results. The device's next synchronisation throws `why`, unless that is empty, so
  // that nobody takes what lies in memory for one.
  virtual void abort(const std::string& why) noexcept = 0;
};

}  // namespace binade
