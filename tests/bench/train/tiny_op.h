// What one operation costs where there is nothing to compute.
#pragma once
#include <cstdint>

namespace bench {

struct TinyOps {
  double forward_ns, backward_ns, heap_allocations;  // per operation
};
TinyOps tiny_ops(std::int64_t count);  // a chain of adds of 10 elements with gradient

}  // namespace bench
