// Gradient clipping, as torch.nn.utils: call after GradScaler::unscale_ and before the step. Or together with the step,
// which then reads the gradients as they are: clipped_step, and GradScaler::step with a max_norm.
#pragma once
#include "binade/core/optim/optimizer.h"

namespace binade::optim {

// Scales all gradients together so that their common Euclidean norm is at most max_norm. Returns the norm before
// clipping, [1] f32, on the gradients' device: reading it waits, clipping does not. Parameters without gradient count
// as zero.
Tensor clip_grad_norm_(const Tensors& params, double max_norm);
// Those of the optimizer's parameters; of a dist::ShardedOptimizer on all ranks.
Tensor clip_grad_norm_(Optimizer& optimizer, double max_norm);
// optimizer.step() with clipped gradients, and the norm before: gradients are read twice and keep their values. An
// optimizer without scales_gradients(), such as Muon, has them rewritten first.
Tensor clipped_step(Optimizer& optimizer, double max_norm);
// Clamps every gradient element to [-limit, limit].
void clip_grad_value_(const Tensors& params, double limit);

}  // namespace binade::optim
