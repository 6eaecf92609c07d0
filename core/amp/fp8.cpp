#include "binade/core/amp/fp8.h"

namespace binade::amp {

std::string_view name(Fp8Scaling scaling) {
  switch (scaling) {
    case Fp8Scaling::delayed: return "delayed";
    case Fp8Scaling::current: return "current";
    case Fp8Scaling::block: return "block";
  }
  return "?";
}

void check_recipe(const Fp8Recipe& recipe) {
  check(recipe.amax_history > 0, "Fp8Recipe: amax_history must be positive, got ", recipe.amax_history);
  check(recipe.interval > 0, "Fp8Recipe: interval must be positive, got ", recipe.interval);
  check(recipe.margin >= -64 && recipe.margin <= 64, "Fp8Recipe: margin must be between -64 and 64, got ", recipe.margin);
}

Fp8State make_fp8_state(const Fp8Recipe& recipe, Device device) {
  check_recipe(recipe);
  if (recipe.scaling != Fp8Scaling::delayed) return {};
  return {ones({3}, {.device = device}), zeros({3, recipe.amax_history}, {.device = device}),
          zeros({3}, {.dtype = DType::i64, .device = device})};
}

}  // namespace binade::amp
