// Layers: operations with parameters. Starting values as in PyTorch, from the library's random stream; parameters are
// f32 on the CPU until Module::to moves them. Names of parameters are the members' names.
#pragma once
#include "binade/ops/nn/fp8.h"
#include "binade/ops/nn/module.h"
#include "binade/ops/ops.h"

namespace binade::nn {

struct LinearOptions {
  bool bias = true;
  Activation activation = Activation::none;  // computed in the same pass
};
struct Linear : Module {  // x [.., in] -> [.., out]
  Linear(std::int64_t in, std::int64_t out, LinearOptions options = {});
  Tensor operator()(const Tensor& x) const;  // in FP8 under autocast after use_fp8
  Tensor weight, bias;                       // [out, in], [out] or undefined
  Activation activation;
};

struct Conv2dSettings {
  Pair stride{1, 1}, padding{0, 0}, dilation{1, 1};
  std::int64_t groups = 1;
  bool bias = true;
  Activation activation = Activation::none;  // computed in the same pass
};
struct Conv2d : Module {  // x [batch, in, h, w]
  Conv2d(std::int64_t in, std::int64_t out, Pair kernel, Conv2dSettings settings = {});
  Conv2d(std::int64_t in, std::int64_t out, std::int64_t kernel, Conv2dSettings settings = {})
      : Conv2d(in, out, Pair{kernel, kernel}, settings) {}
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return conv2d(x, weight, bias, options);
  }
  Tensor weight, bias;  // [out, in / groups, kernel..], [out] or undefined
  Conv2dOptions options;
};

struct Conv1dSettings {
  std::int64_t stride = 1, padding = 0, dilation = 1, groups = 1;
  bool bias = true;
  Activation activation = Activation::none;
};
struct Conv1d : Module {  // x [batch, in, time]
  Conv1d(std::int64_t in, std::int64_t out, std::int64_t kernel, Conv1dSettings settings = {});
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return conv1d(x, weight, bias, options);
  }
  Tensor weight, bias;
  Conv1dOptions options;
};

struct LayerNormOptions {
  double eps = 1e-5;
  bool affine = true, bias = true;  // a weight, and with it a bias
};
struct OfSumOptions {
  double dropout = 0;  // of the branch, applied whenever it is not 0
  DType dtype = DType::f32;
};
struct LayerNorm : Module {  // over the last dims, `shape`
  explicit LayerNorm(const Shape& shape, LayerNormOptions options = {});
  explicit LayerNorm(std::int64_t n, LayerNormOptions options = {}) : LayerNorm(Shape{n}, options) {}
  // `dtype`: of the result of an f32 x, as in layer_norm()
  Tensor operator()(const Tensor& x, DType dtype = DType::f32) const {
    const ModuleScope inside = enter();
    return layer_norm(x, weight, bias, eps, dtype);
  }
  // residual + dropout(branch), an operation of the module around, and this norm of it, in one pass: add_layer_norm()
  NormedSum of_sum(const Tensor& residual, const Tensor& branch, OfSumOptions options = {}) const {
    return add_layer_norm(residual, branch, weight, bias,
                          {.dropout = options.dropout, .eps = eps, .dtype = options.dtype, .norm_module = place()});
  }
  Tensor weight, bias;
  double eps;
};

struct RMSNorm : Module {  // over the last dim
  explicit RMSNorm(std::int64_t n, double epsilon = 1e-6);
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return rms_norm(x, weight, eps);
  }
  NormedSum of_sum(const Tensor& residual, const Tensor& branch, double dropout = 0) const {  // as LayerNorm's
    return add_rms_norm(residual, branch, weight, {.dropout = dropout, .eps = eps, .norm_module = place()});
  }
  Tensor weight;
  double eps;
};

struct GroupNormOptions {
  double eps = 1e-5;
  bool affine = true;
};
struct GroupNorm : Module {  // x [batch, channels, ..]
  GroupNorm(std::int64_t group_count, std::int64_t channels, GroupNormOptions options = {});
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return group_norm(x, groups, weight, bias, eps);
  }
  Tensor weight, bias;
  std::int64_t groups;
  double eps;
};

struct BatchNormSettings {
  double momentum = 0.1, eps = 1e-5;
  bool affine = true, track_running_stats = true;
};
struct BatchNorm : Module {  // x [batch, channels, ..]; running statistics are f32 buffers, used by eval()
  BatchNorm(std::int64_t channels, BatchNormSettings settings, std::string_view name, int min_dims, int max_dims);
  Tensor operator()(const Tensor& x) const;
  Tensor weight, bias, running_mean, running_var;
  double momentum, eps;

 private:
  std::string_view name_;
  int min_dims_, max_dims_;
};
struct BatchNorm1d : BatchNorm {  // [batch, channels] or [batch, channels, time]
  explicit BatchNorm1d(std::int64_t channels, BatchNormSettings settings = {})
      : BatchNorm(channels, settings, "BatchNorm1d", 2, 3) {}
};
struct BatchNorm2d : BatchNorm {  // [batch, channels, h, w]
  explicit BatchNorm2d(std::int64_t channels, BatchNormSettings settings = {})
      : BatchNorm(channels, settings, "BatchNorm2d", 4, 4) {}
};

struct Embedding : Module {  // indices [..] -> [.., n]; starts as N(0, 1)
  Embedding(std::int64_t rows, std::int64_t n);
  Tensor operator()(const Tensor& indices) const {
    const ModuleScope inside = enter();
    return embedding(weight, indices);
  }
  Tensor weight;  // [rows, n]
};

struct Dropout : Module {
  explicit Dropout(double probability = 0.5);
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return p == 0 ? x : dropout(x, p, training());
  }
  double p;
};

struct Flatten : Module {
  explicit Flatten(std::int64_t first = 1, std::int64_t last = -1) : start(first), end(last) {}
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return x.flatten(start, end);
  }
  std::int64_t start, end;
};

struct ReLU : Module {
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return relu(x);
  }
};
struct LeakyReLU : Module {
  explicit LeakyReLU(double slope = 0.01) : negative_slope(slope) {}
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return leaky_relu(x, negative_slope);
  }
  double negative_slope;
};
struct GELU : Module {
  explicit GELU(Gelu form = Gelu::erf) : approximate(form) {}
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return gelu(x, approximate);
  }
  Gelu approximate;
};
struct SiLU : Module {
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return silu(x);
  }
};
struct Tanh : Module {
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return tanh(x);
  }
};
struct Sigmoid : Module {
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return sigmoid(x);
  }
};

struct MaxPool2d : Module {
  explicit MaxPool2d(Pool2dOptions settings) : options(settings) {}
  explicit MaxPool2d(std::int64_t kernel) : options{.kernel = {kernel, kernel}} {}
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return max_pool2d(x, options);
  }
  Pool2dOptions options;
};
struct AvgPool2d : Module {
  explicit AvgPool2d(Pool2dOptions settings) : options(settings) {}
  explicit AvgPool2d(std::int64_t kernel) : options{.kernel = {kernel, kernel}} {}
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    return avg_pool2d(x, options);
  }
  Pool2dOptions options;
};

}  // namespace binade::nn
