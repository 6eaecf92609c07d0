// A training run in one process or in many: each with its part of every batch, rank 0 alone prints and writes.
#pragma once
#include <binade/binade.h>

#include <functional>
#include <memory>
#include <string>

#include "common/program.h"

namespace example {

// The group of processes this program was started in. Silences the standard output of all but the first. The global
// batch must be a multiple of their number. Each process trains on group->device(): of several, the GPU of its rank.
std::shared_ptr<binade::dist::ProcessGroup> join_group(std::int64_t batch, const std::string& device,
                                                       std::int64_t timeout_s = 600);
std::shared_ptr<binade::dist::ProcessGroup> join_group(const RunOptions& options);

// The options of a loader that hands out this rank's part of global batches.
binade::data::LoaderOptions sharded(binade::data::LoaderOptions options, const binade::dist::ProcessGroup& group,
                                    const RunOptions& run);

class Parallel {
 public:
  Parallel(const binade::nn::Module& model, std::shared_ptr<binade::dist::ProcessGroup> group, const RunOptions& options);
  bool first() const { return group_->rank() == 0; }  // prints, evaluates, and writes
  // For all of the model's parameters. With --zero1 each process keeps, and updates, its part only.
  std::unique_ptr<binade::optim::Optimizer> adamw(const binade::nn::Module& model, const binade::optim::AdamWOptions& options) const;
  // Forward and backward over this rank's batch: afterwards gradients are the mean over the global batch. Returns the
  // mean loss over it.
  double forward_backward(std::int64_t step, const binade::data::Batch& batch, binade::amp::GradScaler& scaler,
                          const std::function<Tensor(const binade::data::Batch&)>& loss_of) const;
  // "3.1 MiB of optimizer state in each process, 6.2 MiB in all 2". Waits for the others.
  std::string optimizer_memory() const;

 private:
  std::shared_ptr<binade::dist::ProcessGroup> group_;
  binade::dist::DataParallel parallel_;
  std::uint64_t seed_;
  bool zero1_;
  bool own_streams_;  // random streams by step and part of the batch, instead of one after another
};

}  // namespace example
