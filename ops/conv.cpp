// Convolution and transposed convolution, in two dimensions; one dimension is a height of 1.
#include <algorithm>

#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/formulas.h"
#include "binade/ops/linear_parts.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"

namespace binade {

namespace {

struct Convolution : Op {
  Conv2dOptions options;

  Precision precision() const override { return Precision::low; }

  kernel::ConvOptions kernel_options() const {
    return {{options.stride.first, options.stride.second},
            {options.padding.first, options.padding.second},
            {options.dilation.first, options.dilation.second},
            options.groups};
  }
  void check_inputs(Inputs in) const {
    const Tensor &x = in[0], &weight = in[1], &bias = in[2];
    check_float(name(), "x", x);
    check_float(name(), "weight", weight);
    check_same_dtype(name(), "x", x, "weight", weight);
    check_dims(name(), "x", x, 4);
    check_dims(name(), "weight", weight, 4);
    check(options.stride.first > 0 && options.stride.second > 0, name(), ": stride must be positive, got ",
          options.stride.first, ", ", options.stride.second);
    check(options.dilation.first > 0 && options.dilation.second > 0, name(), ": dilation must be positive, got ",
          options.dilation.first, ", ", options.dilation.second);
    check(options.padding.first >= 0 && options.padding.second >= 0, name(), ": padding must not be negative, got ",
          options.padding.first, ", ", options.padding.second);
    check(options.groups > 0, name(), ": groups must be positive, got ", options.groups);
    check(weight.size(2) > 0 && weight.size(3) > 0, name(), ": the kernel must not be empty, weight is ", weight.shape());
    if (bias) check_same_dtype(name(), "x", x, "bias", bias);
  }
  void check_bias(const Tensor& bias, std::int64_t channels) const {
    check(!bias || (bias.dim() == 1 && bias.size(0) == channels), name(), ": bias must be [", channels, "], got ",
          bias ? bias.shape() : Shape());
  }
  static std::int64_t extent(std::int64_t kernel, std::int64_t dilation) { return dilation * (kernel - 1) + 1; }

  static void put_bias(Gradients& out, const Tensor& dy) {
    const auto [dbias, accumulate] = out.target(2);
    TensorView view = dbias;
    view.shape = {1, dy.size(1), 1, 1};
    view.strides = contiguous_strides(view.shape);
    kernel::sum(dy, view, 1, accumulate);
  }
  // dweight straight where it belongs, unless it is added to what is there
  void put_weight(Gradients& out, const Tensor& x, const Tensor& dy) const {
    const auto [dweight, accumulate] = out.target(1);
    const Tensor fresh = accumulate ? empty_like(dweight) : dweight;
    kernel::conv2d_backward_weight(x, dy, fresh, kernel_options());
    if (accumulate) kernel::add_into(fresh, dweight, 1);
  }
};

struct Conv2d : Convolution {
  std::string_view name() const override { return "conv2d"; }

