// Gradient clipping, as torch.nn.utils. Call after GradScaler::unscale_ and before the step.
#pragma once
#include "binade/core/tensor/tensor.h"

namespace binade::optim {

// Scales all gradients together so that their common Euclidean norm is at most max_norm. Returns the norm before
// clipping, [1] f32, on the gradients' device: reading it waits, clipping does not. Parameters without gradient count
// as zero.
Tensor clip_grad_norm_(const Tensors& params, double max_norm);
// Clamps every gradient element to [-limit, limit].
void clip_grad_value_(const Tensors& params, double limit);

}  // namespace binade::optim
