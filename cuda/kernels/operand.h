// Operands of matrix products (attention, convolution): views by strides, whose elements may be rounded to TF32 on the
// way, as MatmulPrecision::high asks for f32.
#pragma once
#include "binade/cuda/kernels/element.h"
// launch.h first
#include "binade/core/backend/matmul_precision.h"

namespace binade::cuda {

inline bool rounds_to_tf32(DType dtype, MatmulPrecision precision) {
  return dtype == DType::f32 && precision == MatmulPrecision::high;
}
template <class C>
__device__ __forceinline__ C as_operand(C x, bool tf32) {
  if constexpr (std::is_same_v<C, float>) return tf32 ? round_to_tf32(x) : x;
  return x;
}

struct Strided4 {  // a view of four dims, or absent
  Span data;
  std::int64_t strides[4] = {};
  __device__ __forceinline__ std::int64_t at(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) const {
    return a * strides[0] + b * strides[1] + c * strides[2] + d * strides[3];
  }
};
inline Strided4 strided(const TensorView& x) {
  Strided4 s{span_of(x), {}};
  for (int d = 0; d < x.dim() && d < 4; ++d) s.strides[d] = x.stride(d);
  return s;
}

}  // namespace binade::cuda
