// A training pass of batch norm by its parts: what a backend does that has no single kernel for it.
#pragma once
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"

namespace binade {

// running = (1 - momentum) running + weight new
inline void update_running(const TensorView& running, const TensorView& value, double momentum, double weight) {
  kernel::add_into(running, running, -momentum);
  kernel::add_into(value, running, weight);
}

inline void batch_norm_training_by_parts(TensorView x, TensorView weight, TensorView bias, TensorView y, TensorView mean,
                                         TensorView rstd, kernel::BatchNormTraining training) {
  const Scratch memory(static_cast<std::size_t>(x.size(1) * size_of(mean.dtype)), x.device);
  TensorView var = mean;
  var.data = memory.as<std::byte>();
  kernel::batch_norm_statistics(x, mean, var, rstd, training.eps);
  if (training.running_mean) {
    const double count = static_cast<double>(x.size(0) * x.size(2));
    update_running(training.running_mean, mean, training.momentum, training.momentum);
    update_running(training.running_var, var, training.momentum, training.momentum * (count / (count - 1)));
  }
  kernel::batch_norm(x, mean, rstd, weight, bias, y);
}

}  // namespace binade
