// One two-dimensional product on the calling thread: what matmul and attention are built from.
#pragma once
#include <cstdint>

#include "binade/core/base/dtype.h"

namespace binade::cpu {

struct MatrixBlock {  // rows x columns somewhere in memory; strides in elements
  const void* data;
  DType dtype;
  std::int64_t row_stride, column_stride;
};

// The operand dtype products are computed from: bf16 only where the CPU multiplies it, of bf16 and FP8 operands, otherwise
// narrow operands are converted to f32 first, where their products are exact.
DType product_dtype(DType operand);
// What such products are summed in.
constexpr DType sum_dtype(DType operand) { return operand == DType::f64 ? DType::f64 : DType::f32; }

// True when a rows x columns block with these strides can be multiplied as it lies: rows or columns contiguous.
constexpr bool is_plain(std::int64_t rows, std::int64_t columns, std::int64_t row_stride, std::int64_t column_stride) {
  const bool row_major = (column_stride == 1 || columns <= 1) && (row_stride >= columns || rows <= 1);
  const bool column_major = (row_stride == 1 || rows <= 1) && (column_stride >= rows || columns <= 1);
  return row_major || column_major;
}

// c [m, n] (+)= a [m, k] b [k, n] + bias [n]. a and b: one product dtype, plain. c: rows contiguous, of the sum dtype or
// the operands'. bias: of the sum dtype, or null. The bits do not depend on the number of threads.
void multiply_block(std::int64_t m, std::int64_t n, std::int64_t k, MatrixBlock a, MatrixBlock b, const void* bias,
                    MatrixBlock c, bool accumulate);

// The library behind it: f32, and bf16 where product_dtype says so. m, n, k > 0.
void multiply_block_onednn(std::int64_t m, std::int64_t n, std::int64_t k, MatrixBlock a, MatrixBlock b,
                           const void* bias, MatrixBlock c, bool accumulate);

}  // namespace binade::cpu
