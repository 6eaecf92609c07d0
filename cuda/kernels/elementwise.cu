// Comparisons, where, fill, arange, y += alpha x, and copies between any dtypes and strides.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/cuda/kernels/formulas_cuda.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

template <class Formula, class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) compare_kernel(Operands<2, 1> o) {
  for_operands<C>(o, [](std::int64_t, const C* x, C* y) { y[0] = static_cast<C>(Formula::holds(x[0], x[1])); });
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) where_kernel(Operands<3, 1> o) {
  for_operands<C>(o, [](std::int64_t, const C* x, C* y) { y[0] = x[0] != C(0) ? x[1] : x[2]; });
}

// C holds the source exactly, so that the store rounds once.
template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) copy_kernel(Operands<1, 1> o) {
  for_operands<C>(o, [](std::int64_t, const C* x, C* y) { y[0] = x[0]; });
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) add_into_kernel(Operands<2, 1> o, C alpha) {
  for_operands<C>(o, [&](std::int64_t, const C* x, C* y) { y[0] = x[1] + alpha * x[0]; });
}

// start + i step; fill with step 0. Integers beyond 2^53 are as exact as their double.
__global__ void __launch_bounds__(block_threads, resident_blocks)
    arange_kernel(Operands<0, 1> o, double start, double step) {
  for_operands<double>(o,
                       [&](std::int64_t i, const double*, double* y) { y[0] = start + static_cast<double>(i) * step; });
}

template <class Formula>
void compare(TensorView a, TensorView b, TensorView y) {
  if (y.numel() == 0) return;
  with_exact_type(a.dtype, [&]<class C>() {
    const auto o = operands<C, 2, 1>(y.shape, {a, b}, {y});
    launch(one_thread_each(o.threads(), y.device), compare_kernel<Formula, C>, o);
  });
}

void where(TensorView condition, TensorView a, TensorView b, TensorView y) {
  if (y.numel() == 0) return;
  with_exact_type(y.dtype, [&]<class C>() {
    const auto o = operands<C, 3, 1>(y.shape, {condition, a, b}, {y});
    launch(one_thread_each(o.threads(), y.device), where_kernel<C>, o);
  });
}

void copy(TensorView source, TensorView y) {
  if (y.numel() == 0) return;
  if (source.dtype == y.dtype && source.is_contiguous() && y.is_contiguous()) {
    if (source.data == y.data) return;
    cuda_check(cudaMemcpyAsync(y.data, source.data, static_cast<std::size_t>(y.numel() * size_of(y.dtype)),
                               cudaMemcpyDeviceToDevice, stream_of(y.device)),
               "copy on the device");
    return;
  }
  with_exact_type(source.dtype, [&]<class C>() {
    const auto o = operands<C, 1, 1>(y.shape, {source}, {y});
    launch(one_thread_each(o.threads(), y.device), copy_kernel<C>, o);
  });
}

void add_into(TensorView x, TensorView y, double alpha) {
  check(is_floating(x.dtype) && is_floating(y.dtype), "add_into: needs floating dtypes, got ", x.dtype, " and ",
        y.dtype);
  if (y.numel() == 0) return;
  const auto run = [&]<class C>(C factor) {
    const auto o = operands<C, 2, 1>(y.shape, {x, y}, {y});
    launch(one_thread_each(o.threads(), y.device), add_into_kernel<C>, o, factor);
  };
  if (y.dtype == DType::f64 || x.dtype == DType::f64) return run(alpha);
  run(static_cast<float>(alpha));
}

void arange(TensorView y, double start, double step) {
  if (y.numel() == 0) return;
  const auto o = operands<double, 0, 1>(y.shape, {}, {y});
  launch(one_thread_each(o.threads(), y.device), arange_kernel, o, start, step);
}

void fill(TensorView y, double value) {
  if (value == 0 && !std::signbit(value) && y.is_contiguous()) {
    if (y.numel() == 0) return;
    cuda_check(cudaMemsetAsync(y.data, 0, static_cast<std::size_t>(y.numel() * size_of(y.dtype)), stream_of(y.device)),
               "fill with zeros");
    return;
  }
  arange(y, value, 0);
}

}  // namespace

void provide_elementwise();
void provide_elementwise() {
  formulas::for_each_compare(
      [&]<class Formula>() { kernel::compare<Formula>.provide(DeviceType::cuda, compare<Formula>); });
  kernel::where.provide(DeviceType::cuda, where);
  kernel::copy.provide(DeviceType::cuda, copy);
  kernel::add_into.provide(DeviceType::cuda, add_into);
  kernel::arange.provide(DeviceType::cuda, arange);
  kernel::fill.provide(DeviceType::cuda, fill);
}

}  // namespace binade::cuda
