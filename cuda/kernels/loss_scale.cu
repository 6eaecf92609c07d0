// Loss scaling: a loss times the scale, and what an update of the scaler does. Scalars stay on the device.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <limits>

#include "binade/core/backend/kernels.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    multiply_by_kernel(Operands<1, 1> o, const float* factor) {
  const C f = static_cast<C>(*factor);
  for_operands<C>(o, [&](std::int64_t, const C* x, C* y) { y[0] = C(0) + f * x[0]; });
}

// One thread does the work of both kernels below.
__global__ void update_kernel(float* scale, std::int64_t* tracker, const float* found_inf,
                              kernel::LossScaleOptions options) {
  if (global_thread() != 0) return;
  const double before = static_cast<double>(*scale);
  if (*found_inf != 0) {
    tracker[0] = 0;
    if (--tracker[1] > 0) return;
    tracker[1] = 0;
    // Below the normal numbers the reciprocal would overflow: the scale stays there.
    const float least = static_cast<float>(options.min_scale), normal = std::numeric_limits<float>::min();
    const float lowest = least > normal ? least : normal;
    const float reduced = static_cast<float>(before * options.backoff_factor);
    const float floor = *scale < lowest ? *scale : lowest;
    *scale = reduced > floor ? reduced : floor;
  } else if (++tracker[0] >= options.growth_interval) {
    const double higher = before * options.growth_factor;
    if (higher <= static_cast<double>(std::numeric_limits<float>::max())) *scale = static_cast<float>(higher);
    tracker[0] = 0;
    tracker[1] = options.hysteresis;
  }
}

__global__ void count_kernel(std::int64_t* counters, float* last_good, const float* scale, const float* found_inf) {
  if (global_thread() != 0) return;
  if (*found_inf != 0) {
    ++counters[0];
    ++counters[1];
  } else {
    counters[1] = 0;
    *last_good = *scale;
  }
}

void multiply_by(TensorView x, TensorView factor, TensorView y) {
  if (y.numel() == 0) return;
  const auto run = [&]<class C>() {
    const auto o = operands<C, 1, 1>(y.shape, {x}, {y});
    launch(one_thread_each(o.threads(), y.device), multiply_by_kernel<C>, o, factor.as<const float>());
  };
  if (y.dtype == DType::f64 || x.dtype == DType::f64) return run.template operator()<double>();
  run.template operator()<float>();
}

void loss_scale_update(TensorView scale, TensorView tracker, TensorView found_inf, kernel::LossScaleOptions options) {
  launch(one_thread_each(1, scale.device), update_kernel, scale.as<float>(), tracker.as<std::int64_t>(),
         found_inf.as<const float>(), options);
}

void loss_scale_count(TensorView counters, TensorView last_good, TensorView scale, TensorView found_inf) {
  launch(one_thread_each(1, scale.device), count_kernel, counters.as<std::int64_t>(), last_good.as<float>(),
         scale.as<const float>(), found_inf.as<const float>());
}

}  // namespace

void provide_loss_scale();
void provide_loss_scale() {
  kernel::multiply_by.provide(DeviceType::cuda, multiply_by);
  kernel::loss_scale_update.provide(DeviceType::cuda, loss_scale_update);
  kernel::loss_scale_count.provide(DeviceType::cuda, loss_scale_count);
}

}  // namespace binade::cuda
