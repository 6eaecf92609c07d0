// batch_norm and group_norm: x [batch, channels, ..], normalised over (batch, ..) of a channel, or over a group of
// channels of one sample; then scaled and shifted per channel. Layer norm and RMS norm: ops/norm.cpp.
#include <cmath>

#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/formulas.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"
#include "binade/ops/view_as.h"

namespace binade {
namespace {

DType statistics_dtype(const Tensor& x) { return x.dtype() == DType::f64 ? DType::f64 : DType::f32; }
Tensor contiguous_or_absent(const Tensor& x) { return x ? contiguous_values(x) : x; }

void check_channels(std::string_view op, std::string_view what, const Tensor& x, const Tensor& per_channel) {
  if (!per_channel) return;
  check_float(op, what, per_channel);
  check(per_channel.shape() == Shape{x.size(1)}, op, ": ", what, " must have shape [channels]: ", what, " is ",
        per_channel.shape(), ", x is ", x.shape());
}
Spec check_inputs(std::string_view op, Inputs in) {
  check_float(op, "x", in[0]);
  check(in[0].dim() >= 2, op, ": x must be [batch, channels, ..], got ", in[0].shape());
  check_channels(op, "weight", in[0], in[1]);
  check_channels(op, "bias", in[0], in[2]);
  return in[0].spec();
}
struct Sizes {
  std::int64_t batch, channels, inner;
};
Sizes sizes_of(const Tensor& x) {
  Sizes s{x.size(0), x.size(1), 1};
  for (int i = 2; i < x.dim(); ++i) s.inner *= x.size(i);
  return s;
}

struct BatchNorm : Op {  // inputs x, weight, bias
  Tensor running_mean, running_var;
  BatchNormOptions options;

  std::string_view name() const override { return "batch_norm"; }
  Precision precision() const override { return Precision::full; }
  Spec infer(Inputs in) const override {
    const Spec spec = check_inputs(name(), in);
    check_channels(name(), "running_mean", in[0], running_mean);
    check_channels(name(), "running_var", in[0], running_var);
    check(running_mean.defined() == running_var.defined(), name(), ": give both running_mean and running_var or none");
    for (const Tensor& running : {running_mean, running_var}) {
      check(!running || running.device() == in[0].device(), name(), ": running statistics must be on x's device: x is on ",
            in[0].device(), ", they are on ", running ? running.device() : Device{});
    }
    check(options.training || running_mean, name(), ": evaluation needs running_mean and running_var");
    check(options.eps >= 0, name(), ": eps must not be negative, got ", options.eps);
    check(options.momentum >= 0 && options.momentum <= 1, name(), ": momentum must be in [0, 1], got ",
          options.momentum);
    const Sizes s = sizes_of(in[0]);
    check(!options.training || s.batch * s.inner != 1, name(),
          ": training needs more than one value per channel, got x ", in[0].shape());
    return spec;
  }
  bool changes_state() const override { return options.training && running_mean; }
  Tensor forward(Inputs in, Saved& saved) const override {
    Tensor y = empty(infer(in), in[0].device());
    const Tensor x = contiguous_values(in[0]);
    const Sizes s = sizes_of(x);
    const Shape as3{s.batch, s.channels, s.inner};
    const Spec per_channel{{s.channels}, statistics_dtype(x)};
    const Tensor mean = empty(per_channel, x.device()), rstd = empty(per_channel, x.device());
    const Tensor weight = contiguous_or_absent(in[1]), bias = contiguous_or_absent(in[2]);
    if (options.training) {
      if (x.numel() != 0) {
        kernel::batch_norm_training(view_as(x, as3), weight, bias, view_as(y, as3), mean, rstd,
                                    {running_mean, running_var, options.eps, options.momentum});
        if (running_mean) bump_version(running_mean);
        if (running_var) bump_version(running_var);
      }
    } else {
      kernel::copy(running_mean, mean);
      kernel::fill(rstd, options.eps);
      kernel::add_into(running_var, rstd, 1);
      kernel::unary_forward<formulas::Rsqrt>(rstd, rstd, {});
      kernel::batch_norm(view_as(x, as3), mean, rstd, weight, bias, view_as(y, as3));
    }
    saved.save(x);
    saved.save(weight);
    saved.save(mean);
    saved.save(rstd);
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor x = saved[0], weight = saved[1], mean = saved[2], rstd = saved[3], grad = contiguous_values(dy);
    const Sizes s = sizes_of(x);
    const Shape as3{s.batch, s.channels, s.inner};
    Tensor dx, dweight, dbias;
    if (out.wanted(0)) dx = empty(x.spec(), x.device());
    if (out.wanted(1)) dweight = empty(mean.spec(), x.device());
    if (out.wanted(2)) dbias = empty(mean.spec(), x.device());
    if (!dx && !dweight && !dbias) return;
    kernel::batch_norm_backward(view_as(x, as3), mean, rstd, weight, view_as(grad, as3),
                                dx ? view_as(dx, as3) : TensorView{}, dweight, dbias, options.training);
    if (dx) out.put(0, dx);
    if (dweight) out.put(1, dweight);
    if (dbias) out.put(2, dbias);
  }
  Tensor reference(Inputs in) const override {
    Tensor y = zeros(in[0].shape(), {.dtype = DType::f64});
    const Sizes s = sizes_of(in[0]);
    const auto x = in[0].data<double>();
    const auto to = y.data<double>();
    const auto at = [&](std::int64_t b, std::int64_t c, std::int64_t i) {
      return static_cast<std::size_t>((b * s.channels + c) * s.inner + i);
    };
    for (std::int64_t c = 0; c < s.channels; ++c) {
      double mean = 0, variance = 0;
      const double count = static_cast<double>(s.batch * s.inner);
      for (std::int64_t b = 0; b < s.batch; ++b)
        for (std::int64_t i = 0; i < s.inner; ++i) mean += x[at(b, c, i)] / count;
      for (std::int64_t b = 0; b < s.batch; ++b)
        for (std::int64_t i = 0; i < s.inner; ++i) variance += std::pow(x[at(b, c, i)] - mean, 2) / count;
      if (!options.training) {
        mean = running_mean.at(c);
        variance = running_var.at(c);
      }
      for (std::int64_t b = 0; b < s.batch; ++b)
        for (std::int64_t i = 0; i < s.inner; ++i)
          to[at(b, c, i)] = (x[at(b, c, i)] - mean) / std::sqrt(variance + options.eps) * (in[1] ? in[1].at(c) : 1) +
                            (in[2] ? in[2].at(c) : 0);
    }
    return y;
  }
};

struct GroupNorm : Op {  // inputs x, weight, bias
  std::int64_t groups = 1;
  double eps = 1e-5;

