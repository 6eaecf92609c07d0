// TreeSum: 2^k tensors that come one after another, summed as a binary tree over neighbours: ((0 + 1) + (2 + 3)). The
// ranks' sums are combined by the same rule (reduction.h), so that the whole sum does not depend on how many ranks share
// the terms.
#pragma once
#include <cstdint>

#include "binade/core/tensor/tensor.h"

namespace binade::dist {

class TreeSum {
 public:
  // Term number `index` of `count`, a power of two, in place. True with the last one: `term` is then the sum. Before, its
  // value has been kept and the memory is free again.
  bool add(const Tensor& term, std::int64_t index, std::int64_t count);

 private:
  Tensors kept_;  // kept_[level]: a sum of 2^level terms that waits for its neighbour
};

}  // namespace binade::dist
