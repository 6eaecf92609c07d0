// Starting values of parameters, drawn from the library's random stream. All work in place, outside the graph.
#pragma once
#include <cstdint>

#include "binade/core/tensor/tensor.h"

namespace binade::nn::init {

struct Fans {  // inputs and outputs of one unit; weight is [out, in, kernel..]
  std::int64_t in, out;
};
Fans fans(const Tensor& weight);

Tensor uniform_(Tensor x, double low, double high);
Tensor normal_(Tensor x, double mean, double stddev);
Tensor constant_(Tensor x, double value);
// He et al. 2015: variance 2 / fan_in, for layers before a ReLU; `negative_slope` for a leaky one.
Tensor kaiming_uniform_(Tensor weight, double negative_slope = 0);
Tensor kaiming_normal_(Tensor weight, double negative_slope = 0);
// Glorot and Bengio 2010: variance 2 / (fan_in + fan_out).
Tensor xavier_uniform_(Tensor weight, double gain = 1);
Tensor xavier_normal_(Tensor weight, double gain = 1);

}  // namespace binade::nn::init
