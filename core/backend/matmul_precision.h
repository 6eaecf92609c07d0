// How exactly products of f32 operands are computed, as torch.set_float32_matmul_precision: a setting of the whole
// process, read at the moment a product is computed, so backward uses what is set then, not what forward used.
#pragma once

namespace binade {

enum class MatmulPrecision {
  highest,  // f32 operands as they are
  // f32 operands rounded to TF32 (core/base/scalar.h), products summed in f32. On a GPU it is a permission: cuBLAS
  // computes some products, tiny ones above all, from the operands as they are.
  high,
};
// For matmul, linear, convolution and attention, forward and backward; operands of other dtypes are not touched.
void set_float32_matmul_precision(MatmulPrecision precision);  // thread-safe
MatmulPrecision float32_matmul_precision();                    // `highest` until set

}  // namespace binade
