// argmax and argmin: the index of the first extreme along the reduced dimensions; the first NaN counts as extreme.
// One block per output.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/core/backend/kernels.h"
#include "binade/cuda/kernels/block.h"
#include "binade/cuda/kernels/reduce_dims.h"

namespace binade::cuda {
namespace {

// Whether (value a, index i) comes before (value b, index j) in the search for the extreme.
template <bool largest, class C>
__device__ bool precedes(C a, std::int64_t i, C b, std::int64_t j) {
  const bool nan_a = a != a, nan_b = b != b;
  if (nan_a != nan_b) return nan_a;
  if (!nan_a && a != b) return largest ? a > b : a < b;
  return i < j;
}

template <class C, bool largest>
__global__ void __launch_bounds__(block_threads, resident_blocks) arg_reduce_kernel(Span x, ReduceDims dims, Span y) {
  SHARED(C, values, block_threads);
  SHARED(std::int64_t, indices, block_threads);
  const std::int64_t output = blockIdx.x;
  const Span row = x.from(dims.x_start(output));
  // Threads beyond the end start with a copy of element 0.
  std::int64_t index = threadIdx.x < dims.reduced.count ? threadIdx.x : 0;
  C value = row.get<C>(dims.x_step(index));
  for (std::int64_t i = threadIdx.x + blockDim.x; i < dims.reduced.count; i += blockDim.x) {
    const C candidate = row.get<C>(dims.x_step(i));
    if (!precedes<largest>(candidate, i, value, index)) continue;
    value = candidate;
    index = i;
  }
  values[threadIdx.x] = value;
  indices[threadIdx.x] = index;
  for (unsigned half = block_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x >= half) continue;
    const unsigned other = threadIdx.x + half;
    if (precedes<largest>(values[other], indices[other], values[threadIdx.x], indices[threadIdx.x])) {
      values[threadIdx.x] = values[other];
      indices[threadIdx.x] = indices[other];
    }
  }
  if (threadIdx.x == 0) y.set(dims.y_at(output), indices[0]);
}

template <bool largest>
void arg_reduce(TensorView x, TensorView y) {
  if (y.numel() == 0) return;
  check(x.numel() > 0, largest ? "argmax" : "argmin", ": no elements to reduce in shape ", x.shape);
  const ReduceDims dims = reduce_dims(x, y);
  const LaunchConfig config{dim3(static_cast<unsigned>(dims.kept.count)), dim3(block_threads), 0, stream_of(x.device)};
  with_exact_type(x.dtype,
                  [&]<class C>() { launch(config, arg_reduce_kernel<C, largest>, span_of(x), dims, span_of(y)); });
}

}  // namespace

void provide_arg_reduce();
void provide_arg_reduce() {
  kernel::argmax.provide(DeviceType::cuda, arg_reduce<true>);
  kernel::argmin.provide(DeviceType::cuda, arg_reduce<false>);
}

}  // namespace binade::cuda
