#include "tiny_op.h"

#include <binade/binade.h>

#include "clock.h"
#include "heap.h"

namespace bench {

using namespace binade;

TinyOps tiny_ops(std::int64_t count) {
  Tensor x = ones({10});
  x.requires_grad_();
  const Tensor gradient = ones({10});
  const std::uint64_t before = heap_allocations();
  const double start = now();
  Tensor y = x + x;
  for (std::int64_t i = 1; i < count; ++i) y = y + x;
  const double middle = now();
  y.backward(gradient);
  const double end = now();
  const auto n = static_cast<double>(count);
  return {1e9 * (middle - start) / n, 1e9 * (end - middle) / n, static_cast<double>(heap_allocations() - before) / n};
}

}  // namespace bench
