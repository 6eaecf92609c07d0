#include "binade/core/data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "binade/core/tensor/grad_mode.h"
#include "binade/core/backend/memory.h"

namespace binade::data {

// A thread that makes batches first .. last - 1 ahead of their use, at most `depth` of them.
class Loader::Prefetcher {
 public:
  Prefetcher(std::function<Batch(std::int64_t)> make, std::int64_t first, std::int64_t last, std::int64_t depth)
      : depth_(static_cast<std::size_t>(depth)), thread_([this, make = std::move(make), first, last] {
          work(make, first, last);
        }) {}
  ~Prefetcher() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  Batch next() {  // the caller knows how many there are
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !ready_.empty() || error_; });
    if (ready_.empty()) std::rethrow_exception(error_);
    Batch batch = std::move(ready_.front());
    ready_.pop_front();
    lock.unlock();
    changed_.notify_all();
    return batch;
  }

 private:
  void work(const std::function<Batch(std::int64_t)>& make, std::int64_t first, std::int64_t last) {
    try {
      for (std::int64_t i = first; i < last; ++i) {
        {
          std::unique_lock lock(mutex_);
          changed_.wait(lock, [this] { return ready_.size() < depth_ || stop_; });
          if (stop_) return;
        }
        Batch batch = make(i);
        {
          const std::lock_guard lock(mutex_);
          ready_.push_back(std::move(batch));
        }
        changed_.notify_all();
      }
    } catch (...) {
      {
        const std::lock_guard lock(mutex_);
        error_ = std::current_exception();
      }
      changed_.notify_all();
    }
  }

  std::size_t depth_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;
  std::exception_ptr error_;
  bool stop_ = false;
  std::thread thread_;  // last: it uses the members above
};

Loader::Loader(std::shared_ptr<const Dataset> dataset, LoaderOptions options)
    : dataset_(std::move(dataset)), options_(options) {
  check(dataset_ != nullptr, "Loader: the data set is null");
  check(options_.batch_size > 0, "Loader: batch_size must be positive, got ", options_.batch_size);
  check(options_.prefetch >= 0, "Loader: prefetch must not be negative, got ", options_.prefetch);
  check(options_.batch_size <= dataset_->size(), "Loader: batch_size is ", options_.batch_size, ", the data set has ",
        dataset_->size(), " samples");
  const LoaderOptions& o = options_;
  check(o.world_size > 0 && o.rank >= 0 && o.rank < o.world_size, "Loader: rank must be in [0, world_size), got ", o.rank,
        " of ", o.world_size);
  if (options_.pad_multiple == 0) options_.pad_multiple = o.world_size;
  check(o.pad_multiple > 0 && o.pad_multiple % o.world_size == 0 && o.batch_size % o.pad_multiple == 0,
        "Loader: the global batch_size must be a multiple of pad_multiple, and that of world_size, got ", o.batch_size,
        ", ", o.pad_multiple, " and ", o.world_size);
}

Loader::~Loader() = default;

std::int64_t Loader::batches() const {
  const std::int64_t n = dataset_->size(), b = options_.batch_size;
  return options_.drop_last ? n / b : (n + b - 1) / b;
}

LoaderState Loader::state() const {
  if (state_.next_batch >= batches()) return {state_.epoch + 1, 0};
  return state_;
}

void Loader::load_state(LoaderState state) {
  check(state.epoch >= 0 && state.next_batch >= 0 && state.next_batch < batches(),
        "Loader: load_state: expected epoch >= 0 and next_batch below ", batches(), ", got ", state.epoch, " and ",
        state.next_batch);
  prefetcher_.reset();
  batch_ = {};
  in_epoch_ = false;
  state_ = state;
}

std::vector<std::int64_t> Loader::indices(std::int64_t batch) const {
  const std::int64_t n = dataset_->size(), first = batch * options_.batch_size, pad = options_.pad_multiple;
  const std::int64_t count = (std::min(options_.batch_size, n - first) + pad - 1) / pad * pad;  // of all ranks
  const std::int64_t share = count / options_.world_size, begin = first + options_.rank * share;
  std::vector<std::int64_t> out(static_cast<std::size_t>(share));
  for (std::int64_t i = 0; i < share; ++i) {
    const std::int64_t place = (begin + i) % n;
    out[static_cast<std::size_t>(i)] = options_.shuffle ? order_[static_cast<std::size_t>(place)] : place;
  }
  return out;
}

Batch Loader::make(std::int64_t batch) const {
  const NoGrad guard;
  const MemoryTagScope tag(MemoryTag::data);
  return dataset_->get(indices(batch));
}

Loader::Iterator Loader::begin() {
  if (in_epoch_) load_state({state_.epoch + 1, 0});  // the loop was left early
  // A constant keeps the order apart from the library's stream of the same seed.
  constexpr std::uint64_t order_stream = 0x6f72646572ULL;
  if (options_.shuffle) {
    order_ = permutation(dataset_->size(),
                         {options_.seed ^ order_stream, static_cast<std::uint64_t>(state_.epoch)});
  }
  if (options_.prefetch > 0) {
    prefetcher_ = std::make_unique<Prefetcher>([this](std::int64_t i) { return make(i); }, state_.next_batch,
                                               batches(), options_.prefetch);
  }
  in_epoch_ = true;
  advance();
  return Iterator(this);
}

void Loader::advance() {
  if (state_.next_batch == batches()) {
    load_state({state_.epoch + 1, 0});
    return;
  }
  Batch batch = prefetcher_ ? prefetcher_->next() : make(state_.next_batch);
  if (!(options_.device == Device{})) {  // on the caller's thread: its stream orders the copies
    const NoGrad guard;
    const MemoryTagScope tag(MemoryTag::data);
    batch = {batch.inputs.to(options_.device), batch.targets.to(options_.device)};
  }
  batch_ = std::move(batch);
  ++state_.next_batch;
}

}  // namespace binade::data
