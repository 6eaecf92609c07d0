// Gradient clipping by norm and by value.
#include "binade/core/optim/clip.h"

#include <vector>

#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::optim {
namespace {

std::vector<kernel::GradItem> grads_of(const Tensors& params, const char* op) {
  std::vector<kernel::GradItem> items;
  Device device;
  for (const Tensor& param : params) {
    check(param.defined(), op, ": a parameter is undefined");
    const Tensor grad = param.grad();
    if (!grad) continue;
    check(grad.is_contiguous(), op, ": gradients must be contiguous, got one of shape ", grad.shape(), " that is not");
    if (items.empty()) device = grad.device();
    check(grad.device() == device, op, ": gradients must lie on one device, got ", to_text(device), " and ",
          to_text(grad.device()));
    items.push_back({grad});
  }
  return items;
}
void bump_versions(const Tensors& params) {
  for (const Tensor& param : params) {
    if (const Tensor grad = param.grad()) bump_version(grad);
  }
}

}  // namespace

Tensor clip_grad_norm_(const Tensors& params, double max_norm) {
  check(max_norm > 0, "clip_grad_norm_: max_norm must be positive, got ", max_norm);
  const std::vector<kernel::GradItem> items = grads_of(params, "clip_grad_norm_");
  if (items.empty()) return zeros({1});
  Tensor norm = empty({{1}, DType::f32}, items.front().grad.device);
  kernel::inspect_gradients(items, {}, norm, {});
  kernel::clip_by_norm(items, norm, max_norm);
  bump_versions(params);
  return norm;
}

Tensor clip_grad_norm_(Optimizer& optimizer, double max_norm) {
  check(max_norm > 0, "clip_grad_norm_: max_norm must be positive, got ", max_norm);
  const Tensors params = optimizer.params();
  const std::vector<kernel::GradItem> items = grads_of(params, "clip_grad_norm_");
  const Tensor norm = empty({{1}, DType::f32}, params.front().device());
  optimizer.inspect_gradients({}, norm, {});
  if (!items.empty()) kernel::clip_by_norm(items, norm, max_norm);
  bump_versions(params);
  return norm;
}

Tensor clipped_step(Optimizer& optimizer, double max_norm) {
  check(max_norm > 0, "clipped_step: max_norm must be positive, got ", max_norm);
  Tensor norm;
  if (!optimizer.scales_gradients()) {
    norm = clip_grad_norm_(optimizer, max_norm);
    optimizer.step();
    return norm;
  }
  const Device device = optimizer.params().front().device();
  norm = empty({{1}, DType::f32}, device);
  optimizer.inspect_gradients({}, norm, {});
  const Tensor grad_scale = empty({{1}, DType::f64}, device);
  kernel::gradient_scale(grad_scale, {}, norm, max_norm);
  optimizer.step({}, grad_scale);
  return norm;
}

void clip_grad_value_(const Tensors& params, double limit) {
  check(limit > 0, "clip_grad_value_: limit must be positive, got ", limit);
  const std::vector<kernel::GradItem> items = grads_of(params, "clip_grad_value_");
  if (items.empty()) return;
  kernel::clip_by_value(items, limit);
  bump_versions(params);
}

}  // namespace binade::optim
