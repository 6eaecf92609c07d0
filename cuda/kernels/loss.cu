// Cross-entropy of class indices, one block per row of logits in either direction.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/core/backend/kernels.h"
#include "binade/cuda/kernels/fault.h"
#include "binade/cuda/kernels/rows.h"

namespace binade::cuda {
namespace {

using kernel::CrossEntropyOptions;

// loss = (1 - s) (lse - x_t) + s (lse - mean x), each difference taken from the row's maximum. A target out of range is
// noted and gives NaN.
template <class C>
__global__ void cross_entropy_kernel(Rows<1, 0> rows, const std::int64_t* targets, C* loss, C* lse,
                                     CrossEntropyOptions options, IndexFault* fault) {
  SHARED(C, shared, max_warps);
  const std::int64_t target = targets[blockIdx.x];
  const bool ignored = target == options.ignore_index, known = target >= 0 && target < rows.n;
  if (threadIdx.x == 0) {
    loss[blockIdx.x] = lse[blockIdx.x] = C(0);
    if (!ignored && !known) {
      note_fault(fault, IndexUser::cross_entropy, blockIdx.x, target, rows.n);
      loss[blockIdx.x] = std::numeric_limits<C>::quiet_NaN();
    }
  }
  if (ignored || !known) return;  // the whole block
  const Rows<1, 0> row = rows.of_block();
  const C smoothing = static_cast<C>(options.label_smoothing);
  const C most = row_max<C>(row, shared);
  const C log_sum = log(row_exp_sum<C>(row, most, shared));
  C sum = 0;
  if (smoothing != C(0)) {
    row.read<C>([&](std::int64_t, const C* x) { sum += x[0]; });
    sum = reduce_block(sum, shared, Plus());
  }
  if (threadIdx.x != 0) return;
  const C at_target = row.in.of[0].get<C>(target);
  C row_loss = log_sum + (most - at_target);
  if (smoothing != C(0)) {
    const C spread = log_sum + (most - sum / static_cast<C>(rows.n));
    row_loss = (C(1) - smoothing) * row_loss + smoothing * spread;
  }
  loss[blockIdx.x] = row_loss;
  lse[blockIdx.x] = most + log_sum;
}

// dlogits = dloss (softmax - smoothed one-hot); dlogits may be logits itself.
template <class C>
__global__ void cross_entropy_backward_kernel(Rows<1, 1> rows, const std::int64_t* targets, const C* lse,
                                              const C* dloss, std::int64_t dloss_stride, CrossEntropyOptions options) {
  const Rows<1, 1> row = rows.of_block();
  const std::int64_t target = targets[blockIdx.x];
  const bool ignored = target == options.ignore_index;  // zero even where dloss is not finite: the mean over nothing
  const C grad = dloss[blockIdx.x * dloss_stride], row_lse = lse[blockIdx.x];
  const C smoothing = static_cast<C>(options.label_smoothing);
  const C uniform = static_cast<C>(options.label_smoothing / static_cast<double>(rows.n));
  row.for_each<C>([&](std::int64_t j, const C* x, C* dx) {
    // at the target softmax - 1 = expm1: no cancellation where the model is sure
    const C slope = j == target ? expm1(x[0] - row_lse) + (smoothing - uniform) : exp(x[0] - row_lse) - uniform;
    dx[0] = ignored ? C(0) : grad * slope;
  });
}

void fill_zero(const TensorView& x) {
  if (x.numel() > 0) kernel::fill(x, 0);
}

void cross_entropy(TensorView logits, TensorView targets, TensorView loss, TensorView lse,
                   CrossEntropyOptions options) {
  if (logits.numel() == 0) {  // without classes every target is ignored
    fill_zero(loss);
    return fill_zero(lse);
  }
  with_row_type(logits.dtype, "cross_entropy", [&]<class C>() {
    const auto rows = make_rows<C, 1, 0>(logits, {logits}, {}, logits.stride(0));
    launch(rows.config(logits.device), cross_entropy_kernel<C>, rows, targets.as<const std::int64_t>(), loss.as<C>(),
           lse.as<C>(), options, index_fault_of(logits.device));
  });
}

void cross_entropy_backward(TensorView logits, TensorView targets, TensorView lse, TensorView dloss, TensorView dlogits,
                            CrossEntropyOptions options) {
  if (logits.numel() == 0) return;
  with_row_type(logits.dtype, "cross_entropy", [&]<class C>() {
    const auto rows = make_rows<C, 1, 1>(logits, {logits}, {dlogits}, logits.stride(0));
    launch(rows.config(logits.device), cross_entropy_backward_kernel<C>, rows, targets.as<const std::int64_t>(),
           lse.as<const C>(), dloss.as<const C>(), dloss.stride(0), options);
  });
}

}  // namespace

void provide_loss();
void provide_loss() {
  kernel::cross_entropy.provide(DeviceType::cuda, cross_entropy);
  kernel::cross_entropy_backward.provide(DeviceType::cuda, cross_entropy_backward);
}

}  // namespace binade::cuda
