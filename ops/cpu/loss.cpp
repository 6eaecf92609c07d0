// Cross-entropy of class indices, one pass over each row of logits in either direction.
#include "binade/core/backend/kernels.h"
#include "binade/ops/cpu/row_math.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {
namespace {

std::int64_t rows_per_chunk(std::int64_t n) {
  return std::max<std::int64_t>(1, elementwise_grain / 4 / std::max<std::int64_t>(n, 1));
}

void check_targets(const std::int64_t* targets, std::int64_t rows, std::int64_t classes, std::int64_t ignore_index) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t t = targets[r];
    check((t >= 0 && t < classes) || t == ignore_index, "cross_entropy: targets must be in [0, ", classes,
          ") or ignore_index ", ignore_index, ": row ", r, " has ", t);
  }
}

// loss = (1 - s) (lse - x_t) + s (lse - mean x), each difference taken from the row's maximum.
void cross_entropy(TensorView logits, TensorView targets, TensorView loss, TensorView lse,
                   kernel::CrossEntropyOptions options) {
  const std::int64_t rows = logits.size(0), n = logits.size(1);
  const std::int64_t* t = targets.as<std::int64_t>();
  check_targets(t, rows, n, options.ignore_index);
  if (rows * n == 0) {  // without classes every target is ignored
    for (std::int64_t r = 0; r < rows; ++r) {
      with_float_type(loss.dtype, "cross_entropy", [&]<class L>() { loss.as<L>()[r] = lse.as<L>()[r] = L{}; });
    }
    return;
  }
  with_float_type(logits.dtype, "cross_entropy", [&]<class T>() {
    using C = Compute<T>;
    const C smoothing = static_cast<C>(options.label_smoothing);
    parallel_for(rows, rows_per_chunk(n), [&](std::int64_t begin, std::int64_t end) {
      std::vector<C> room(static_cast<std::size_t>(is_narrow_float<T> ? n : 0));
      for (std::int64_t r = begin; r < end; ++r) {
        C& row_loss = loss.as<C>()[r];
        C& row_lse = lse.as<C>()[r];
        row_loss = row_lse = C(0);
        if (t[r] == options.ignore_index) continue;
        const C* x = row_in(logits.as<T>() + r * logits.stride(0), n, room.data());
        const auto [largest, sum] = row_max_exp_sum(x, n);
        const C log_sum = std::log(sum);
        row_lse = largest + log_sum;
        row_loss = log_sum + (largest - x[t[r]]);
        if (smoothing != C(0)) {
          const C spread = log_sum + (largest - row_sum(x, n) / static_cast<C>(n));
          row_loss = (C(1) - smoothing) * row_loss + smoothing * spread;
        }
      }
    });
  });
}

// dlogits = dloss (softmax - smoothed one-hot)
void cross_entropy_backward(TensorView logits, TensorView targets, TensorView lse, TensorView dloss, TensorView dlogits,
                            kernel::CrossEntropyOptions options) {
  const std::int64_t rows = logits.size(0), n = logits.size(1);
  if (rows * n == 0) return;
  const std::int64_t* t = targets.as<std::int64_t>();
  with_float_type(logits.dtype, "cross_entropy", [&]<class T>() {
    using C = Compute<T>;
    const double smoothing = options.label_smoothing;
    parallel_for(rows, rows_per_chunk(n), [&](std::int64_t begin, std::int64_t end) {
      std::vector<C> room(static_cast<std::size_t>(is_narrow_float<T> ? n : 0));
      for (std::int64_t r = begin; r < end; ++r) {
        T* dx = dlogits.as<T>() + r * dlogits.stride(0);
        if (t[r] == options.ignore_index) {  // zero even where dloss is not finite: the mean over nothing
          std::fill(dx, dx + n, T{});
          continue;
        }
        const C* x = row_in(logits.as<T>() + r * logits.stride(0), n, room.data());
        C* row = row_for(dx, room.data());
        const C grad = dloss.as<C>()[r * dloss.stride(0)], row_lse = lse.as<C>()[r];
        const C uniform = static_cast<C>(smoothing / static_cast<double>(n));
        // at the target softmax - 1 = expm1: no cancellation where the model is sure
        const C at_target = std::expm1(x[t[r]] - row_lse) + (static_cast<C>(smoothing) - uniform);
        row_exp_scale(x, row_lse, grad, -grad * uniform, row, n);
        row[t[r]] = grad * at_target;
        row_out(row, dx, n);
      }
    });
  });
}

}  // namespace

void provide_loss() {
  kernel::cross_entropy.provide(DeviceType::cpu, cross_entropy);
  kernel::cross_entropy_backward.provide(DeviceType::cpu, cross_entropy_backward);
}

}  // namespace binade::cpu
