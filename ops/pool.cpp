// Max and average pooling over windows of [batch, channels, h, w].
#include <cmath>
#include <limits>

#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"

namespace binade {

namespace {

struct Pool : Op {
  Pool2dOptions options;

  Precision precision() const override { return Precision::as_is; }

  std::int64_t stride(int axis) const {
    const std::int64_t given = axis == 0 ? options.stride.first : options.stride.second;
    return given != 0 ? given : window(axis);
  }
  std::int64_t window(int axis) const { return axis == 0 ? options.kernel.first : options.kernel.second; }
  std::int64_t padding(int axis) const { return axis == 0 ? options.padding.first : options.padding.second; }

  kernel::PoolOptions kernel_options() const {
    return {{window(0), window(1)}, {stride(0), stride(1)}, {padding(0), padding(1)}, options.count_include_pad};
  }
  Spec infer(Inputs in) const override {
    const Tensor& x = in[0];
    check_float(name(), "x", x);
    check_dims(name(), "x", x, 4);
    Shape shape = x.shape();
    for (int axis = 0; axis < 2; ++axis) {
      check(window(axis) > 0 && stride(axis) > 0, name(), ": kernel and stride must be positive, got kernel ",
            window(axis), ", stride ", stride(axis));
      check(padding(axis) >= 0 && padding(axis) <= window(axis) / 2, name(),
            ": padding must be at least 0 and at most half the kernel, got ", padding(axis), " for kernel ", window(axis));
      const std::int64_t size = x.size(2 + axis) + 2 * padding(axis);
      check(size >= window(axis), name(), ": kernel ", window(axis), " is larger than the padded input ", size, ": x is ",
            x.shape());
      shape[2 + axis] = (size - window(axis)) / stride(axis) + 1;
    }
    return {shape, x.dtype()};
  }
  // y = result(window's first and last element inside x) by plain loops
  template <class Result>
  Tensor reference_windows(Inputs in, const Result& result) const {
    const Tensor x = contiguous_values(in[0]), y = empty(infer(in), x.device());
    const std::int64_t h = x.size(2), w = x.size(3), oh = y.size(2), ow = y.size(3);
    const auto xs = x.data<double>(), ys = y.data<double>();
    for (std::size_t o = 0; o < ys.size(); ++o) {
      const auto position = static_cast<std::int64_t>(o);
      const std::int64_t plane = position / (oh * ow), i = position / ow % oh, j = position % ow;
      std::vector<double> values;
      for (std::int64_t a = 0; a < window(0); ++a)
        for (std::int64_t b = 0; b < window(1); ++b) {
          const std::int64_t row = i * stride(0) + a - padding(0), column = j * stride(1) + b - padding(1);
          if (row >= 0 && row < h && column >= 0 && column < w)
            values.push_back(xs[static_cast<std::size_t>((plane * h + row) * w + column)]);
        }
      ys[o] = result(values);
    }
    return y;
  }
};

struct MaxPool2d : Pool {
  std::string_view name() const override { return "max_pool2d"; }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Tensor& x = in[0];
    const Tensor y = empty(infer(in), x.device());
    const Tensor index = empty(Spec{y.shape(), DType::i64}, x.device());
    if (y.numel() > 0) kernel::max_pool2d(x, y, index, kernel_options());
    saved.save(index);
    saved.save(x);
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor dx = empty(saved[1].shape(), {.dtype = dy.dtype(), .device = dy.device()});
    if (dx.numel() > 0) kernel::max_pool2d_backward(dy, saved[0], dx, kernel_options());
    out.put(0, dx);
  }
  Tensor reference(Inputs in) const override {
    return reference_windows(in, [](const std::vector<double>& values) {
      double best = -std::numeric_limits<double>::infinity();
      for (const double value : values)
        if (value > best || std::isnan(value)) best = value;
      return best;
    });
  }
};

struct AvgPool2d : Pool {
  std::string_view name() const override { return "avg_pool2d"; }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Tensor& x = in[0];
    const Tensor y = empty(infer(in), x.device());
    if (y.numel() > 0) kernel::avg_pool2d(x, y, kernel_options());
    saved.save(x);
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor dx = empty(saved[0].shape(), {.dtype = dy.dtype(), .device = dy.device()});
    if (dx.numel() > 0) kernel::avg_pool2d_backward(dy, dx, kernel_options());
    out.put(0, dx);
  }
  Tensor reference(Inputs in) const override {
    return reference_windows(in, [this](const std::vector<double>& values) {
      double sum = 0;
      for (const double value : values) sum += value;
      const auto count = options.count_include_pad ? static_cast<double>(window(0) * window(1))
                                                   : static_cast<double>(values.size());
      return sum / count;
    });
  }
};

}  // namespace

Tensor max_pool2d(const Tensor& x, Pool2dOptions options) {
  MaxPool2d op;
  op.options = options;
  return run(std::move(op), {x});
}
Tensor avg_pool2d(const Tensor& x, Pool2dOptions options) {
  AvgPool2d op;
  op.options = options;
  return run(std::move(op), {x});
}

namespace families {
std::vector<OpPtr> pool_ops() { return {std::make_shared<MaxPool2d>(), std::make_shared<AvgPool2d>()}; }
}  // namespace families

}  // namespace binade