  std::string_view name() const override { return "group_norm"; }
  Precision precision() const override { return Precision::full; }
  Spec infer(Inputs in) const override {
    const Spec spec = check_inputs(name(), in);
    check(groups > 0 && in[0].size(1) % groups == 0, name(), ": channels must be a multiple of groups: groups is ",
          groups, ", x is ", in[0].shape());
    check(eps >= 0, name(), ": eps must not be negative, got ", eps);
    return spec;
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    Tensor y = empty(infer(in), in[0].device());
    const Tensor x = contiguous_values(in[0]);
    const Sizes s = sizes_of(x);
    const Tensor weight = contiguous_or_absent(in[1]), bias = contiguous_or_absent(in[2]);
    const Spec per_group{{s.batch * groups}, statistics_dtype(x)};
    const Tensor mean = empty(per_group, x.device()), rstd = empty(per_group, x.device());
    saved.save(x);
    saved.save(weight);
    saved.save(mean);
    saved.save(rstd);
    if (x.numel() == 0) return y;
    kernel::batch_norm_statistics(view_as(x, {1, s.batch * groups, s.channels / groups * s.inner}), mean, {}, rstd,
                                  eps);
    const auto spread = [&](const Tensor& t, bool grouped) { return spread_out(t, grouped, s, per_group.dtype); };
    const Shape as_channels{1, s.batch * s.channels, s.inner};
    kernel::batch_norm(view_as(x, as_channels), spread(mean, true), spread(rstd, true), spread(weight, false),
                       spread(bias, false), view_as(y, as_channels));
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor x = saved[0], weight = saved[1], mean = saved[2], rstd = saved[3], grad = contiguous_values(dy);
    const Sizes s = sizes_of(x);
    const Device device = x.device();
    const DType dtype = mean.dtype();
    const Shape as_channels{1, s.batch * s.channels, s.inner};
    const Shape as_groups{s.batch * groups, s.channels / groups * s.inner};
    if (out.wanted(0)) {
      Tensor dx = empty(x.spec(), device);
      if (x.numel() != 0) {
        // dy weight, then layer norm's gradient over each group
        Tensor weighted = grad;
        if (weight) {
          weighted = empty(grad.spec(), device);
          const Tensor zero = empty({{s.batch * s.channels}, dtype}, device), one = empty(zero.spec(), device);
          kernel::fill(zero, 0);
          kernel::fill(one, 1);
          kernel::batch_norm(view_as(grad, as_channels), zero, one, spread_out(weight, false, s, dtype), {},
                             view_as(weighted, as_channels));
        }
        kernel::layer_norm_backward(view_as(x, as_groups), {}, mean, rstd, view_as(weighted, as_groups),
                                    view_as(dx, as_groups), {}, {}, {});
      }
      out.put(0, dx);
    }
    if (!out.wanted(1) && !out.wanted(2)) return;
    // per sample and channel first, then summed over the samples
    const Tensor dweight = zeros({s.batch * s.channels}, {.dtype = dtype, .device = device});
    const Tensor dbias = zeros({s.batch * s.channels}, {.dtype = dtype, .device = device});
    if (x.numel() != 0) {
      kernel::batch_norm_backward(view_as(x, as_channels), spread_out(mean, true, s, dtype),
                                  spread_out(rstd, true, s, dtype), {}, view_as(grad, as_channels), {}, dweight, dbias,
                                  true);
    }
    const auto deliver = [&](std::size_t input, const Tensor& partial) {
      if (!out.wanted(input)) return;
      const auto [target, accumulate] = out.target(input);
      kernel::sum(view_as(partial, {s.batch, s.channels}), view_as(target, {1, s.channels}), 1.0, accumulate);
    };
    deliver(1, dweight);
    deliver(2, dbias);
  }
  Tensor reference(Inputs in) const override {
    Tensor y = zeros(in[0].shape(), {.dtype = DType::f64});
    const Sizes s = sizes_of(in[0]);
    const auto x = in[0].data<double>();
    const auto to = y.data<double>();
    const std::int64_t n = s.channels / groups * s.inner;
    for (std::int64_t start = 0; start < in[0].numel(); start += n) {
      double mean = 0, variance = 0;
      for (std::int64_t i = 0; i < n; ++i) mean += x[static_cast<std::size_t>(start + i)] / static_cast<double>(n);
      for (std::int64_t i = 0; i < n; ++i) {
        variance += std::pow(x[static_cast<std::size_t>(start + i)] - mean, 2) / static_cast<double>(n);
      }
      for (std::int64_t i = start; i < start + n; ++i) {
        const std::int64_t channel = i / s.inner % s.channels;
        to[static_cast<std::size_t>(i)] =
            (x[static_cast<std::size_t>(i)] - mean) / std::sqrt(variance + eps) * (in[1] ? in[1].at(channel) : 1) +
            (in[2] ? in[2].at(channel) : 0);
      }
    }
    return y;
  }

