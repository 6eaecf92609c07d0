// binary_cross_entropy and its gradient. A kernel cannot throw: a p outside [0, 1] gives NaN, as
// one of the logarithms does.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/core/backend/binary_cross_entropy_kernels.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

template <class C>
__device__ __forceinline__ C at_least_minus_100(C x) {
  return x < C(-100) ? C(-100) : x;
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) forward_kernel(Operands<2, 1> o) {
  for_operands<C>(o, [](std::int64_t, const C* x, C* loss) {
    const C p = x[0], t = x[1];
    loss[0] = (t - C(1)) * at_least_minus_100<C>(log1p(-p)) - t * at_least_minus_100<C>(log(p));
  });
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) backward_kernel(Operands<3, 2> o) {
  for_operands<C>(o, [](std::int64_t, const C* x, C* y) {
    const C p = x[0], t = x[1], dy = x[2], spread = p * (C(1) - p);
    y[0] = dy * (p - t) / (spread < C(1e-12) ? C(1e-12) : spread);
    y[1] = dy * (at_least_minus_100<C>(log1p(-p)) - at_least_minus_100<C>(log(p)));
  });
}

template <class Run>
void in_compute_type(DType dtype, const Run& run) {
  if (dtype == DType::f64) return run.template operator()<double>();
  run.template operator()<float>();
}

void binary_cross_entropy(TensorView p, TensorView target, TensorView loss) {
  if (loss.numel() == 0) return;
  in_compute_type(p.dtype, [&]<class C>() {
    const auto o = operands<C, 2, 1>(loss.shape, {p, target}, {loss});
    launch(one_thread_each(o.threads(), p.device), forward_kernel<C>, o);
  });
}

void binary_cross_entropy_backward(TensorView p, TensorView target, TensorView dloss, TensorView dp,
                                   TensorView dtarget) {
  if (p.numel() == 0) return;
  in_compute_type(p.dtype, [&]<class C>() {
    const auto o = operands<C, 3, 2>(p.shape, {p, target, dloss}, {dp, dtarget});
    launch(one_thread_each(o.threads(), p.device), backward_kernel<C>, o);
  });
}

}  // namespace

void provide_binary_cross_entropy();
void provide_binary_cross_entropy() {
  kernel::binary_cross_entropy.provide(DeviceType::cuda, binary_cross_entropy);
  kernel::binary_cross_entropy_backward.provide(DeviceType::cuda, binary_cross_entropy_backward);
}

}  // namespace binade::cuda
