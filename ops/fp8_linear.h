// fp8_linear: linear with its three products in FP8. What nn::use_fp8 makes a Linear call.
#pragma once
#include "binade/core/amp/fp8.h"
#include "binade/ops/ops.h"

namespace binade {

struct Fp8LinearOptions {
  amp::Fp8Recipe recipe;
  amp::Fp8State state;  // delayed scaling: the layer's; its scales are used, and updated in place where `update` says so
  bool update = false;  // after each use: record the amax and find the next scale (training, with gradients recorded)
  Activation activation = Activation::none;
};
// activation(x weight^T + bias): x [.., in], weight [out, in], bias [out] or undefined, one dtype. x and weight are
// quantised to E4M3, in backward the gradient of the result to E5M2; results have x's dtype, bias and its gradient are
// not quantised, the gradient of an f32 weight is written straight in f32.
Tensor fp8_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Fp8LinearOptions& options);

}  // namespace binade
