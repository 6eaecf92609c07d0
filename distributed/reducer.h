// Reducer: gradients in buckets, communicated while backward still runs. What DataParallel and ShardedOptimizer share.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binade/core/tensor/tensor.h"
#include "binade/distributed/process_group.h"
#include "binade/distributed/tree_sum.h"

namespace binade::dist {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

struct DataParallelOptions {
  std::shared_ptr<ProcessGroup> group = {};  // required
  std::int64_t first_bucket_bytes = std::int64_t{1} << 20;  // small: communication starts early
  std::int64_t bucket_bytes = std::int64_t{25} << 20;
  DType communication = DType::f32;  // or bf16: f32 gradients travel as bf16, their sums are still taken in f32
  bool find_unused_parameters = false;  // otherwise a parameter without a gradient is an error
  bool broadcast_buffers = true;  // after each step's backward: rank 0's running statistics
  // Above 0: the gradient is the mean over this many equal parts of the global batch, a power of two and a multiple of
  // the number of ranks, each with a backward() of its own (DataParallel::split), summed in one fixed binary tree. The
  // result is the same, bit for bit, for any number of ranks that divides it.
  std::int64_t micro_batches = 0;
};

class Reducer : public std::enable_shared_from_this<Reducer> {
 public:
  Reducer(NamedTensors parameters, NamedTensors buffers, DataParallelOptions options);
  void watch();  // puts hooks on the parameters; they end with the Reducer

  const DataParallelOptions& options() const { return options_; }
  ProcessGroup& group() const { return *options_.group; }
  // Backward passes of this rank that make one step.
  std::int64_t passes() const { return deterministic() ? options_.micro_batches / group().size() : 1; }
  bool deterministic() const { return options_.micro_batches > 0; }
  void synchronize(bool on) { synchronizing_ = on; }
  bool synchronizing() const { return synchronizing_; }

  struct Bucket {
    Tensor gradients;  // [elements], the members' gradients one after another, padded to a multiple of the group's size
    std::vector<std::size_t> members;  // parameters, in this order
    std::size_t waiting = 0;           // members without a gradient in this pass
    Tensor wire;                       // what is communicated: gradients, or their copy in bf16
    Work work;
  };
  struct Parameter {
    std::string name;
    Tensor tensor;
    std::size_t bucket = 0;
    std::int64_t offset = 0;  // in the bucket
    bool ready = false;       // its gradient is final in this pass
    TreeSum sum = {};
  };
  const std::vector<Bucket>& buckets() const { return buckets_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  // From now on a rank gets only its part of each bucket's gradients. The buckets keep their layout.
  void shard();
  void on_reduced(std::function<void()> function) { on_reduced_ = std::move(function); }  // after each step's reduction
  Tensor part(const Tensor& flat) const;  // this rank's part of a bucket's memory

 private:
  void on_gradient(std::size_t index);
  void begin_pass();
  void build(const std::vector<std::size_t>& order);
  void close(Bucket bucket);
  void attach(std::size_t index);
  void launch_ready();
  void finish_pass();
  void finish_buckets();
  void finish_unused(const std::vector<std::size_t>& unused);
  void rebuild_in_order_of_use();
  std::string names_of(const std::vector<std::size_t>& indices) const;

  DataParallelOptions options_;
  std::vector<Parameter> parameters_;  // those that require gradients
  NamedTensors buffers_;
  std::vector<Bucket> buckets_;
  std::vector<std::size_t> order_;  // in which gradients became final in this pass
  std::size_t launched_ = 0;        // buckets, in order: all ranks must agree on it
  std::uint64_t pass_ = 0;
  std::int64_t micro_batch_ = 0;  // passes done of this step
  std::function<void()> on_reduced_;
  bool synchronizing_ = true, sharded_ = false, rebuilt_ = false;
};

}  // namespace binade::dist
