// Random numbers: element i (row-major) is a function of (seed, offset, i) alone, the same as the CPU's. All but
// normal, whose logarithm and cosine may differ in the last bit of a double, agree bit for bit.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <algorithm>
#include <cmath>

#include "binade/core/backend/kernels.h"
#include "binade/cuda/kernels/draw.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

__global__ void __launch_bounds__(block_threads, resident_blocks)
    uniform_kernel(Operands<0, 1> o, Draw draw, double low, double width, double limit) {
  const PhiloxState state = draw.state();
  for_operands<double>(o, [&](std::int64_t i, const double*, double* y) {
    const double u = static_cast<double>(uniform_from_word(philox_word(state, static_cast<std::uint64_t>(i))));
    y[0] = fmin(limit, low + width * u);
  });
}

__global__ void __launch_bounds__(block_threads, resident_blocks)
    normal_kernel(Operands<0, 1> o, Draw draw, double mean, double stddev) {
  const PhiloxState state = draw.state();
  for_operands<double>(o, [&](std::int64_t i, const double*, double* y) {
    const auto word = 2 * static_cast<std::uint64_t>(i);
    const Philox4 words = philox(state, word / 4);
    const bool second = word % 4 != 0;
    const double u = (static_cast<double>(second ? words.x[2] : words.x[0]) + 1.0) * 0x1p-32;
    const double v = static_cast<double>(second ? words.x[3] : words.x[1]) * 0x1p-32;
    y[0] = mean + stddev * (sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v));
  });
}

__global__ void __launch_bounds__(block_threads, resident_blocks)
    randint_kernel(Operands<0, 1> o, Draw draw, std::int64_t low, std::uint64_t range) {
  const PhiloxState state = draw.state();
  for_operands<std::int64_t>(o, [&](std::int64_t i, const std::int64_t*, std::int64_t* y) {
    const std::uint64_t word = philox_word(state, static_cast<std::uint64_t>(i));
    y[0] = low + static_cast<std::int64_t>((word * range) >> 32);
  });
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    dropout_kernel(Operands<1, 1> o, Draw draw, double p, C scale) {
  const PhiloxState state = draw.state();
  for_operands<C>(o, [&](std::int64_t i, const C* x, C* y) {
    const float u = uniform_from_word(philox_word(state, static_cast<std::uint64_t>(i)));
    y[0] = static_cast<double>(u) >= p ? x[0] * scale : C(0);
  });
}

// The largest value of `dtype` below x, so that rounding cannot reach the excluded end of a range.
double value_below(double x, DType dtype) {
  if (!is_floating(dtype) || x == 0) return x;
  int exponent = 0;
  const double mantissa = std::frexp(x, &exponent);  // [1/2, 1): spacing is epsilon * 2^(exponent - 1)
  const double spacing = std::ldexp(epsilon(dtype), exponent - 1);
  return x - (mantissa == 0.5 ? spacing / 2 : spacing);
}

void uniform(TensorView y, PhiloxState state, double low, double high) {
  if (y.numel() == 0) return;
  const auto o = operands<double, 0, 1>(y.shape, {}, {y});
  launch(one_thread_each(o.threads(), y.device), uniform_kernel, o, draw_of(state, y.device), low, high - low,
         std::max(low, value_below(high, y.dtype)));
}

void normal(TensorView y, PhiloxState state, double mean, double stddev) {
  if (y.numel() == 0) return;
  const auto o = operands<double, 0, 1>(y.shape, {}, {y});
  launch(one_thread_each(o.threads(), y.device), normal_kernel, o, draw_of(state, y.device), mean, stddev);
}

void randint(TensorView y, PhiloxState state, std::int64_t low, std::int64_t high) {
  const auto range = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
  check(high > low && range <= (std::uint64_t{1} << 32), "randint: expected low < high and at most 2^32 values, got [",
        low, ", ", high, ")");
  if (y.numel() == 0) return;
  const auto o = operands<std::int64_t, 0, 1>(y.shape, {}, {y});
  launch(one_thread_each(o.threads(), y.device), randint_kernel, o, draw_of(state, y.device), low, range);
}

void dropout(TensorView x, TensorView y, PhiloxState state, double p) {
  if (y.numel() == 0) return;
  const auto run = [&]<class C>(C scale) {
    const auto o = operands<C, 1, 1>(y.shape, {x}, {y});
    launch(one_thread_each(o.threads(), y.device), dropout_kernel<C>, o, draw_of(state, y.device), p, scale);
  };
  if (x.dtype == DType::f64) return run(p < 1 ? 1 / (1 - p) : 0.0);
  run(p < 1 ? static_cast<float>(1 / (1 - p)) : 0.0F);
}

__global__ void store_advance_kernel(PhiloxState* target, PhiloxState value) {
  if (threadIdx.x == 0) *target = value;
}

}  // namespace

void store_draw_advance(PhiloxState* target, PhiloxState value, Device device) {
  launch({dim3(1), dim3(32), 0, stream_of(device)}, store_advance_kernel, target, value);
}

void provide_random();
void provide_random() {
  kernel::uniform.provide(DeviceType::cuda, uniform);
  kernel::normal.provide(DeviceType::cuda, normal);
  kernel::randint.provide(DeviceType::cuda, randint);
  kernel::dropout.provide(DeviceType::cuda, dropout);
}

}  // namespace binade::cuda
