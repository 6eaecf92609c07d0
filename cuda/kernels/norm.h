// layer_norm and rms_norm of a row, for the kernels that have one in memory: alone, or as the sum they just computed.
#pragma once
#include "binade/cuda/kernels/rows.h"
// launch.h first

namespace binade::cuda {

inline constexpr std::size_t most_shared = std::size_t{96} * 1024;  // a block's memory that every GPU has

template <class C>
struct Norm {  // layer_norm where `centred`, else rms_norm
  Span weight, bias;
  C *mean, *rstd;  // [rows], or null
  double eps;
  bool centred;

  // The block's row, by the whole block. `shared`: max_warps values.
  __device__ __forceinline__ void of_row(const Rows<1, 1>& row, double* shared) const {
    const double n = static_cast<double>(row.n);
    C m = 0, total = 0;
    if (centred) {
      row.read<C>([&](std::int64_t, const C* x) { total += x[0]; });
      m = static_cast<C>(reduce_block(static_cast<double>(total), shared, Plus()) / n);
    }
    total = 0;
    row.read<C>([&](std::int64_t, const C* x) { total += (x[0] - m) * (x[0] - m); });
    const double variance = reduce_block(static_cast<double>(total), shared, Plus()) / n;
    const C s = static_cast<C>(1 / sqrt(variance + eps));
    const Rows<3, 1> all{{row.in.of[0], weight, bias}, {row.out.of[0]}, row.rows, row.n, row.lead, row.vectors};
    all.for_each<C>([&](std::int64_t, const C* x, C* y) {
      const C xhat = (x[0] - m) * s;
      y[0] = (weight ? xhat * x[1] : xhat) + x[2];
    });
    if (threadIdx.x != 0) return;
    if (mean) mean[blockIdx.x] = m;
    if (rstd) rstd[blockIdx.x] = s;
  }
};

// A norm's operands, walked in the same way with its sum and without.
template <class C>
Rows<1, 1> rows_of_norm(const TensorView& x, const TensorView& y, const Norm<C>& norm) {
  check((x.dtype == DType::f64) == (y.dtype == DType::f64), "norm: y must not mix f64 with other dtypes, x is ",
        x.dtype, ", y is ", y.dtype);
  auto rows = make_rows<C, 1, 1>(x, {x}, {y});
  rows.vectors = rows.vectors && can_use_vectors<C>(Spans<2>{{norm.weight, norm.bias}});
  return rows;
}

}  // namespace binade::cuda
