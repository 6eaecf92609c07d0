#include "binade/core/amp/loss_scale.h"

#include <cmath>

#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::amp::loss_scale {

Dynamic::Dynamic(DynamicOptions options) : options_(options) {
  check(options.growth_factor > 1 && std::isfinite(options.growth_factor),
        "GradScaler: growth_factor must be above 1, got ", options.growth_factor);
  check(options.backoff_factor > 0 && options.backoff_factor < 1,
        "GradScaler: backoff_factor must be between 0 and 1, got ", options.backoff_factor);
  check(options.growth_interval > 0, "GradScaler: growth_interval must be positive, got ", options.growth_interval);
  check(options.min_scale >= 0 && std::isfinite(options.min_scale), "GradScaler: min_scale must not be negative, got ",
        options.min_scale);
  check(options.hysteresis > 0, "GradScaler: hysteresis must be positive, got ", options.hysteresis);
  tracker_ = from_vector(std::vector<std::int64_t>{0, options.hysteresis}, {2});
}

void Dynamic::update(const Tensor& scale, const Tensor& found_inf) {
  if (!(tracker_.device() == scale.device())) tracker_ = tracker_.to(scale.device());
  kernel::loss_scale_update(scale, tracker_, found_inf,
                            {.growth_factor = options_.growth_factor,
                             .backoff_factor = options_.backoff_factor,
                             .min_scale = options_.min_scale,
                             .growth_interval = options_.growth_interval,
                             .hysteresis = options_.hysteresis});
  bump_version(scale);
}

optim::StateDict Dynamic::state_dict() const {
  return {{"growth_tracker", tracker_.select(0, 0).clone()}, {"hysteresis", tracker_.select(0, 1).clone()}};
}

void Dynamic::load_state_dict(const optim::StateDict& state) {
  std::vector<std::int64_t> values;
  for (const char* key : {"growth_tracker", "hysteresis"}) {
    const auto found = state.find(key);
    check(found != state.end() && found->second.defined(), "GradScaler: load_state_dict: missing: ", key);
    check(found->second.numel() == 1, "GradScaler: load_state_dict: ", key, " must have one element, got ",
          found->second.shape());
    values.push_back(found->second.item<std::int64_t>());
    check(values.back() >= 0, "GradScaler: load_state_dict: ", key, " must not be negative, got ", values.back());
  }
  tracker_ = from_vector(values, {2}, {.dtype = DType::i64, .device = tracker_.device()});
}

}  // namespace binade::amp::loss_scale
