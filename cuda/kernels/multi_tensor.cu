// Many gradients at once: unscale, norm and check, clipping, sums. One pass over memory.
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

__device__ __forceinline__ float inverse_of(const float* scale) {  // one rounding
  return scale ? static_cast<float>(1 / static_cast<double>(*scale)) : 1.0F;
}
__device__ __forceinline__ double clip_factor(double norm, double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  return factor >= 1 ? 1 : factor;  // a NaN goes on into the gradients, as in PyTorch
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    unscale_kernel(Gradients gradients, const float* scale, float* found_inf) {
  const C inverse = static_cast<C>(inverse_of(scale));
  int bad = 0;
  change_chunk<C>(gradients, [&](C g) {
    bad |= !isfinite(g);
    return g * inverse;
  });
  if (__syncthreads_or(bad) && threadIdx.x == 0) atomicExch(found_inf, 1.0F);
}

struct Part {      // of what a pass over the gradients finds: one block's
  double squares;  // in double: a float's square may leave the range of floats
  int bad;
};
template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    inspect_kernel(Gradients gradients, const float* scale, bool with_norm, Part* parts) {
  SHARED(double, shared, max_warps);
  const C inverse = static_cast<C>(inverse_of(scale));
  const Chunk chunk = chunk_of_block(gradients);
  const Spans<1> values{{gradients.items[chunk.item].values.from(chunk.begin)}};
  double sum = 0;
  int bad = 0;
  for_elements<C>(values, Spans<0>(), chunk.size, can_use_vectors<C>(values), threadIdx.x, blockDim.x,
                  [&](std::int64_t, const C* x, C*) {
                    bad |= !isfinite(x[0]);
                    if (!with_norm) return;
                    const double g = static_cast<double>(x[0] * inverse);
                    sum += g * g;
                  });
  if (with_norm) sum = reduce_block(sum, shared, Plus());
  bad = __syncthreads_or(bad);
  if (threadIdx.x == 0) parts[blockIdx.x] = {sum, bad};
}

__global__ void __launch_bounds__(block_threads, resident_blocks)
    combine_parts_kernel(const Part* parts, std::int64_t count, Span norm, float* found_inf) {
  SHARED(double, shared, max_warps);
  double sum = 0;
  int bad = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    sum += parts[i].squares;
    bad |= parts[i].bad;
  }
  sum = reduce_block(sum, shared, Plus());
  bad = __syncthreads_or(bad);
  if (threadIdx.x != 0) return;
  if (norm) norm.set(0, sqrt(sum));
  if (found_inf) *found_inf = bad != 0 ? 1.0F : 0.0F;
}

__global__ void gradient_scale_kernel(double* grad_scale, const float* scale, const float* norm, double max_norm) {
  if (global_thread() != 0) return;
  *grad_scale = static_cast<double>(inverse_of(scale)) * (norm ? clip_factor(static_cast<double>(*norm), max_norm) : 1);
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    clip_by_norm_kernel(Gradients gradients, Span norm, double max_norm) {
  const double factor = clip_factor(norm.get<double>(0), max_norm);
  if (factor == 1) return;
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

void inspect_gradients(std::span<const kernel::GradItem> items, TensorView scale, TensorView norm, TensorView found_inf) {
  const Device device = device_of(items);
  std::int64_t chunks = 0, used = 0;
  for (const kernel::GradItem& item : items) chunks += (item.grad.numel() + chunk_elements - 1) / chunk_elements;
  const Scratch parts(static_cast<std::size_t>(chunks + 1) * sizeof(Part), device);
  by_compute_type(items, "inspect_gradients", [&]<class C>(const std::vector<Gradient>& gradients) {
    for_tables<gradients_per_launch>(gradients, device, [&](const Gradients& table, const LaunchConfig& config, std::size_t) {
      launch(config, inspect_kernel<C>, table, flag_of(scale), static_cast<bool>(norm), parts.as<Part>() + used);
      used += config.grid.x;
    });
  });
  launch(one_thread_each(1, device), combine_parts_kernel, static_cast<const Part*>(parts.as<Part>()), used,
         span_of(norm), found_inf ? found_inf.as<float>() : nullptr);
}

void gradient_scale(TensorView grad_scale, TensorView scale, TensorView norm, double max_norm) {
  launch(one_thread_each(1, grad_scale.device), gradient_scale_kernel, grad_scale.as<double>(), flag_of(scale),
         flag_of(norm), max_norm);
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
  kernel::inspect_gradients.provide(DeviceType::cuda, inspect_gradients);
  kernel::gradient_scale.provide(DeviceType::cuda, gradient_scale);
  kernel::clip_by_norm.provide(DeviceType::cuda, clip_by_norm);
  kernel::clip_by_value.provide(DeviceType::cuda, clip_by_value);
  kernel::add_all.provide(DeviceType::cuda, add_all);
}

}  // namespace binade::cuda
