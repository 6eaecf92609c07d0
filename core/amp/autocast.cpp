#include "binade/core/amp/autocast.h"

#include "binade/core/autograd/autocast_state.h"

namespace binade::amp {

Autocast::Autocast(DType dtype, bool enabled) : was_on_(autocast_state().on), was_(autocast_state().dtype) {
  check(dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f32, "Autocast: expected f16, bf16 or f32, got ",
        dtype);
  AutocastState& state = autocast_state();
  state.on = enabled && dtype != DType::f32;
  state.dtype = dtype;
  ++state.depth;
}

Autocast::~Autocast() {
  AutocastState& state = autocast_state();
  state.on = was_on_;
  state.dtype = was_;
  if (--state.depth == 0) state.cache.clear();
}

bool autocast_enabled() { return autocast_state().on; }
DType autocast_dtype() { return autocast_state().dtype; }

}  // namespace binade::amp
