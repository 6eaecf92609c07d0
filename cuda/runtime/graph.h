// Captured steps as CUDA graphs: what DeviceBackend offers of them.
#pragma once
#include "binade/core/base/random.h"

namespace binade::cuda {

void begin_capture(int device);
void* end_capture(int device);
void abandon_capture(int device) noexcept;
void replay(void* graph, int device, PhiloxState advance);
void destroy_graph(void* graph, int device) noexcept;

}  // namespace binade::cuda
