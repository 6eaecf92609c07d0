// Our own attention kernels, with the arguments of the slots in kernels.h; cuda/libs/attention_cudnn.cpp chooses.
#pragma once
#include "binade/core/backend/kernels.h"

namespace binade::cuda {

void own_attention(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
                   kernel::AttentionOptions options);
void own_attention_backward(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
                            TensorView d_o, TensorView dq, TensorView dk, TensorView dv,
                            kernel::AttentionOptions options);

}  // namespace binade::cuda