 private:
  // One value per (sample, group) or per channel, repeated for every (sample, channel): [batch * channels].
  Tensor spread_out(const Tensor& from, bool grouped, const Sizes& s, DType dtype) const {
    if (!from) return {};
    Tensor to = empty({{s.batch * s.channels}, dtype}, from.device());
    TensorView source = from;
    source.shape = {s.batch, groups, s.channels / groups};
    source.strides = grouped ? Strides{groups, 1, 0} : Strides{0, s.channels / groups, 1};
    kernel::copy(source, view_as(to, source.shape));
    return to;
  }
};

}  // namespace

Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor running_mean, Tensor running_var,
                  BatchNormOptions options) {
  BatchNorm op;
  op.running_mean = std::move(running_mean);
  op.running_var = std::move(running_var);
  op.options = options;
  return run(op, {x, weight, bias});
}
Tensor group_norm(const Tensor& x, std::int64_t groups, const Tensor& weight, const Tensor& bias, double eps) {
  GroupNorm op;
  op.groups = groups;
  op.eps = eps;
  return run(op, {x, weight, bias});
}

namespace families {
std::vector<OpPtr> channel_norm_ops() { return {std::make_shared<BatchNorm>(), std::make_shared<GroupNorm>()}; }
}  // namespace families

}  // namespace binade
