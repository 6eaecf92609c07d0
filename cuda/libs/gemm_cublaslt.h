// One strided-batched product through cuBLASLt, in row-major terms.
#pragma once
#include <cstddef>
#include <cstdint>

#include "binade/core/base/device.h"
#include "binade/core/base/dtype.h"

namespace binade::cuda {

struct GemmOperand {          // element (i, j) lies at i * lead + j, or at j * lead + i where transposed
  std::byte* data = nullptr;  // aligned to 16 bytes
  DType dtype = DType::f32;
  bool transposed = false;
  std::int64_t lead = 1, batch_stride = 0;  // elements
};

// c [m, n] (+)= a [m, k] b [k, n] + bias [n], `batch` times; summed in f32 (f64 for f64). a and b have one dtype: f64,
// f32, f16 or bf16; c has the same, or f32 for 16-bit ones, and is not transposed. bias: c's dtype, or null; with f64
// and with accumulate it must be null. All sizes > 0.
// FP8 (compute capability 8.9 and newer): a not transposed, b transposed, m, n, k and all leads multiples of 16, not both
// f8e5m2; the sum is multiplied by *scale_a and *scale_b, in device memory. c is f32, bf16 or f16; a bias needs the latter two.
// Beside c, a single product (batch 1, neither f64 nor FP8) may write one of these, of c's dtype and aligned to 16 bytes:
// row_sums [m], the sums of the rows of a, which is transposed, with k > 1 and without a bias;
// pre [m, n], contiguous, n a multiple of 8: the result before c becomes gelu_tanh of it, without accumulate.
struct Gemm {
  std::int64_t m, n, k, batch = 1;
  GemmOperand a, b, c;
  const std::byte* bias = nullptr;
  bool accumulate = false;
  bool tf32 = false;  // f32 operands are rounded to TF32
  const float *scale_a = nullptr, *scale_b = nullptr;
  std::byte *row_sums = nullptr, *pre = nullptr;
};
// False, with nothing computed, where row_sums or pre is asked for and the library has no algorithm for it.
bool run_gemm(const Gemm& gemm, Device device);

}  // namespace binade::cuda
