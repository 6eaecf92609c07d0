#include "common/parallel.h"

#include <fmt/format.h>

#include <cstdio>

namespace example {

using namespace binade;

std::shared_ptr<dist::ProcessGroup> join_group(std::int64_t batch, const std::string& device, std::int64_t timeout_s) {
  auto group = dist::init({.timeout = std::chrono::seconds(timeout_s), .device = device_named(device)});
  const std::int64_t ranks = group->size();
  if (group->rank() > 0 && !std::freopen("/dev/null", "w", stdout)) fail({"cannot open /dev/null"});
  require(batch % ranks == 0, "--batch: must be a multiple of the ", ranks, " processes, got ", batch);
  print_device(group->device(), device);
  if (ranks > 1) fmt::print("{} processes ({}), each with {} samples of a batch\n", ranks, group->backend(), batch / ranks);
  return group;
}

std::shared_ptr<dist::ProcessGroup> join_group(const RunOptions& o) {
  auto group = join_group(o.batch, o.device, o.timeout);
  if (!o.deterministic_reduction) return group;
  require((o.micro_batches & (o.micro_batches - 1)) == 0 && o.micro_batches % group->size() == 0,
          "--micro-batches: must be a power of two and a multiple of the ", group->size(), " processes, got ", o.micro_batches);
  require(o.batch % o.micro_batches == 0, "--batch: must be a multiple of the ", o.micro_batches,
          " micro-batches (--micro-batches), got ", o.batch);
  return group;
}

data::LoaderOptions sharded(data::LoaderOptions options, const dist::ProcessGroup& group, const RunOptions& o) {
  options.rank = group.rank();
  options.world_size = group.size();
  if (o.deterministic_reduction) options.pad_multiple = o.micro_batches;
  return options;
}

Parallel::Parallel(const nn::Module& model, std::shared_ptr<dist::ProcessGroup> group, const RunOptions& o)
    : group_(group),
      parallel_(model, {.group = group, .micro_batches = o.deterministic_reduction ? o.micro_batches : 0}),
      seed_(o.seed),
      zero1_(o.zero1),
      own_streams_(group->size() > 1 || o.deterministic_reduction) {}

std::unique_ptr<optim::Optimizer> Parallel::adamw(const nn::Module& model, const optim::AdamWOptions& options) const {
  if (zero1_) return dist::shard<optim::AdamW>(parallel_, options);
  return std::make_unique<optim::AdamW>(model.parameters(), options);
}

std::string Parallel::optimizer_memory() const {
  const auto own = static_cast<std::int64_t>(memory_stats(group_->device()).current[static_cast<std::size_t>(MemoryTag::optimizer)]);
  const Tensor most = from_vector(std::vector<std::int64_t>{own}, {1}), all = most.clone();
  group_->all_reduce(most, dist::ReduceOp::max).wait();
  group_->all_reduce(all).wait();
  const auto text = [](const Tensor& bytes) { return bytes_text(static_cast<std::size_t>(bytes.item<std::int64_t>())); };
  return fmt::format("{} of optimizer state in each process, {} in all {}", text(most), text(all), group_->size());
}

double Parallel::forward_backward(std::int64_t step, const data::Batch& batch, amp::GradScaler& scaler,
                                  const std::function<Tensor(const data::Batch&)>& loss_of) const {
  std::vector<double> losses;
  std::int64_t part = parallel_.first_part();
  for (const data::Batch& samples : parallel_.split(batch)) {
    // Dropout masks that depend on the step and the samples' place in the batch: resuming needs no state.
    if (own_streams_) set_random_state({seed_ ^ 0x70617274ULL, static_cast<std::uint64_t>(step << 32 | part++ << 16)});
    const Tensor loss = loss_of(samples);
    scaler.scale(loss).backward();
    losses.push_back(loss.item<double>());
  }
  // What a checkpoint says must not depend on which part came last.
  if (own_streams_) set_random_state({seed_, static_cast<std::uint64_t>(step + 1) << 32});
  return parallel_.mean(losses);
}

}  // namespace example
