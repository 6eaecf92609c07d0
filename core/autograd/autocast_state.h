// Autocast's state of one thread, read by the door and set by amp::Autocast.
#pragma once
#include <memory>
#include <string_view>
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

// What an operation inherits beside Op when autocast must not run it, in any dtype. forward() calls check_allowed().
struct BannedUnderAutocast {
  virtual std::string_view advice() const = 0;  // what to do instead
  void check_allowed(std::string_view op) const {
    check(!autocast_state().on, op, ": not under autocast; ", advice(), "; autocast is on with ",
          autocast_state().dtype);
  }

 protected:
  ~BannedUnderAutocast() = default;
};

}  // namespace binade
