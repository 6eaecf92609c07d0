// Loader: a data set in batches, in an order that depends on the seed and the epoch alone.
//   for (const auto& [inputs, targets] : data::Loader(train, {.batch_size = 64, .shuffle = true})) …
// Each loop is one epoch, except that the first loop after load_state() goes on where the saved one was.
#pragma once
#include <concepts>
#include <cstdint>
#include <iterator>
#include <memory>
#include <vector>

#include "binade/core/data/dataset.h"

namespace binade::data {

struct LoaderOptions {
  std::int64_t batch_size = 1;
  bool shuffle = false;
  bool drop_last = false;  // leave out a last batch that is not full
  std::uint64_t seed = 0;
  Device device = {};
  std::int64_t prefetch = 2;  // batches a background thread prepares ahead; 0: none
  // Data parallelism (torch's DistributedSampler): batch_size is the global batch, of which this process gets the rank-th
  // of world_size equal parts. The order of the samples does not depend on world_size.
  std::int64_t rank = 0, world_size = 1;
  // A last batch that is not full is filled up to a multiple of this, with the epoch's first samples. 0: world_size.
  std::int64_t pad_multiple = 0;
};

struct LoaderState {  // what has been handed out so far
  std::int64_t epoch = 0, next_batch = 0;
};

class Loader {
 public:
  template <std::derived_from<Dataset> D>
  Loader(D dataset, LoaderOptions options) : Loader(std::make_shared<const D>(std::move(dataset)), options) {}
  Loader(std::shared_ptr<const Dataset> dataset, LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  class Iterator {
   public:
    using value_type = Batch;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;
    const Batch& operator*() const { return loader_->batch_; }
    const Batch* operator->() const { return &loader_->batch_; }
    Iterator& operator++() {
      loader_->advance();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return !loader_->in_epoch_; }

   private:
    friend class Loader;
    explicit Iterator(Loader* loader) : loader_(loader) {}
    Loader* loader_;
  };
  Iterator begin();  // starts an epoch; ends the one in progress
  std::default_sentinel_t end() const { return {}; }

  std::int64_t batches() const;  // in a whole epoch
  std::int64_t size() const { return dataset_->size(); }
  LoaderState state() const;
  void load_state(LoaderState state);  // the next begin() goes on from there

 private:
  class Prefetcher;
  void advance();
  std::vector<std::int64_t> indices(std::int64_t batch) const;
  Batch make(std::int64_t batch) const;

  std::shared_ptr<const Dataset> dataset_;
  LoaderOptions options_;
  LoaderState state_;
  bool in_epoch_ = false;
  std::vector<std::int64_t> order_;  // of the epoch in progress; empty when not shuffled
  Batch batch_;
  std::unique_ptr<Prefetcher> prefetcher_;
};

}  // namespace binade::data
