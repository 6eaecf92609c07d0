// Batch norm in training and its gradient: cuDNN's plans where they can do the call, else our own kernels. Both save
// the same mean and 1 / sqrt(variance + eps), so that the gradient may take the other road than its forward pass.
#include "binade/core/backend/batch_norm_parts.h"
#include "binade/cuda/kernels/batch_norm.h"
#include "binade/cuda/libs/cudnn_plans.h"

namespace binade::cuda {

namespace {

// Why the call is not for cuDNN, or nothing. Images and their gradients [outer, channels, inner]; the rest per channel.
std::string_view why_not(std::initializer_list<TensorView> images, std::initializer_list<TensorView> per_channel) {
  if (const std::string_view reason = why_not_plan(images, true); !reason.empty()) return reason;
  for (const TensorView& image : images)
    if (!image.is_contiguous()) return "images are not contiguous";
  const TensorView& x = *images.begin();
  if (x.size(1) * size_of(x.dtype) % 16 != 0) return "the channels are not a multiple of 8, in f32 of 4";
  for (const TensorView& one : per_channel) {
    if (one.dtype != DType::f32) return "parameters or statistics are not f32";
    if (!one.is_contiguous() || reinterpret_cast<std::uintptr_t>(one.data) % 16 != 0)
      return "parameters or statistics are not contiguous and aligned to 16 bytes";
  }
  return {};
}

bool forward_by_plan(const TensorView& x, const TensorView& weight, const TensorView& bias, const TensorView& y,
                     const TensorView& mean, const TensorView& rstd, const kernel::BatchNormTraining& t) {
  const bool running = static_cast<bool>(t.running_mean);
  const std::string_view reason = !weight || !bias ? "no weight or no bias"
                                  : running ? why_not({x, y}, {weight, bias, mean, rstd, t.running_mean, t.running_var})
                                            : why_not({x, y}, {weight, bias, mean, rstd});
  if (!reason.empty()) {
    trace_own_kernels("batch_norm", x.device, reason);
    return false;
  }
  const PlanTensor channels = plan_tensor_of_channels(mean), absent;
  BatchNormForward spec{plan_tensor(x), channels, channels, absent, absent, plan_tensor(y),
                        channels,       channels, absent,   absent, t.eps,  t.momentum};
  std::vector<void*> pointers{x.data, weight.data, bias.data};
  if (!running) {
    spec.momentum = 0;
    pointers.insert(pointers.end(), {y.data, mean.data, rstd.data});
    return run_plan("batch_norm", spec, x.device, pointers);
  }
  // Nowhere is it said that the library may write running statistics where it reads them.
  const auto bytes = static_cast<std::size_t>(x.size(1)) * sizeof(float);
  const Scratch next_mean(bytes, x.device), next_var(bytes, x.device);
  spec.running_mean = spec.running_var = spec.next_mean = spec.next_var = channels;
  pointers.insert(pointers.end(), {t.running_mean.data, t.running_var.data, y.data, mean.data, rstd.data,
                                   next_mean.as<void>(), next_var.as<void>()});
  if (!run_plan("batch_norm", spec, x.device, pointers)) return false;
  for (const auto& [next, target] : {std::pair{&next_mean, &t.running_mean}, std::pair{&next_var, &t.running_var}}) {
    TensorView source = *target;
    source.data = next->as<std::byte>();
    kernel::copy(source, *target);
  }
  return true;
}

void batch_norm_training(TensorView x, TensorView weight, TensorView bias, TensorView y, TensorView mean,
                         TensorView rstd, kernel::BatchNormTraining training) {
  if (!forward_by_plan(x, weight, bias, y, mean, rstd, training))
    batch_norm_training_by_parts(x, weight, bias, y, mean, rstd, training);
}

void batch_norm_backward(TensorView x, TensorView mean, TensorView rstd, TensorView weight, TensorView dy,
                         TensorView dx, TensorView dweight, TensorView dbias, bool training) {
  const std::string_view reason = !training ? "given statistics"
                                  : !weight ? "no weight"
                                  : !(dx && dweight && dbias)
                                      ? "not all gradients are wanted"
                                      : why_not({x, dy, dx}, {weight, mean, rstd, dweight, dbias});
  if (!reason.empty()) {
    trace_own_kernels("batch_norm_backward", x.device, reason);
  } else {
    const PlanTensor channels = plan_tensor_of_channels(mean);
    const BatchNormBackward spec{plan_tensor(dy), plan_tensor(x),  channels, channels,
                                 channels,        plan_tensor(dx), channels, channels};
    void* const pointers[] = {dy.data, x.data, weight.data, mean.data, rstd.data, dx.data, dweight.data, dbias.data};
    if (run_plan("batch_norm_backward", spec, x.device, pointers)) return;
  }
  own_batch_norm_backward(x, mean, rstd, weight, dy, dx, dweight, dbias, training);
}

}  // namespace

void provide_batch_norm_cudnn();
void provide_batch_norm_cudnn() {
  kernel::batch_norm_training.provide(DeviceType::cuda, batch_norm_training);
  kernel::batch_norm_backward.provide(DeviceType::cuda, batch_norm_backward);
}

}  // namespace binade::cuda
