// Autocast's state of one thread, read by the door and set by amp::Autocast.
#pragma once
#include <memory>
#include <unordered_map>

#include "binade/core/tensor/tensor_impl.h"

namespace binade {

struct AutocastState {
  bool on = false;
  DType dtype = DType::f16;
  int depth = 0;  // nested scopes; the cache lives as long as the outermost

  struct CachedCast {
    std::shared_ptr<TensorImpl> source;  // kept alive: its address is the key
    std::uint64_t version = 0;
    Tensor cast;
  };
  std::unordered_map<const TensorImpl*, CachedCast> cache;
};

AutocastState& autocast_state();

}  // namespace binade
