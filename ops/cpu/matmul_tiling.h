// How one matrix product is cut into tasks.
#pragma once
#include <cstdint>

namespace binade::cpu {

struct Tiling {
  std::int64_t m, n, k;  // sizes of a tile; k less than the product's: partial sums
  bool packed = true;    // large enough for the library to pack both operands
};

// The tiles of `batch` products [m, k] [k, n] that should take the least time on that many processors, a property of the
// machine: the bits of a product follow from its tiles, and must not depend on how many threads run. strided: the terms of
// a row of the left operand do not lie side by side, as in a weight gradient.
Tiling choose_tiling(std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k, bool strided,
                     std::int64_t processors);

}  // namespace binade::cpu
