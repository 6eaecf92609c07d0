// binary_cross_entropy on the CPU: f64 in double, everything else in float, rounded once on store.
#include <cmath>

#include "binade/core/backend/binary_cross_entropy_kernels.h"
#include "binade/ops/cpu/blocks.h"

namespace binade::cpu {
namespace {

template <class C>
C at_least_minus_100(C x) {
  return x < C(-100) ? C(-100) : x;
}

template <class C>
void forward(const TensorView& p, const TensorView& target, const TensorView& loss) {
  for_each_block<C, 2, 1>(loss.shape, {p, target}, {loss}, [](const auto& in, const auto& out, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      const C x = in[0][i], t = in[1][i];
      check(x >= 0 && x <= 1, "binary_cross_entropy: p must be in [0, 1], got ", static_cast<double>(x));
      out[0][i] = (t - 1) * at_least_minus_100(std::log1p(-x)) - t * at_least_minus_100(std::log(x));
    }
  });
}

template <class C>
void backward(const TensorView& p, const TensorView& target, const TensorView& dloss, const TensorView& dp,
              const TensorView& dtarget) {
  for_each_block<C, 3, 2>(p.shape, {p, target, dloss}, {dp, dtarget},
                          [](const auto& in, const auto& out, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      const C x = in[0][i], t = in[1][i], dy = in[2][i];
      out[0][i] = dy * (x - t) / std::max(x * (1 - x), C(1e-12));
      out[1][i] = dy * (at_least_minus_100(std::log1p(-x)) - at_least_minus_100(std::log(x)));
    }
  });
}

void binary_cross_entropy(TensorView p, TensorView target, TensorView loss) {
  p.dtype == DType::f64 ? forward<double>(p, target, loss) : forward<float>(p, target, loss);
}
void binary_cross_entropy_backward(TensorView p, TensorView target, TensorView dloss, TensorView dp,
                                   TensorView dtarget) {
  p.dtype == DType::f64 ? backward<double>(p, target, dloss, dp, dtarget)
                        : backward<float>(p, target, dloss, dp, dtarget);
}

}  // namespace

void provide_binary_cross_entropy();
void provide_binary_cross_entropy() {
  kernel::binary_cross_entropy.provide(DeviceType::cpu, binary_cross_entropy);
  kernel::binary_cross_entropy_backward.provide(DeviceType::cpu, binary_cross_entropy_backward);
}

}  // namespace binade::cpu
