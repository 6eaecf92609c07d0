// softmax and log-softmax over the rows of [rows, n], and their gradients.
#include "binade/core/backend/kernels.h"
#include "binade/ops/cpu/row_math.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {
namespace {

std::int64_t rows_per_chunk(std::int64_t n) {
  return std::max<std::int64_t>(1, elementwise_grain / 4 / std::max<std::int64_t>(n, 1));
}

void softmax(TensorView x, TensorView y, bool log) {
  const std::int64_t rows = x.size(0), n = x.size(1);
  if (rows * n == 0) return;
  with_float_type(x.dtype, "softmax", [&]<class T>() {
    using C = Compute<T>;
    parallel_for(rows, rows_per_chunk(n), [&](std::int64_t begin, std::int64_t end) {
      std::vector<C> room(static_cast<std::size_t>(is_narrow_float<T> ? n : 0));
      for (std::int64_t r = begin; r < end; ++r) {
        const C* in = row_in(x.as<T>() + r * n, n, room.data());
        C* out = row_for(y.as<T>() + r * n, room.data());
        if (log) {
          // x - max is exact for neighbours; subtracting max + log(sum) at once would cancel
          const auto [largest, sum] = row_max_exp_sum(in, n);
          row_shift(in, largest, std::log(sum), out, n);
        } else {
          const C sum = row_exp(in, row_max(in, n), out, n);
          row_scale(out, C(1) / sum, C(0), out, n);
        }
        row_out(out, y.as<T>() + r * n, n);
      }
    });
  });
}

void softmax_backward(TensorView y, TensorView dy, TensorView dx, bool log) {
  const std::int64_t rows = y.size(0), n = y.size(1);
  if (rows * n == 0) return;
  with_float_type(y.dtype, "softmax", [&]<class T>() {
    using C = Compute<T>;
    parallel_for(rows, rows_per_chunk(n), [&](std::int64_t begin, std::int64_t end) {
      std::vector<C> room(static_cast<std::size_t>(is_narrow_float<T> ? 2 * n : 0));
      for (std::int64_t r = begin; r < end; ++r) {
        const C* out = row_in(y.as<T>() + r * n, n, room.data());
        const C* grad = row_in(dy.as<T>() + r * n, n, room.data() + (is_narrow_float<T> ? n : 0));
        C* result = row_for(dx.as<T>() + r * n, room.data());
        if (log) {
          row_log_softmax_grad(out, grad, row_sum(grad, n), result, n);
        } else {
          row_softmax_grad(out, grad, row_dot(out, grad, n), result, n);
        }
        row_out(result, dx.as<T>() + r * n, n);
      }
    });
  });
}

}  // namespace

void provide_softmax() {
  kernel::softmax.provide(DeviceType::cpu, softmax);
  kernel::softmax_backward.provide(DeviceType::cpu, softmax_backward);
}

}  // namespace binade::cpu
