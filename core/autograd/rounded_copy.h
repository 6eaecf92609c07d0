// The 16-bit rounding of an f32 leaf, kept beside it from step to step: what operations under autocast read. A copy
// holds as long as its leaf has the version it was made from; the optimizers' kernels write it anew in the pass that
// updates the parameter. Any other change of the leaf makes it useless, and the next operation casts again.
#pragma once
#include <cstdint>

#include "binade/core/tensor/tensor_impl.h"

namespace binade {

struct RoundedCopy {
  Tensor values;
  std::uint64_t version = 0, replays = 0;  // of the leaf and in the process, when it was made
  bool read = true;                        // since the last update
  std::uint64_t recording = 0;             // the last one that reads it in its replays
};

// The f32 leaf x in f16 or bf16. Undefined where x may change without anybody counting it: its address was given out by
// data(), or another thread records a step; and in a step that is recorded, where there is no copy yet.
Tensor rounded_copy(const Tensor& x, DType dtype);

// Before a kernel updates x: where it must write x's rounding too, or undefined. A copy that nobody has read since the
// last update, or that a graph still holds for backward, is given up.
Tensor rounded_copy_to_update(const Tensor& x);
// After the update, and after the version of x has counted it.
void rounded_copy_updated(const Tensor& x);

}  // namespace binade
