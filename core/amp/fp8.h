// Recipes of FP8 training: how the scales of FP8 operands are found. Operands of forward are E4M3 (largest 448), the
// gradient of the result is E5M2 (largest 57344); products are summed in FP32.
#pragma once
#include <cstdint>
#include <string_view>

#include "binade/core/tensor/tensor.h"

namespace binade::amp {

enum class Fp8Scaling {
  delayed,  // one scale per tensor from the amaxes of earlier steps, as Transformer Engine's DelayedScaling
  current,  // one scale per tensor from its own amax: one more pass over the values
  block,    // one power of two per 32 values along the summed dimension: OCP Microscaling (MX) v1.0
};
std::string_view name(Fp8Scaling scaling);  // "delayed"
enum class Fp8Amax { max, most_recent };  // of the history

struct Fp8Recipe {
  Fp8Scaling scaling = Fp8Scaling::delayed;
  int margin = 0;  // delayed, current: binades left free above amax; scale = (largest / amax) / 2^margin
  // Delayed scaling alone:
  std::int64_t amax_history = 16;  // amaxes kept
  Fp8Amax amax_algorithm = Fp8Amax::max;
  std::int64_t interval = 1;  // a new scale every so many uses
};
void check_recipe(const Fp8Recipe& recipe);  // throws Error naming the field

// What delayed scaling remembers for one layer: buffers, so that a checkpoint continues bit for bit. Rows: x, weight, dy.
struct Fp8State {
  Tensor scale;         // f32 [3], starts as 1
  Tensor amax_history;  // f32 [3, recipe.amax_history], newest first, starts as 0
  Tensor count;         // i64 [3]: uses so far
  explicit operator bool() const { return scale.defined(); }
};
Fp8State make_fp8_state(const Fp8Recipe& recipe, Device device = {});  // undefined tensors for other scalings

}  // namespace binade::amp
