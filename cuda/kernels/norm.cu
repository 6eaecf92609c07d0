// layer_norm and rms_norm with gradients. With xhat = (x - mean) rstd and g = dy weight, both have
// dx = rstd (g - mean(g) - xhat mean(g xhat)), without the first mean for rms_norm. One block per row.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <optional>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/cuda/kernels/arrival.h"
#include "binade/cuda/kernels/rows.h"

namespace binade::cuda {
namespace {

// layer_norm where `centred`, else rms_norm. mean, rstd [rows] or null.
template <class C>
__global__ void norm_kernel(Rows<1, 1> rows, Span weight, Span bias, C* mean, C* rstd, double eps, bool centred) {
  SHARED(double, shared, max_warps);
  const Rows<1, 1> row = rows.of_block();
  const double n = static_cast<double>(rows.n);
  C m = 0, total = 0;
  if (centred) {
    row.read<C>([&](std::int64_t, const C* x) { total += x[0]; });
    m = static_cast<C>(reduce_block(static_cast<double>(total), shared, Plus()) / n);
  }
  total = 0;
  row.read<C>([&](std::int64_t, const C* x) { total += (x[0] - m) * (x[0] - m); });
  const double variance = reduce_block(static_cast<double>(total), shared, Plus()) / n;
  const C s = static_cast<C>(1 / sqrt(variance + eps));
  const Rows<3, 1> all{{row.in.of[0], weight, bias}, {row.out.of[0]}, rows.rows, rows.n, rows.vectors};
  all.for_each<C>([&](std::int64_t, const C* x, C* y) {
    const C xhat = (x[0] - m) * s;
    y[0] = (weight ? xhat * x[1] : xhat) + x[2];
  });
  if (threadIdx.x != 0) return;
  if (mean) mean[blockIdx.x] = m;
  if (rstd) rstd[blockIdx.x] = s;
}

// rows: in x, dy; out dx, which is added to what is there where `accumulate`.
template <class C>
__global__ void norm_backward_kernel(Rows<2, 1> rows, Span weight, const C* mean, const C* rstd, bool accumulate) {
  SHARED(double, shared, max_warps);
  const Rows<2, 1> row = rows.of_block();
  const Rows<4, 1> all{{row.in.of[0], row.in.of[1], weight, accumulate ? row.out.of[0] : Span{}},
                       {row.out.of[0]}, rows.rows, rows.n, rows.vectors};
  const C m = mean ? mean[blockIdx.x] : C(0), s = rstd[blockIdx.x];
  const double n = static_cast<double>(rows.n);
  C sum_g = 0, sum_g_xhat = 0;
  all.read<C>([&](std::int64_t, const C* x) {
    const C g = weight ? x[1] * x[2] : x[1];
    sum_g += g;
    sum_g_xhat += g * ((x[0] - m) * s);
  });
  const double all_g = reduce_block(static_cast<double>(sum_g), shared, Plus());
  const double all_g_xhat = reduce_block(static_cast<double>(sum_g_xhat), shared, Plus());
  const C c1 = mean ? static_cast<C>(all_g / n) : C(0), c2 = static_cast<C>(all_g_xhat / n);
  all.for_each<C>([&](std::int64_t, const C* x, C* dx) {
    const C g = weight ? x[1] * x[2] : x[1];
    dx[0] = s * (g - c1 - (x[0] - m) * s * c2) + x[3];
  });
}

struct Columns {  // the gradients of weight and bias, each absent or [n]
  Span dweight, dbias;
  bool accumulate = false;
  double *weight_parts = nullptr, *bias_parts = nullptr;  // [gridDim.y, n]
  unsigned* arrivals = nullptr;
};
__device__ void finish_column(const Span& out, const double* parts, std::int64_t n, std::int64_t j, bool accumulate) {
  if (!out) return;
  double total = 0;
  for (unsigned p = 0; p < gridDim.y; ++p) total += parts[p * n + j];
  out.set(j, accumulate ? out.get<double>(j) + total : total);
}

// The columns' sums of dy xhat and dy: one thread per column and piece of the rows (block's y), at most 16 rows in C
// before they join a double.
template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    norm_columns_kernel(Span x, Span dy, const C* mean, const C* rstd, Columns to, std::int64_t rows, std::int64_t n,
                        std::int64_t piece_rows) {
  constexpr int in_narrow = 16;
  SHARED1(bool, last_block);
  const std::int64_t j = global_thread();
  const std::int64_t last = blockIdx.y * piece_rows + piece_rows < rows ? blockIdx.y * piece_rows + piece_rows : rows;
  double weight_total = 0, bias_total = 0;
  for (std::int64_t r = blockIdx.y * piece_rows; j < n && r < last;) {
    C weight_part = 0, bias_part = 0;
    for (int k = 0; k < in_narrow && r < last; ++k, ++r) {
      const C grad = dy.get<C>(r * n + j), m = mean ? mean[r] : C(0);
      weight_part += grad * ((x.get<C>(r * n + j) - m) * rstd[r]);
      bias_part += grad;
    }
    weight_total += static_cast<double>(weight_part);
    bias_total += static_cast<double>(bias_part);
  }
  if (j < n) {
    to.weight_parts[blockIdx.y * n + j] = weight_total;
    to.bias_parts[blockIdx.y * n + j] = bias_total;
  }
  if (!last_to_arrive(to.arrivals + blockIdx.x, &last_block) || j >= n) return;
  finish_column(to.dweight, to.weight_parts, n, j, to.accumulate);
  finish_column(to.dbias, to.bias_parts, n, j, to.accumulate);
}

template <class C>
const C* or_null(const TensorView& x) {
  return x ? x.as<const C>() : nullptr;
}

void norm_rows(const TensorView& x, const TensorView& weight, const TensorView& bias, const TensorView& y,
               const TensorView& mean, const TensorView& rstd, double eps, bool centred) {
  if (x.numel() == 0) return;
  check((x.dtype == DType::f64) == (y.dtype == DType::f64), "norm: y must not mix f64 with other dtypes, x is ",
        x.dtype, ", y is ", y.dtype);
  with_row_type(x.dtype, "norm", [&]<class C>() {
    auto rows = make_rows<C, 1, 1>(x, {x}, {y});
    rows.vectors = rows.vectors && can_use_vectors<C>(Spans<2>{{span_of(weight), span_of(bias)}});
    launch(rows.config(x.device), norm_kernel<C>, rows, span_of(weight), span_of(bias), mean.as<C>(), rstd.as<C>(), eps,
           centred);
  });
}

void norm_rows_backward(const TensorView& x, const TensorView& weight, const TensorView& mean, const TensorView& rstd,
                        const TensorView& dy, const TensorView& dx, const TensorView& dweight, const TensorView& dbias,
                        kernel::NormAccumulate accumulate) {
  const std::int64_t rows = x.size(0), n = x.size(1);
  if (n == 0) return;
  with_row_type(x.dtype, "norm", [&]<class C>() {
    if (dx && rows > 0) {
      auto both = make_rows<C, 2, 1>(x, {x, dy}, {dx});
      both.vectors = both.vectors && can_use_vectors<C>(Spans<1>{{span_of(weight)}});
      launch(both.config(x.device), norm_backward_kernel<C>, both, span_of(weight), or_null<C>(mean),
             rstd.as<const C>(), accumulate.x);
    }
    if (!dweight && !dbias) return;
    // As many pieces as occupy a GPU; their number depends on the shape alone.
    LaunchConfig config = one_thread_each(n, x.device);
    const std::int64_t most = config.grid.x <= arrival_words ? 128 : 1;
    const std::int64_t piece_rows = std::max<std::int64_t>(16, (rows + most - 1) / most);
    const std::int64_t pieces = std::max<std::int64_t>(1, (rows + piece_rows - 1) / piece_rows);
    config.grid.y = static_cast<unsigned>(pieces);
    const Scratch parts(static_cast<std::size_t>(2 * pieces * n) * sizeof(double), x.device);
    const Columns to{.dweight = span_of(dweight),
                     .dbias = span_of(dbias),
                     .accumulate = accumulate.parameters,
                     .weight_parts = parts.as<double>(),
                     .bias_parts = parts.as<double>() + pieces * n,
                     .arrivals = arrivals_of(x.device)};
    launch(config, norm_columns_kernel<C>, span_of(x), span_of(dy), or_null<C>(mean), rstd.as<const C>(), to, rows, n,
           piece_rows);
  });
}

void layer_norm(TensorView x, TensorView weight, TensorView bias, TensorView y, TensorView mean, TensorView rstd,
                double eps) {
  norm_rows(x, weight, bias, y, mean, rstd, eps, true);
}
void layer_norm_backward(TensorView x, TensorView weight, TensorView mean, TensorView rstd, TensorView dy,
                         TensorView dx, TensorView dweight, TensorView dbias,
                         kernel::NormAccumulate accumulate) {
  norm_rows_backward(x, weight, mean, rstd, dy, dx, dweight, dbias, accumulate);
}
void rms_norm(TensorView x, TensorView weight, TensorView y, TensorView rstd, double eps) {
  norm_rows(x, weight, {}, y, {}, rstd, eps, false);
}
void rms_norm_backward(TensorView x, TensorView weight, TensorView rstd, TensorView dy, TensorView dx,
                       TensorView dweight, kernel::NormAccumulate accumulate) {
  norm_rows_backward(x, weight, {}, rstd, dy, dx, dweight, {}, accumulate);
}

}  // namespace

void provide_norm();
void provide_norm() {
  kernel::layer_norm.provide(DeviceType::cuda, layer_norm);
  kernel::layer_norm_backward.provide(DeviceType::cuda, layer_norm_backward);
  kernel::rms_norm.provide(DeviceType::cuda, rms_norm);
  kernel::rms_norm_backward.provide(DeviceType::cuda, rms_norm_backward);
}

}  // namespace binade::cuda
