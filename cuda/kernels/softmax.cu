// softmax and log-softmax over the rows of [rows, n], and their gradients. One block per row.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <limits>

#include "binade/core/backend/kernels.h"
#include "binade/cuda/kernels/rows.h"

namespace binade::cuda {
namespace {

template <class C>
__global__ void softmax_kernel(Rows<1, 1> rows, bool log_of_it) {
  SHARED(C, shared, max_warps);
  const Rows<1, 1> row = rows.of_block();
  const C most = row_max<C>(row, shared);
  const C sum = row_exp_sum<C>(row, most, shared);
  if (log_of_it) {
    // x - max is exact for neighbours; subtracting max + log(sum) at once would cancel
    const C log_sum = log(sum);
    row.for_each<C>([&](std::int64_t, const C* x, C* y) { y[0] = (x[0] - most) - log_sum; });
  } else {
    const C scale = C(1) / sum;
    row.for_each<C>([&](std::int64_t, const C* x, C* y) { y[0] = exp(x[0] - most) * scale; });
  }
}

template <class C>
__global__ void softmax_backward_kernel(Rows<2, 1> rows, bool log_of_it) {  // in: y, dy
  SHARED(C, shared, max_warps);
  const Rows<2, 1> row = rows.of_block();
  C sum = 0;
  row.read<C>([&](std::int64_t, const C* in) { sum += log_of_it ? in[1] : in[0] * in[1]; });
  sum = reduce_block(sum, shared, Plus());
  row.for_each<C>(
      [&](std::int64_t, const C* in, C* dx) { dx[0] = log_of_it ? in[1] - exp(in[0]) * sum : in[0] * (in[1] - sum); });
}

void softmax(TensorView x, TensorView y, bool log_of_it) {
  if (x.numel() == 0) return;
  with_row_type(x.dtype, "softmax", [&]<class C>() {
    const auto rows = make_rows<C, 1, 1>(x, {x}, {y});
    launch(rows.config(x.device), softmax_kernel<C>, rows, log_of_it);
  });
}

void softmax_backward(TensorView y, TensorView dy, TensorView dx, bool log_of_it) {
  if (y.numel() == 0) return;
  with_row_type(y.dtype, "softmax", [&]<class C>() {
    const auto rows = make_rows<C, 2, 1>(y, {y, dy}, {dx});
    launch(rows.config(y.device), softmax_backward_kernel<C>, rows, log_of_it);
  });
}

}  // namespace

void provide_softmax();
void provide_softmax() {
  kernel::softmax.provide(DeviceType::cuda, softmax);
  kernel::softmax_backward.provide(DeviceType::cuda, softmax_backward);
}

}  // namespace binade::cuda