  Spec infer(Inputs in) const override {
    check_inputs(in);
    const Tensor &x = in[0], &weight = in[1];
    check(x.size(1) == weight.size(1) * options.groups && weight.size(0) % options.groups == 0, name(),
          ": weight must be [out, channels / groups, kh, kw] with out a multiple of groups: x is ", x.shape(),
          ", weight is ", weight.shape(), ", groups ", options.groups);
    check_bias(in[2], weight.size(0));
    const auto size = [&](int dim, std::int64_t stride, std::int64_t padding, std::int64_t dilation) {
      const std::int64_t available = x.size(dim) + 2 * padding, needed = extent(weight.size(dim), dilation);
      check(available >= needed, name(), ": the kernel (", needed, ") is larger than the padded input (", available,
            "): x is ", x.shape(), ", weight is ", weight.shape());
      return (available - needed) / stride + 1;
    };
    return {{x.size(0), weight.size(0), size(2, options.stride.first, options.padding.first, options.dilation.first),
             size(3, options.stride.second, options.padding.second, options.dilation.second)},
            x.dtype()};
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    // relu's gradient can be told from its result; the others need what they are taken of
    const bool relu = options.activation == Activation::relu, none = options.activation == Activation::none;
    const Tensor pre = empty(infer(in), in[0].device()), y = none || relu ? pre : empty_like(pre);
    kernel::ConvOptions chosen = kernel_options();
    chosen.relu = relu;
    kernel::conv2d(in[0], in[1], in[2], pre, chosen);
    if (!relu) activate(options.activation, pre, y);
    saved.save(in[0]);
    saved.save(in[1]);
    if (!none) saved.save(pre);
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor x = saved[0], weight = saved[1];
    const Tensor dpre = activated_backward(options.activation, saved, 2, dy);
    if (out.wanted(0)) {
      const Tensor dx = empty(x.spec(), x.device());
      kernel::conv2d_backward_data(dpre, weight, dx, kernel_options());
      out.put(0, dx);
    }
    if (out.wanted(1)) put_weight(out, x, dpre);
    if (out.wanted(2)) put_bias(out, dpre);
  }
  Tensor reference(Inputs in) const override {
    const Tensor x = contiguous_values(in[0]), weight = contiguous_values(in[1]), y = empty(infer(in), x.device());
    const std::int64_t filters = weight.size(0), channels = weight.size(1), kh = weight.size(2), kw = weight.size(3);
    const std::int64_t h = x.size(2), w = x.size(3), oh = y.size(2), ow = y.size(3), share = filters / options.groups;
    const auto xs = x.data<double>(), ws = weight.data<double>(), ys = y.data<double>();
    for (std::size_t o = 0; o < ys.size(); ++o) {
      const auto at = static_cast<std::int64_t>(o);
      const std::int64_t column = at % ow, row = at / ow % oh, filter = at / (ow * oh) % filters;
      const std::int64_t item = at / (ow * oh * filters), group = filter / share;
      double sum = in[2] ? in[2].at(filter) : 0.0;
      for (std::int64_t c = 0; c < channels; ++c)
        for (std::int64_t a = 0; a < kh; ++a)
          for (std::int64_t b = 0; b < kw; ++b) {
            const std::int64_t i = row * options.stride.first + a * options.dilation.first - options.padding.first;
            const std::int64_t j = column * options.stride.second + b * options.dilation.second - options.padding.second;
            if (i < 0 || i >= h || j < 0 || j >= w) continue;
            const std::int64_t channel = group * channels + c;
            sum += xs[static_cast<std::size_t>(((item * x.size(1) + channel) * h + i) * w + j)] *
                   ws[static_cast<std::size_t>(((filter * channels + c) * kh + a) * kw + b)];
          }
      ys[o] = reference_activation(options.activation, sum);
    }
    return y;
  }
};

// The gradient of a convolution with respect to its input, as an operation: weight [channels, out / groups, kh, kw].
struct ConvTranspose2d : Convolution {
  std::string_view name() const override { return "conv_transpose2d"; }

