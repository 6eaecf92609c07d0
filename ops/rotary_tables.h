// Cosines and sines of rotary position embedding's angles, kept from call to call.
#pragma once
#include <utility>

#include "binade/core/tensor/tensor.h"

namespace binade {

struct RotaryTable {
  std::int64_t start = 0, time = 0, pairs = 0;  // positions [start, start + time); pairs of channels
  double base = 1e4;
  DType dtype = DType::f32;
  Device device;
  friend bool operator==(const RotaryTable&, const RotaryTable&) = default;
};

// cos and sin of position base^(-pair / pairs), [time, pairs] each, computed on the host in double where no recent call
// asked for the same. A step that is recorded finds those of an earlier, eager one.
std::pair<Tensor, Tensor> rotary_tables(const RotaryTable& wanted);

}  // namespace binade
