// Batches without end: epoch after epoch of a loader, for training by steps.
#pragma once
#include <binade/binade.h>

#include <optional>

namespace example {

class Batches {
 public:
  template <class D>
  Batches(D dataset, binade::data::LoaderOptions options) : loader_(std::move(dataset), options) {}

  const binade::data::Batch& next() {
    if (at_) ++*at_;
    if (!at_ || *at_ == loader_.end()) at_ = loader_.begin();
    return **at_;
  }
  binade::data::Loader& loader() { return loader_; }

 private:
  binade::data::Loader loader_;
  std::optional<binade::data::Loader::Iterator> at_;
};

}  // namespace example
