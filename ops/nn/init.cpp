#include "binade/ops/nn/init.h"

#include <cmath>

#include "binade/core/tensor/grad_mode.h"

namespace binade::nn::init {

Fans fans(const Tensor& weight) {
  check(weight.dim() >= 2, "init: fans need a weight of at least 2 dimensions, got ", weight.shape());
  std::int64_t kernel = 1;
  for (int d = 2; d < weight.dim(); ++d) kernel *= weight.size(d);
  return {weight.size(1) * kernel, weight.size(0) * kernel};
}

Tensor uniform_(Tensor x, double low, double high) {
  const NoGrad guard;
  return x.uniform_(low, high);
}

Tensor normal_(Tensor x, double mean, double stddev) {
  const NoGrad guard;
  return x.normal_(mean, stddev);
}

Tensor constant_(Tensor x, double value) {
  const NoGrad guard;
  return x.fill_(value);
}

namespace {
double kaiming_stddev(const Tensor& weight, double slope) {
  return std::sqrt(2.0 / (1.0 + slope * slope) / static_cast<double>(fans(weight).in));
}
double xavier_stddev(const Tensor& weight, double gain) {
  const Fans f = fans(weight);
  return gain * std::sqrt(2.0 / static_cast<double>(f.in + f.out));
}
Tensor uniform_of_stddev(Tensor x, double stddev) {  // U(-b, b) has standard deviation b / sqrt(3)
  const double bound = std::sqrt(3.0) * stddev;
  return uniform_(x, -bound, bound);
}
}  // namespace

Tensor kaiming_uniform_(Tensor weight, double negative_slope) {
  return uniform_of_stddev(weight, kaiming_stddev(weight, negative_slope));
}
Tensor kaiming_normal_(Tensor weight, double negative_slope) {
  return normal_(weight, 0, kaiming_stddev(weight, negative_slope));
}
Tensor xavier_uniform_(Tensor weight, double gain) { return uniform_of_stddev(weight, xavier_stddev(weight, gain)); }
Tensor xavier_normal_(Tensor weight, double gain) { return normal_(weight, 0, xavier_stddev(weight, gain)); }

}  // namespace binade::nn::init
