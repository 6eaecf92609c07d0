// kernel::conv2d and its gradients: cuDNN's plans where they can do the call, else our own kernels.
#include <algorithm>

#include "binade/core/backend/kernels.h"
#include "binade/cuda/kernels/conv.h"
#include "binade/cuda/libs/cudnn_plans.h"
#include "binade/ops/formulas.h"

namespace binade::cuda {

namespace {

ConvGeometry geometry(const kernel::ConvOptions& o) {
  return {{o.stride[0], o.stride[1]}, {o.padding[0], o.padding[1]}, {o.dilation[0], o.dilation[1]}};
}

// Dims from the innermost outwards. A plan gets all its tensors without gaps in one of these orders. The library builds
// plans for others too and computes something else: on an H100, cuDNN 9.19 took a weight [out, in, kh, kw] that lay as
// [in, out, kh, kw] for one that lies in order.
using Order = std::array<std::size_t, 4>;
constexpr Order in_order{3, 2, 1, 0}, channels_innermost{1, 3, 2, 0};

PlanTensor laid_out(const TensorView& x, const Order& order) {
  PlanTensor tensor = plan_tensor(x);
  std::int64_t gapless = 1;
  for (const std::size_t d : order) {
    tensor.strides[d] = gapless;
    gapless *= tensor.dims[d];
  }
  return tensor;
}
bool lie(std::initializer_list<TensorView> tensors, const Order& order) {
  return std::ranges::all_of(tensors, [&](const TensorView& x) {
    const PlanTensor dense = laid_out(x, order);
    for (std::size_t d = 0; d < 4; ++d)
      if (dense.dims[d] != 1 && x.stride(static_cast<int>(d)) != dense.strides[d]) return false;
    return true;
  });
}

// Runs the plan that `spec(order)` describes, where the tensors, [., ., ., .] each, and the bias, if any, allow one;
// false: not done.
template <class Spec, std::size_t n>
bool done_by_plan(std::string_view op, std::initializer_list<TensorView> tensors, const TensorView& bias,
                  const Spec& spec, void* const (&pointers)[n]) {
  const Device device = tensors.begin()->device;
  std::string_view reason = why_not_plan(tensors);
  if (reason.empty() && bias) reason = why_not_plan({*tensors.begin(), bias});
  if (reason.empty() && bias && !bias.is_contiguous()) reason = "the bias is not contiguous";
  const bool ordered = lie(tensors, in_order);
  if (reason.empty() && !ordered && !lie(tensors, channels_innermost))
    reason = "the tensors lie neither all in order nor all with channels innermost, without gaps";
  if (reason.empty()) return run_plan(op, spec(ordered ? in_order : channels_innermost), device, pointers);
  trace_own_kernels(op, device, reason);
  return false;
}

void conv2d(TensorView x, TensorView weight, TensorView bias, TensorView y, kernel::ConvOptions options) {
  const auto done = [&](std::string_view op, bool relu) {
    const auto spec = [&](const Order& order) {
      return ConvForward{
          laid_out(x, order), laid_out(weight, order), bias ? plan_tensor_of_channels(bias) : PlanTensor{},
          laid_out(y, order), geometry(options),       relu};
    };
    return bias ? done_by_plan(op, {x, weight, y}, bias, spec, {x.data, weight.data, bias.data, y.data})
                : done_by_plan(op, {x, weight, y}, {}, spec, {x.data, weight.data, y.data});
  };
  if (options.relu && done("conv2d with relu", true)) return;
  if (done("conv2d", false)) {  // a plan for the convolution alone is still the faster road
    if (options.relu) kernel::unary_forward<formulas::Relu>(y, y, {});
    return;
  }
  own_conv2d(x, weight, bias, y, options);
}

void conv2d_backward_data(TensorView dy, TensorView weight, TensorView dx, kernel::ConvOptions options) {
  const auto spec = [&](const Order& order) {
    return ConvDataGradient{laid_out(dy, order), laid_out(weight, order), laid_out(dx, order), geometry(options)};
  };
  if (done_by_plan("conv2d_backward_data", {dy, weight, dx}, {}, spec, {dy.data, weight.data, dx.data})) return;
  own_conv2d_backward_data(dy, weight, dx, options);
}

void conv2d_backward_weight(TensorView x, TensorView dy, TensorView dweight, kernel::ConvOptions options) {
  const auto spec = [&](const Order& order) {
    return ConvWeightGradient{laid_out(x, order), laid_out(dy, order), laid_out(dweight, order), geometry(options)};
  };
  if (done_by_plan("conv2d_backward_weight", {x, dy, dweight}, {}, spec, {x.data, dy.data, dweight.data})) return;
  own_conv2d_backward_weight(x, dy, dweight, options);
}

}  // namespace

void provide_conv_cudnn();
void provide_conv_cudnn() {
  kernel::conv2d.provide(DeviceType::cuda, conv2d);
  kernel::conv2d_backward_data.provide(DeviceType::cuda, conv2d_backward_data);
  kernel::conv2d_backward_weight.provide(DeviceType::cuda, conv2d_backward_weight);
}

}  // namespace binade::cuda
