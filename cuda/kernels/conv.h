// Our own convolution kernels, with the arguments of the slots in kernels.h; cuda/libs/conv_cudnn.cpp chooses.
#pragma once
#include "binade/core/backend/kernels.h"

namespace binade::cuda {

void own_conv2d(TensorView x, TensorView weight, TensorView bias, TensorView y, kernel::ConvOptions options);
void own_conv2d_backward_data(TensorView dy, TensorView weight, TensorView dx, kernel::ConvOptions options);
void own_conv2d_backward_weight(TensorView x, TensorView dy, TensorView dweight, kernel::ConvOptions options);

}  // namespace binade::cuda
