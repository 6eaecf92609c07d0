// kernel::conv2d and its gradients: cuDNN's plans where they can do the call, else our own kernels.
#include "binade/core/backend/kernels.h"
#include "binade/cuda/kernels/conv.h"
#include "binade/cuda/libs/cudnn_plans.h"
#include "binade/ops/formulas.h"

namespace binade::cuda {

namespace {

ConvGeometry geometry(const kernel::ConvOptions& o) {
  return {{o.stride[0], o.stride[1]}, {o.padding[0], o.padding[1]}, {o.dilation[0], o.dilation[1]}};
}

// Runs the plan that `spec()` describes, where the tensors allow one; false: not done.
template <class Spec, std::size_t n>
bool done_by_plan(std::string_view op, std::initializer_list<TensorView> tensors, const Spec& spec,
                  void* const (&pointers)[n]) {
  const Device device = tensors.begin()->device;
  const std::string_view reason = why_not_plan(tensors);
  if (reason.empty()) return run_plan(op, spec(), device, pointers);
  trace_own_kernels(op, device, reason);
  return false;
}

void conv2d(TensorView x, TensorView weight, TensorView bias, TensorView y, kernel::ConvOptions options) {
  const auto done = [&](std::string_view op, bool relu) {
    const auto spec = [&] {
      return ConvForward{plan_tensor(x), plan_tensor(weight), bias ? plan_tensor_of_channels(bias) : PlanTensor{},
                         plan_tensor(y), geometry(options),   relu};
    };
    return bias ? done_by_plan(op, {x, weight, bias, y}, spec, {x.data, weight.data, bias.data, y.data})
                : done_by_plan(op, {x, weight, y}, spec, {x.data, weight.data, y.data});
  };
  if (options.relu && done("conv2d with relu", true)) return;
  if (done("conv2d", false)) {  // a plan for the convolution alone is still the faster road
    if (options.relu) kernel::unary_forward<formulas::Relu>(y, y, {});
    return;
  }
  own_conv2d(x, weight, bias, y, options);
}

void conv2d_backward_data(TensorView dy, TensorView weight, TensorView dx, kernel::ConvOptions options) {
  const auto spec = [&] {
    return ConvDataGradient{plan_tensor(dy), plan_tensor(weight), plan_tensor(dx), geometry(options)};
  };
  if (done_by_plan("conv2d_backward_data", {dy, weight, dx}, spec, {dy.data, weight.data, dx.data})) return;
  own_conv2d_backward_data(dy, weight, dx, options);
}

void conv2d_backward_weight(TensorView x, TensorView dy, TensorView dweight, kernel::ConvOptions options) {
  const auto spec = [&] {
    return ConvWeightGradient{plan_tensor(x), plan_tensor(dy), plan_tensor(dweight), geometry(options)};
  };
  if (done_by_plan("conv2d_backward_weight", {x, dy, dweight}, spec, {x.data, dy.data, dweight.data})) return;
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
