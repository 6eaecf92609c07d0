// The matrix product of the CPU backend.
#pragma once
#include "binade/core/backend/kernels.h"

namespace binade::cpu {

// kernel::matmul (core/backend/kernels.h) with a factor: c (+)= factor * (a b) + bias, the factor applied in f64, the
// result rounded once. Operands may be FP8 numbers, of both formats at once. Summed in f64 where c is, else in f32.
void scaled_matmul(TensorView a, TensorView b, TensorView bias, TensorView c, kernel::MatmulOptions options, double factor);

}  // namespace binade::cpu
