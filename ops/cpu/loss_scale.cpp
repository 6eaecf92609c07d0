// Loss scaling: a loss times the scale, and what an update of the scaler does. Scalars stay where the gradients are.
#include <algorithm>
#include <cmath>
#include <limits>

#include "binade/core/backend/kernels.h"
#include "binade/core/base/scalar.h"

namespace binade::cpu {
namespace {

void multiply_by(TensorView x, TensorView factor, TensorView y) {
  kernel::fill(y, 0);
  kernel::add_into(x, y, static_cast<double>(*factor.as<float>()));
}

void loss_scale_update(TensorView scale, TensorView tracker, TensorView found_inf, kernel::LossScaleOptions options) {
  float& s = *scale.as<float>();
  std::int64_t &good = tracker.as<std::int64_t>()[0], &tolerated = tracker.as<std::int64_t>()[1];
  if (*found_inf.as<float>() != 0) {
    good = 0;
    if (--tolerated > 0) return;
    tolerated = 0;
    // Below the normal numbers the reciprocal would overflow: the scale stays there.
    const float lowest = std::max(static_cast<float>(options.min_scale), std::numeric_limits<float>::min());
    s = std::max(static_cast<float>(static_cast<double>(s) * options.backoff_factor), std::min(s, lowest));
  } else if (++good >= options.growth_interval) {
    const double higher = static_cast<double>(s) * options.growth_factor;
    if (higher <= static_cast<double>(std::numeric_limits<float>::max())) s = static_cast<float>(higher);
    good = 0;
    tolerated = options.hysteresis;
  }
}

void loss_scale_count(TensorView counters, TensorView last_good, TensorView scale, TensorView found_inf) {
  std::int64_t &skipped = counters.as<std::int64_t>()[0], &in_a_row = counters.as<std::int64_t>()[1];
  if (*found_inf.as<float>() != 0) {
    ++skipped;
    ++in_a_row;
  } else {
    in_a_row = 0;
    *last_good.as<float>() = *scale.as<float>();
  }
}

}  // namespace

void provide_loss_scale() {
  kernel::multiply_by.provide(DeviceType::cpu, multiply_by);
  kernel::loss_scale_update.provide(DeviceType::cpu, loss_scale_update);
  kernel::loss_scale_count.provide(DeviceType::cpu, loss_scale_count);
}

}  // namespace binade::cpu
