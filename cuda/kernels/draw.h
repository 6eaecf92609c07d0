// A random draw as kernels get it. In a captured step its name is that of the recording; what the random stream has
// advanced since lies in device memory (core/backend/graphed_step.h).
#pragma once
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/core/base/random.h"
#include "binade/cuda/runtime/context.h"

namespace binade::cuda {

struct Draw {
  PhiloxState recorded;
  const PhiloxState* advance = nullptr;
  __device__ __forceinline__ PhiloxState state() const {
    return advance ? PhiloxState{advance->seed, recorded.offset + advance->offset} : recorded;
  }
};
inline Draw draw_of(PhiloxState state, Device device) { return {state, draw_advance_of(device)}; }

}  // namespace binade::cuda
