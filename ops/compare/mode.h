// The precision modes a comparison knows.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "binade/core/amp/fp8.h"
#include "binade/core/base/dtype.h"

namespace binade::compare {

struct Mode {
  std::string name = "";
  DType autocast = DType::f32;    // f32: off
  bool loss_scaling = false;      // dynamic
  bool tf32 = false;              // FP32 matrix products from TF32 operands
  DType parameters = DType::f32;  // bf16: stored so, without FP32 master weights
  bool stochastic_rounding = false;
  std::optional<amp::Fp8Recipe> fp8 = {};  // linear layers, but the first and the last
  double static_scale = 0;            // a fixed loss scale instead of dynamic scaling; 0: none
};

// fp32 tf32 bf16 fp16 fp16-noscale bf16-pure bf16-sr fp8-delayed fp8-current mxfp8; also fp8-unscaled
// (all scales 1), and fp16-static-K with a whole number K: FP16 with the fixed loss scale 2^K. Throws Error that lists the names.
Mode mode(std::string_view name);
// A comma-separated list, or "all" for the ten; each mode once.
std::vector<Mode> modes(std::string_view list);

}  // namespace binade::compare
