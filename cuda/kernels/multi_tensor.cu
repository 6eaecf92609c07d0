// Many gradients at once: unscale, global norm, clipping, sums. One pass over memory.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <cmath>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/cuda/kernels/block.h"
#include "binade/cuda/kernels/multi_tensor.h"

namespace binade::cuda {
namespace {

struct Gradient {
  Span values;
  std::int64_t count;
};
constexpr int gradients_per_launch = 16;
using Gradients = ItemTable<Gradient, gradients_per_launch>;

// body(g) -> what g becomes, for the elements of this block's chunk.
template <class C, class Body>
__device__ __forceinline__ void change_chunk(const Gradients& gradients, const Body& body) {
  const Chunk chunk = chunk_of_block(gradients);
  const Spans<1> values{{gradients.items[chunk.item].values.from(chunk.begin)}};
  for_elements<C>(values, values, chunk.size, can_use_vectors<C>(values), threadIdx.x, blockDim.x,
                  [&](std::int64_t, const C* x, C* y) { y[0] = body(x[0]); });
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    unscale_kernel(Gradients gradients, const float* scale, float* found_inf) {
  const C inverse = static_cast<C>(static_cast<float>(1 / static_cast<double>(*scale)));  // one rounding
  int bad = 0;
  change_chunk<C>(gradients, [&](C g) {
    bad |= !isfinite(g);
    return g * inverse;
  });
  if (__syncthreads_or(bad) && threadIdx.x == 0) atomicExch(found_inf, 1.0F);
}

// squares[block]. In double: a float's square may leave the range of floats.
template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) squares_kernel(Gradients gradients, double* squares) {
  SHARED(double, shared, max_warps);
  const Chunk chunk = chunk_of_block(gradients);
  const Spans<1> values{{gradients.items[chunk.item].values.from(chunk.begin)}};
  double sum = 0;
  for_elements<C>(values, Spans<0>(), chunk.size, can_use_vectors<C>(values), threadIdx.x, blockDim.x,
                  [&](std::int64_t, const C* x, C*) { sum += static_cast<double>(x[0]) * static_cast<double>(x[0]); });
  sum = reduce_block(sum, shared, Plus());
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(block_threads, resident_blocks)
    root_of_sum_kernel(const double* squares, std::int64_t count, Span norm) {
  SHARED(double, shared, max_warps);
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += squares[i];
  sum = reduce_block(sum, shared, Plus());
  if (threadIdx.x == 0) norm.set(0, sqrt(sum));
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    clip_by_norm_kernel(Gradients gradients, Span norm, double max_norm) {
  const double factor = max_norm / (norm.get<double>(0) + 1e-6);
  if (factor >= 1) return;  // a NaN goes on into the gradients, as in PyTorch
  change_chunk<C>(gradients, [&](C g) { return multiply_add(g, static_cast<C>(factor), C(0)); });
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) clip_by_value_kernel(Gradients gradients, C limit) {
  change_chunk<C>(gradients, [&](C g) { return g > limit ? limit : g < -limit ? -limit : g; });
}

struct Summand {
  Span x, y;
  std::int64_t count;
};
constexpr int sums_per_launch = 10;
using Summands = ItemTable<Summand, sums_per_launch>;
template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) add_all_kernel(Summands sums) {
  const Chunk chunk = chunk_of_block(sums);
  const Summand& item = sums.items[chunk.item];
  const Spans<2> in{{item.x.from(chunk.begin), item.y.from(chunk.begin)}};
  for_elements<C>(in, Spans<1>{{in.of[1]}}, chunk.size, can_use_vectors<C>(in), threadIdx.x, blockDim.x,
                  [](std::int64_t, const C* x, C* y) { y[0] = x[1] + x[0]; });
}

// run.template operator()<C>(gradients) with the gradients whose arithmetic is done in C = float, then double.
template <class Run>
void by_compute_type(std::span<const kernel::GradItem> items, const char* what, const Run& run) {
  std::vector<Gradient> single, wide;
  for (const kernel::GradItem& item : items) {
    check(is_arithmetic_float(item.grad.dtype), what, ": expected f64, f32, f16 or bf16, got ", item.grad.dtype);
    (item.grad.dtype == DType::f64 ? wide : single).push_back({span_of(item.grad), item.grad.numel()});
  }
  run.template operator()<float>(single);
  run.template operator()<double>(wide);
}

void unscale(std::span<const kernel::GradItem> items, TensorView scale, TensorView found_inf) {
  const Device device = device_of(items);
  by_compute_type(items, "unscale", [&]<class C>(const std::vector<Gradient>& gradients) {
    for_tables<gradients_per_launch>(gradients, device, [&](const Gradients& table, const LaunchConfig& config, std::size_t) {
      launch(config, unscale_kernel<C>, table, scale.as<const float>(), found_inf.as<float>());
    });
  });
}

void global_norm(std::span<const kernel::GradItem> items, TensorView norm) {
  const Device device = device_of(items);
  std::int64_t chunks = 0, used = 0;
  for (const kernel::GradItem& item : items) chunks += (item.grad.numel() + chunk_elements - 1) / chunk_elements;
  const Scratch squares(static_cast<std::size_t>(chunks + 1) * sizeof(double), device);
  by_compute_type(items, "global_norm", [&]<class C>(const std::vector<Gradient>& gradients) {
    for_tables<gradients_per_launch>(gradients, device, [&](const Gradients& table, const LaunchConfig& config, std::size_t) {
      launch(config, squares_kernel<C>, table, squares.as<double>() + used);
      used += config.grid.x;
    });
  });
  launch(one_thread_each(1, device), root_of_sum_kernel, static_cast<const double*>(squares.as<double>()), used,
         span_of(norm));
}

void clip_by_norm(std::span<const kernel::GradItem> items, TensorView norm, double max_norm) {
  const Device device = device_of(items);
  by_compute_type(items, "clip_by_norm", [&]<class C>(const std::vector<Gradient>& gradients) {
    for_tables<gradients_per_launch>(gradients, device, [&](const Gradients& table, const LaunchConfig& config, std::size_t) {
      launch(config, clip_by_norm_kernel<C>, table, span_of(norm), max_norm);
    });
  });
}

void clip_by_value(std::span<const kernel::GradItem> items, double limit) {
  const Device device = device_of(items);
  by_compute_type(items, "clip_by_value", [&]<class C>(const std::vector<Gradient>& gradients) {
    for_tables<gradients_per_launch>(gradients, device, [&](const Gradients& table, const LaunchConfig& config, std::size_t) {
      launch(config, clip_by_value_kernel<C>, table, static_cast<C>(limit));
    });
  });
}

void add_all(std::span<const kernel::SumItem> items) {
  const Device device = device_of(items);
  std::vector<Summand> single, wide;
  for (const kernel::SumItem& item : items) {
    check(is_arithmetic_float(item.x.dtype) && is_arithmetic_float(item.y.dtype),
          "add_all: expected f64, f32, f16 or bf16, got ", item.x.dtype, " and ", item.y.dtype);
    (item.y.dtype == DType::f64 || item.x.dtype == DType::f64 ? wide : single)
        .push_back({span_of(item.x), span_of(item.y), item.y.numel()});
  }
  const auto run = [&]<class C>(const std::vector<Summand>& sums) {
    for_tables<sums_per_launch>(sums, device, [&](const Summands& table, const LaunchConfig& config, std::size_t) {
      launch(config, add_all_kernel<C>, table);
    });
  };
  run.template operator()<float>(single);
  run.template operator()<double>(wide);
}

}  // namespace

void provide_multi_tensor();
void provide_multi_tensor() {
  kernel::unscale.provide(DeviceType::cuda, unscale);
  kernel::global_norm.provide(DeviceType::cuda, global_norm);
  kernel::clip_by_norm.provide(DeviceType::cuda, clip_by_norm);
  kernel::clip_by_value.provide(DeviceType::cuda, clip_by_value);
  kernel::add_all.provide(DeviceType::cuda, add_all);
}

}  // namespace binade::cuda
