// DataParallel: the same model on every rank, each with its part of the batch; after backward() every rank has the mean
// gradient. torch.nn.parallel.DistributedDataParallel's semantics.
//
//   const auto group = dist::init();
//   dist::DataParallel parallel(model, {.group = group});
//   for (const auto& [x, y] : data::Loader(set, {.batch_size = 64, .rank = group->rank(), .world_size = group->size()})) {
//     loss_of(model, x, y).backward();   // returns with averaged gradients
//     optimizer.step();
//     optimizer.zero_grad();
//   }
//
// Gradients lie in buckets (each parameter's .grad is a view), whose all_reduce starts as soon as the last of a bucket's
// gradients is there, while backward goes on. Every rank must run the same number of backward passes.
#pragma once
#include <concepts>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "binade/core/data/dataset.h"
#include "binade/distributed/reducer.h"

namespace binade::dist {

template <class M>
concept HasParameters = requires(const M& model) {
  { model.named_parameters() } -> std::convertible_to<NamedTensors>;
  { model.named_buffers() } -> std::convertible_to<NamedTensors>;
};

class DataParallel {
 public:
  // Checks that all ranks have the same names, shapes and dtypes (the error names the parameter and the ranks), and gives
  // every rank the values of rank 0. The model may still be moved or converted until the first backward.
  template <HasParameters Model>
  DataParallel(const Model& model, DataParallelOptions options)
      : DataParallel(model.named_parameters(), model.named_buffers(), std::move(options)) {}
  DataParallel(const NamedTensors& parameters, const NamedTensors& buffers, DataParallelOptions options);

  ProcessGroup& group() const { return reducer_->group(); }

  // Backward passes until the end of the scope add up on this rank alone; the first one after it communicates the sum.
  class NoSync {
   public:
    explicit NoSync(std::shared_ptr<Reducer> reducer);
    ~NoSync();
    NoSync(const NoSync&) = delete;
    NoSync& operator=(const NoSync&) = delete;

   private:
    std::shared_ptr<Reducer> reducer_;
    bool before_;
  };
  [[nodiscard]] NoSync no_sync() const { return NoSync(reducer_); }

  // This rank's batch as the parts that need a backward pass each: one, or with micro_batches several of equal size.
  std::vector<data::Batch> split(const data::Batch& batch) const;
  // The index of this rank's first part among all ranks' parts: for random streams that do not depend on the ranks.
  std::int64_t first_part() const { return reducer_->passes() * group().rank(); }
  // The mean over all ranks of a number known for each part, such as the loss: of `parts` as of split(). The same bits as
  // for any other number of ranks when micro_batches is set. Waits.
  double mean(std::span<const double> parts) const;

  struct BucketInfo {
    std::vector<std::string> names;
    std::int64_t bytes;
  };
  std::vector<BucketInfo> buckets() const;  // in the order of communication; empty before the first backward
  const std::shared_ptr<Reducer>& reducer() const { return reducer_; }  // for ShardedOptimizer

 private:
  std::shared_ptr<Reducer> reducer_;
};

}  // namespace binade::dist
