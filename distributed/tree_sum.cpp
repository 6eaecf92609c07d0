#include "binade/distributed/tree_sum.h"

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"

namespace binade::dist {

bool TreeSum::add(const Tensor& term, std::int64_t index, std::int64_t count) {
  std::size_t level = 0;
  for (; (index >> level) & 1; ++level) kernel::add_into(kept_.at(level), term, 1);  // term += kept: the order is the same
  if (index + 1 == count) return true;
  if (kept_.size() <= level) {
    const MemoryTagScope tag(MemoryTag::gradients);
    kept_.resize(level + 1);
    kept_[level] = empty(term.spec(), term.device());
  }
  kernel::copy(term, kept_[level]);
  return false;
}

}  // namespace binade::dist
