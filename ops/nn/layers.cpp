#include "binade/ops/nn/layers.h"

#include <cmath>

#include "binade/core/amp/autocast.h"
#include "binade/core/backend/memory.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/ops/fp8_linear.h"
#include "binade/ops/nn/init.h"

namespace binade::nn {

namespace {

void check_sizes(std::string_view layer, std::initializer_list<std::int64_t> sizes) {
  for (const std::int64_t size : sizes) check(size > 0, layer, ": sizes must be positive, got ", size);
}

Tensor allocated(const Shape& shape) {
  const MemoryTagScope tag(MemoryTag::parameters);
  return empty(shape);
}
Tensor filled(const Shape& shape, double value) { return init::constant_(allocated(shape), value); }

// PyTorch's default for linear and convolution layers: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the bias too.
double default_bound(std::int64_t fan_in) { return 1.0 / std::sqrt(static_cast<double>(fan_in)); }
Tensor uniform_start(const Shape& shape, double bound) { return init::uniform_(allocated(shape), -bound, bound); }

void check_groups(std::string_view layer, std::int64_t in, std::int64_t out, std::int64_t groups) {
  check(groups > 0 && in % groups == 0 && out % groups == 0, layer, ": groups must divide both channels: in ", in,
        ", out ", out, ", groups ", groups);
}

}  // namespace

Linear::Linear(std::int64_t in, std::int64_t out, LinearOptions options) : activation(options.activation) {
  check_sizes("Linear", {in, out});
  const double bound = default_bound(in);
  weight = add_parameter("weight", uniform_start({out, in}, bound));
  if (options.bias) bias = add_parameter("bias", uniform_start({out}, bound));
  set_linear_precision(std::make_shared<LinearPrecision>(LinearPrecision{.in = in, .out = out, .fp8 = {}, .state = {}}));
}

Tensor Linear::operator()(const Tensor& x) const {
  const ModuleScope inside = enter();
  const LinearPrecision& precision = *linear_precision();
  if (!precision.fp8 || !amp::autocast_enabled()) return linear(x, weight, bias, activation);
  return fp8_linear(x, weight, bias,
                    {.recipe = *precision.fp8,
                     .state = precision.state,
                     .update = training() && grad_enabled(),
                     .activation = activation});
}

Conv2d::Conv2d(std::int64_t in, std::int64_t out, Pair kernel, Conv2dSettings settings)
    : options{.stride = settings.stride,
              .padding = settings.padding,
              .dilation = settings.dilation,
              .groups = settings.groups,
              .activation = settings.activation} {
  check_sizes("Conv2d", {in, out, kernel.first, kernel.second});
  check_groups("Conv2d", in, out, settings.groups);
  const std::int64_t in_group = in / settings.groups;
  const double bound = default_bound(in_group * kernel.first * kernel.second);
  weight = add_parameter("weight", uniform_start({out, in_group, kernel.first, kernel.second}, bound));
  if (settings.bias) bias = add_parameter("bias", uniform_start({out}, bound));
}

Conv1d::Conv1d(std::int64_t in, std::int64_t out, std::int64_t kernel, Conv1dSettings settings)
    : options{.stride = settings.stride,
              .padding = settings.padding,
              .dilation = settings.dilation,
              .groups = settings.groups,
              .activation = settings.activation} {
  check_sizes("Conv1d", {in, out, kernel});
  check_groups("Conv1d", in, out, settings.groups);
  const std::int64_t in_group = in / settings.groups;
  const double bound = default_bound(in_group * kernel);
  weight = add_parameter("weight", uniform_start({out, in_group, kernel}, bound));
  if (settings.bias) bias = add_parameter("bias", uniform_start({out}, bound));
}

LayerNorm::LayerNorm(const Shape& shape, LayerNormOptions options) : eps(options.eps) {
  check(!shape.empty(), "LayerNorm: the normalised shape must have at least one dimension");
  for (const std::int64_t d : shape) check_sizes("LayerNorm", {d});
  check(options.affine || shape.size() == 1, "LayerNorm: without a weight only the last dim is normalised, got ", shape);
  if (!options.affine) return;
  weight = add_parameter("weight", filled(shape, 1));
  if (options.bias) bias = add_parameter("bias", filled(shape, 0));
}

RMSNorm::RMSNorm(std::int64_t n, double epsilon) : eps(epsilon) {
  check_sizes("RMSNorm", {n});
  weight = add_parameter("weight", filled({n}, 1));
}

GroupNorm::GroupNorm(std::int64_t group_count, std::int64_t channels, GroupNormOptions options)
    : groups(group_count), eps(options.eps) {
  check_sizes("GroupNorm", {groups, channels});
  check(channels % groups == 0, "GroupNorm: groups must divide the channels: ", channels, " channels, ", groups,
        " groups");
  if (!options.affine) return;
  weight = add_parameter("weight", filled({channels}, 1));
  bias = add_parameter("bias", filled({channels}, 0));
}

BatchNorm::BatchNorm(std::int64_t channels, BatchNormSettings settings, std::string_view name, int min_dims,
                     int max_dims)
    : momentum(settings.momentum), eps(settings.eps), name_(name), min_dims_(min_dims), max_dims_(max_dims) {
  check_sizes(name, {channels});
  if (settings.affine) {
    weight = add_parameter("weight", filled({channels}, 1));
    bias = add_parameter("bias", filled({channels}, 0));
  }
  if (settings.track_running_stats) {
    running_mean = add_buffer("running_mean", filled({channels}, 0));
    running_var = add_buffer("running_var", filled({channels}, 1));
  }
}

Tensor BatchNorm::operator()(const Tensor& x) const {
  const ModuleScope inside = enter();
  check(x.dim() >= min_dims_ && x.dim() <= max_dims_, name_, ": expected ", min_dims_, " to ", max_dims_,
        " dimensions, got ", x.shape());
  const bool batch_statistics = training() || !running_mean;
  return batch_norm(x, weight, bias, running_mean, running_var,
                    {.training = batch_statistics, .momentum = momentum, .eps = eps});
}

Embedding::Embedding(std::int64_t rows, std::int64_t n) {
  check_sizes("Embedding", {rows, n});
  weight = add_parameter("weight", init::normal_(allocated({rows, n}), 0, 1));
}

Dropout::Dropout(double probability) : p(probability) { check(p >= 0 && p < 1, "Dropout: p must be in [0, 1), got ", p); }

}  // namespace binade::nn