  Spec infer(Inputs in) const override {
    check_inputs(in);
    const Tensor &x = in[0], &weight = in[1];
    check(x.size(1) == weight.size(0) && x.size(1) % options.groups == 0, name(),
          ": weight must be [channels, out / groups, kh, kw] with channels a multiple of groups: x is ", x.shape(),
          ", weight is ", weight.shape(), ", groups ", options.groups);
    const std::int64_t channels = weight.size(1) * options.groups;
    check_bias(in[2], channels);
    const auto size = [&](int dim, std::int64_t stride, std::int64_t padding, std::int64_t dilation, std::int64_t extra) {
      check(extra >= 0 && extra < std::max(stride, dilation), name(),
            ": output_padding must be less than stride or dilation, got ", extra, " for stride ", stride, ", dilation ",
            dilation);
      const std::int64_t result = (x.size(dim) - 1) * stride - 2 * padding + extent(weight.size(dim), dilation) + extra;
      check(x.size(dim) > 0 && result > 0, name(), ": the output would be empty: x is ", x.shape(), ", weight is ",
            weight.shape(), ", padding ", padding);
      return result;
    };
    return {{x.size(0), channels,
             size(2, options.stride.first, options.padding.first, options.dilation.first, options.output_padding.first),
             size(3, options.stride.second, options.padding.second, options.dilation.second,
                  options.output_padding.second)},
            x.dtype()};
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Tensor& bias = in[2];
    const Spec spec = infer(in);
    const Tensor y = empty(spec, in[0].device());
    if (bias) {  // summed before the one rounding
      const DType sums = spec.dtype == DType::f64 ? DType::f64 : DType::f32;
      const Tensor product = empty(Spec{spec.shape, sums}, in[0].device());
      kernel::conv2d_backward_data(in[0], in[1], product, kernel_options());
      TensorView view = bias;
      view.shape = {1, bias.size(0), 1, 1};
      view.strides = {0, bias.strides()[0], 0, 0};
      const Tensor wide = empty(Spec{{1, bias.size(0), 1, 1}, sums}, in[0].device());
      kernel::copy(view, wide);
      TensorView added = wide;
      added.shape = spec.shape;
      added.strides = {0, 1, 0, 0};
      kernel::binary_forward<formulas::Add>(product, added, product);
      kernel::copy(product, y);
    } else {
      kernel::conv2d_backward_data(in[0], in[1], y, kernel_options());
    }
    saved.save(in[0]);
    saved.save(in[1]);
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor x = saved[0], weight = saved[1];
    if (out.wanted(0)) {
      const Tensor dx = empty(x.spec(), x.device());
      kernel::conv2d(dy, weight, {}, dx, kernel_options());
      out.put(0, dx);
    }
    if (out.wanted(1)) put_weight(out, dy, x);
    if (out.wanted(2)) put_bias(out, dy);
  }
  Tensor reference(Inputs in) const override {
    const Tensor x = contiguous_values(in[0]), weight = contiguous_values(in[1]), y = empty(infer(in), x.device());
    const std::int64_t channels = x.size(1), h = x.size(2), w = x.size(3), oh = y.size(2), ow = y.size(3);
    const std::int64_t filters = weight.size(1), kh = weight.size(2), kw = weight.size(3);
    const auto xs = x.data<double>(), ws = weight.data<double>(), ys = y.data<double>();
    for (std::size_t o = 0; o < ys.size(); ++o) {
      const auto plane = static_cast<std::int64_t>(o) / (oh * ow);
      ys[o] = in[2] ? in[2].at(plane % y.size(1)) : 0.0;
    }
    for (std::size_t s = 0; s < xs.size(); ++s) {  // every input element adds a scaled kernel to the output
      const auto at = static_cast<std::int64_t>(s);
      const std::int64_t column = at % w, row = at / w % h, channel = at / (w * h) % channels, item = at / (w * h * channels);
      const std::int64_t group = channel / (channels / options.groups);
      for (std::int64_t f = 0; f < filters; ++f)
        for (std::int64_t a = 0; a < kh; ++a)
          for (std::int64_t b = 0; b < kw; ++b) {
            const std::int64_t i = row * options.stride.first + a * options.dilation.first - options.padding.first;
            const std::int64_t j = column * options.stride.second + b * options.dilation.second - options.padding.second;
            if (i < 0 || i >= oh || j < 0 || j >= ow) continue;
            ys[static_cast<std::size_t>(((item * y.size(1) + group * filters + f) * oh + i) * ow + j)] +=
                xs[s] * ws[static_cast<std::size_t>(((channel * filters + f) * kh + a) * kw + b)];
          }
    }
    return y;
  }
};

template <class O>
Tensor run_convolution(const Tensor& x, const Tensor& weight, const Tensor& bias, const Conv2dOptions& options) {
  O op;
  op.options = options;
  return run(std::move(op), {x, weight, bias});
}

template <class O>
Tensor run_1d(std::string_view name, const Tensor& x, const Tensor& weight, const Tensor& bias,
              const Conv1dOptions& options) {
  check_defined(name, "x", x);
  check_defined(name, "weight", weight);
  check_dims(name, "x", x, 3);
  check_dims(name, "weight", weight, 3);
  const Conv2dOptions plane{{1, options.stride}, {0, options.padding}, {1, options.dilation}, options.groups,
                            {0, options.output_padding}, options.activation};
  try {
    return squeeze(run_convolution<O>(unsqueeze(x, 2), unsqueeze(weight, 2), bias, plane), 2);
  } catch (const Error& e) {
    fail({std::string(name), ": as a plane of height 1: ", e.what()});
  }
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, Conv2dOptions options) {
  check(options.output_padding == Pair{0, 0}, "conv2d: output_padding is for transposed convolution only");
  return run_convolution<Conv2d>(x, weight, bias, options);
}
Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias, Conv2dOptions options) {
  check(options.activation == Activation::none, "conv_transpose2d: activation is for conv2d only");
  return run_convolution<ConvTranspose2d>(x, weight, bias, options);
}
Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias, Conv1dOptions options) {
  check(options.output_padding == 0, "conv1d: output_padding is for transposed convolution only");
  return run_1d<Conv2d>("conv1d", x, weight, bias, options);
}
Tensor conv_transpose1d(const Tensor& x, const Tensor& weight, const Tensor& bias, Conv1dOptions options) {
  check(options.activation == Activation::none, "conv_transpose1d: activation is for conv1d only");
  return run_1d<ConvTranspose2d>("conv_transpose1d", x, weight, bias, options);
}

namespace families {
std::vector<OpPtr> conv_ops() { return {std::make_shared<Conv2d>(), std::make_shared<ConvTranspose2d>()}; }
}  // namespace families

}  // namespace binade
