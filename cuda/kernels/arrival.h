// Blocks that finish a common result without a second launch: each writes its part, and the last to arrive combines
// them, in the order of the parts, so that the bits do not depend on which block that is.
#pragma once
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/cuda/runtime/context.h"

namespace binade::cuda {

// For all threads of the block, once its part is written: whether the others of its group, `count` in all, have arrived
// before. Each group counts in a word of its own (arrivals_of()), which is 0 again afterwards. `last` is shared memory.
__device__ __forceinline__ bool last_to_arrive(unsigned* arrivals, unsigned count, bool* last) {
  if (count == 1) return true;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // the block's part before its arrival
    *last = atomicInc(arrivals, count - 1) == count - 1;
    __threadfence();  // the others' arrivals before their parts
  }
  __syncthreads();
  return *last;
}

}  // namespace binade::cuda
