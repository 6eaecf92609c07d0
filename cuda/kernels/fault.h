// Notes a bad index for the next synchronisation to throw; the first one stays.
#pragma once
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/cuda/runtime/index_fault.h"

namespace binade::cuda {

__device__ inline void note_fault(IndexFault* fault, IndexUser user, std::int64_t position, std::int64_t value,
                                  std::int64_t limit) {
  if (atomicExch(&fault->raised, 1) != 0) return;
  fault->user = user;
  fault->position = position;
  fault->value = value;
  fault->limit = limit;
}

}  // namespace binade::cuda
