// ProcessGroup: the processes that train one model together, and what they exchange. Every collective is asynchronous:
//   dist::Work work = group->all_reduce(gradient, dist::ReduceOp::avg);
//   ...
//   work.wait();
// All processes call the same collectives, with the same sizes, in the same order. Collectives run one after another in
// that order, while the caller goes on computing. Tensors are contiguous, hold their results after wait(), and must not
// be touched before it.
//
// On a CUDA device (NCCL) wait() of a CUDA tensor makes the device's further work come after the collective; the host
// goes on at once. What went wrong is thrown by a later call, or by the next synchronisation (item(), to_vector(), ...).
// Tensors on the CPU are taken too, by way of the device: their wait(), and that of barrier(), make the host wait.
//
// Sums are taken in FP32 (FP64 for f64, 64-bit integers for integers) and rounded once into the result's dtype, in one
// binary tree over the ranks: ((0 + 1) + (2 + 3)) + ... The same inputs give the same bits, on every rank.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "binade/core/backend/communicator.h"
#include "binade/core/tensor/tensor.h"

namespace binade::dist {

std::string_view name(ReduceOp op);  // sum, avg, max, min

enum class CollectiveKind : std::uint8_t { broadcast, all_reduce, reduce_scatter, all_gather, all_to_all, barrier };
std::string_view name(CollectiveKind kind);

// A collective under way. Copies are handles on the same one.
class Work {
 public:
  struct State;
  Work() = default;  // nothing to wait for
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}
  // Returns once the result is there, or will be for everything that uses it. Throws Error when the collective failed: it
  // names the collective, its sequence number and, where that can be known, the ranks that did not arrive. Everything
  // after it fails in the same way: the program should end.
  void wait() const;
  bool done() const;  // whether the result is there, or wait() would throw

 private:
  std::shared_ptr<State> state_;
};

struct Collective {  // one call, its arguments checked
  CollectiveKind kind = CollectiveKind::barrier;
  ReduceOp op = ReduceOp::sum;
  int root = 0;
  std::uint64_t sequence = 0;  // counts the group's collectives from 1
  Spec spec = {};              // of `in`
  Tensor in = {}, out = {};    // broadcast, all_reduce: the same tensor; barrier: undefined
  std::string text() const;    // "all_reduce #12 (sum of f32 [25000])"
};

struct TraceEvent {
  enum class When { started, finished } when;
  const Collective& collective;
};
struct GroupOptions {
  std::chrono::milliseconds timeout = std::chrono::minutes(10);  // of every collective, from its start on this rank
  std::function<void(const TraceEvent&)> trace = {};  // called on any thread
  std::optional<Device> device = {};  // of the model: CPU for MPI, CUDA for NCCL; not set: default_device()
  // NCCL's own sums, for sum and avg of f64, f32, f16, bf16 and integers: they use networks that add (NVLink SHARP), but
  // their order is NCCL's, and 16-bit types may be rounded on the way. Not with DataParallelOptions::micro_batches.
  bool library_sums = false;
};

class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  Device device() const { return device_; }  // where this rank's model and batches belong
  virtual std::string_view backend() const = 0;  // "single", "mpi", "nccl"
  virtual bool sums_in_fixed_tree() const { return true; }

  [[nodiscard]] Work broadcast(const Tensor& x, int root = 0);  // x of every rank becomes root's
  [[nodiscard]] Work all_reduce(const Tensor& x, ReduceOp op = ReduceOp::sum);  // in place
  // `in` has size() times as many elements as `out`: rank r gets part r of the reduction. `out` may be that part of `in`.
  [[nodiscard]] Work reduce_scatter(const Tensor& out, const Tensor& in, ReduceOp op = ReduceOp::sum);
  // `out` gets rank r's `in` as its part r. `in` may be this rank's part of `out`.
  [[nodiscard]] Work all_gather(const Tensor& out, const Tensor& in);
  // Part r of `in` goes to rank r; part r of `out` comes from it.
  [[nodiscard]] Work all_to_all(const Tensor& out, const Tensor& in);
  [[nodiscard]] Work barrier();

 protected:
  ProcessGroup(int rank, int size, Device device) : rank_(rank), size_(size), device_(device) {}
  virtual Work start(Collective collective) = 0;

 private:
  Work launch(CollectiveKind kind, ReduceOp op, int root, const Tensor& out, const Tensor& in);
  int rank_, size_;
  Device device_;
  std::uint64_t sequence_ = 0;
};

// A group of one process: collectives copy `in` to `out` where they differ.
std::shared_ptr<ProcessGroup> single_group(GroupOptions options = {});

// Waits for it. Convenience for a single number, such as a loss: the mean over ranks.
double mean_over_ranks(ProcessGroup& group, double value);

// For amp::GradScalerOptions::agree: one rank's inf or NaN makes every rank skip the step.
std::function<void(const Tensor& found_inf)> agree_on_overflow(std::shared_ptr<ProcessGroup> group);

}  // namespace binade::dist
