// What FP8 products need besides the library's: operands widened, and sums finished.
#pragma once
#include "binade/core/tensor/view.h"

namespace binade::cuda {

// y = codes times their blocks' scales, or the codes where scales is absent; in f32, rounded to y. codes [rows, n] of
// either FP8 format, scales u8 [rows, ceil(n / 32)], both of any strides; y [rows, n] contiguous f64, f32 or bf16.
void dequantize_fp8(const TensorView& codes, const TensorView& scales, const TensorView& y);

// c (+)= sums * *scale_a * *scale_b + bias, rounded once; absent scales are 1. sums, c [m, n] contiguous, sums f32 (f64
// for an f64 c); bias [n] or absent.
void finish_fp8_product(const TensorView& sums, const TensorView& scale_a, const TensorView& scale_b,
                        const TensorView& bias, const TensorView& c, bool accumulate);

}  // namespace binade::cuda
