// Our own gradient of batch norm, with the arguments of its slot in kernels.h; cuda/libs/batch_norm_cudnn.cpp chooses.
#pragma once
#include "binade/core/backend/kernels.h"

namespace binade::cuda {

void own_batch_norm_backward(TensorView x, TensorView mean, TensorView rstd, TensorView weight, TensorView dy,
                             TensorView dx, TensorView dweight, TensorView dbias, bool training);

}  // namespace binade::cuda
