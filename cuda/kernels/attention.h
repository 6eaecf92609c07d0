// Our own attention kernels, with the arguments of the slots in kernels.h; cuda/libs/attention_cudnn.cpp chooses.
#pragma once
#include <span>

#include "binade/core/backend/kernels.h"

namespace binade::cuda {

void own_attention(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
                   kernel::AttentionOptions options);
void own_attention_backward(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
                            TensorView d_o, TensorView dq, TensorView dk, TensorView dv,
                            kernel::AttentionOptions options);

struct BeyondLengths {
  TensorView x, lengths;  // [batch, heads, time, d] with the last dim contiguous, or [batch, heads, time]; i32 [batch]
  float value = 0;
};
// x[b, :, i] = value for every i from lengths[b] on; three tensors at most, in one launch.
void clear_beyond(std::span<const BeyondLengths> tensors);

}  // namespace binade::cuda
