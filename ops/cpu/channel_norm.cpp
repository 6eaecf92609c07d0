// A training pass of batch norm on the CPU: its parts, whose kernels are in norm.cpp.
#include "binade/core/backend/batch_norm_parts.h"

namespace binade::cpu {
namespace {

void batch_norm_training(TensorView x, TensorView weight, TensorView bias, TensorView y, TensorView mean,
                         TensorView rstd, kernel::BatchNormTraining training) {
  batch_norm_training_by_parts(x, weight, bias, y, mean, rstd, training);
}

}  // namespace

void provide_channel_norm() { kernel::batch_norm_training.provide(DeviceType::cpu, batch_norm_training); }

}  // namespace binade::cpu
