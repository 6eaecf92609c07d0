// FP8: quantisation with per-tensor and block (MX) scales, the scales themselves, and both ends of emulated products.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/cuda/kernels/fp8.h"

#include <optional>

#include "binade/core/backend/fp8_kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/cuda/kernels/block.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

// Bits of |x|; they compare as the numbers do, and NaN is above all.
__device__ __forceinline__ unsigned magnitude_bits(float x) { return __float_as_uint(x) & 0x7fffffffU; }
struct Max {
  __device__ unsigned operator()(unsigned a, unsigned b) const { return a > b ? a : b; }
};

// To nearest even, saturated; NaN stays.
__device__ __forceinline__ std::uint8_t fp8_code(float x, DType format) {
  const float limit = format == DType::f8e4m3 ? 448.0F : 57344.0F;
  const float held = x > limit ? limit : x < -limit ? -limit : x;
  return format == DType::f8e4m3 ? Float8E4M3(held).bits : Float8E5M2(held).bits;
}

// ---- per-tensor scales ------------------------------------------------------------------------------------------------

// *amax = max(*amax, |x|), as bits; an integer maximum does not depend on the order.
__global__ void __launch_bounds__(block_threads, resident_blocks) absmax_kernel(Operands<1, 0> o, unsigned* amax) {
  SHARED(unsigned, shared, max_warps);
  unsigned most = 0;
  for_operands<float>(o, [&](std::int64_t, const float* x, float*) { most = Max()(most, magnitude_bits(x[0])); });
  most = reduce_block(most, shared, Max());
  if (threadIdx.x == 0) atomicMax(amax, most);
}

// vectors: x and y aligned for eight elements at a time.
__global__ void __launch_bounds__(block_threads, resident_blocks)
    quantize_kernel(Span x, Span y, std::int64_t count, bool vectors, const float* scale, float* inverse, unsigned* amax) {
  SHARED(unsigned, shared, max_warps);
  const float factor = *scale;
  unsigned most = 0;
  const auto code = [&](float value) {
    most = Max()(most, magnitude_bits(value));
    return fp8_code(value * factor, y.dtype);
  };
  const std::int64_t whole = vectors ? count / vector_length : 0;
  for (std::int64_t i = global_thread(); i < whole; i += global_threads()) {
    const Vector values = load_vector(x.data, x.dtype, i);
    unsigned words[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < vector_length; ++j) words[j / 4] |= static_cast<unsigned>(code(values.v[j])) << (j % 4 * 8);
    reinterpret_cast<uint2*>(y.data)[i] = make_uint2(words[0], words[1]);
  }
  for (std::int64_t i = whole * vector_length + global_thread(); i < count; i += global_threads())
    reinterpret_cast<std::uint8_t*>(y.data)[i] = code(x.get<float>(i));
  if (global_thread() == 0) *inverse = 1 / factor;
  if (!amax) return;
  most = reduce_block(most, shared, Max());
  if (threadIdx.x == 0) atomicMax(amax, most);
}

__device__ float scale_for(float amax, const kernel::Fp8ScaleOptions& options) {
  return fminf(fmaxf(ldexpf(static_cast<float>(options.largest) / amax, -options.margin), 0x1p-126F), 0x1p126F);
}
__global__ void current_scale_kernel(const float* amax, float* scale, kernel::Fp8ScaleOptions options) {
  if (global_thread() != 0) return;
  *scale = !isfinite(*amax) ? std::numeric_limits<float>::quiet_NaN() : *amax == 0 ? 1 : scale_for(*amax, options);
}

// One block.
__global__ void delayed_scale_kernel(float* history, std::int64_t length, float* scale, std::int64_t* count,
                                     kernel::Fp8ScaleOptions options) {
  SHARED(float, shared, max_warps);
  const std::int64_t considered = options.most_recent ? 1 : length;
  float amax = 0;
  for (std::int64_t i = threadIdx.x; i < considered; i += blockDim.x)
    if (isfinite(history[i])) amax = fmaxf(amax, history[i]);
  amax = reduce_block(amax, shared, Larger());
  if (threadIdx.x == 0 && ++*count % options.interval == 0 && amax > 0) *scale = scale_for(amax, options);
  for (std::int64_t end = length; end > 0; end -= blockDim.x) {  // moves on by one, the oldest first
    const std::int64_t i = end - 1 - threadIdx.x;
    const float moved = i > 0 ? history[i - 1] : 0.0F;
    __syncthreads();
    if (i >= 0) history[i] = moved;
    __syncthreads();
  }
}

// ---- block scales ----------------------------------------------------------------------------------------------------
constexpr int e8m0_bias = 127;
constexpr std::uint8_t e8m0_nan = 255;

// One warp per block of 32; x's rows contiguous.
__global__ void __launch_bounds__(block_threads, resident_blocks)
    quantize_mx_kernel(Span x, std::int64_t row_stride, Span y, std::uint8_t* scales, std::int64_t n,
                       std::int64_t row_blocks, std::int64_t blocks) {
  const std::int64_t block = global_thread() / kernel::mx_block;
  if (block >= blocks) return;  // the whole warp
  const std::int64_t row = block / row_blocks, j = block % row_blocks * kernel::mx_block + threadIdx.x % 32;
  const float value = j < n ? x.get<float>(row * row_stride + j) : 0.0F;
  const float amax = __uint_as_float(reduce_warp(magnitude_bits(value), Max()));
  const int emax = y.dtype == DType::f8e4m3 ? 8 : 15;
  int exponent = -e8m0_bias;
  if (amax != 0 && isfinite(amax)) exponent = ilogbf(amax) - emax > -e8m0_bias ? ilogbf(amax) - emax : -e8m0_bias;
  const float scaled = isfinite(amax) ? value * ldexpf(1.0F, -exponent) : std::numeric_limits<float>::quiet_NaN();
  if (j < n) reinterpret_cast<std::uint8_t*>(y.data)[row * n + j] = fp8_code(scaled, y.dtype);
  if (threadIdx.x % 32 == 0)
    scales[block] = isfinite(amax) ? static_cast<std::uint8_t>(exponent + e8m0_bias) : e8m0_nan;
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    dequantize_mx_kernel(Operands<1, 1> o, std::int64_t n, const std::uint8_t* scales, std::int64_t row_stride,
                         std::int64_t block_stride) {
  for_operands<C>(o, [&](std::int64_t i, const C* x, C* y) {
    const std::uint8_t code = scales[i / n * row_stride + i % n / kernel::mx_block * block_stride];
    const float scale = code == e8m0_nan ? std::numeric_limits<float>::quiet_NaN() : ldexpf(1.0F, code - e8m0_bias);
    y[0] = static_cast<C>(static_cast<float>(x[0]) * scale);
  });
}

// ---- products --------------------------------------------------------------------------------------------------------
template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    finish_kernel(Operands<3, 1> o, const float* scale_a, const float* scale_b) {  // sums, bias, c
  const double factor = scale_a ? static_cast<double>(*scale_a) * static_cast<double>(*scale_b) : 1.0;
  for_operands<C>(o, [&](std::int64_t, const C* x, C* y) {
    y[0] = static_cast<C>(factor * static_cast<double>(x[0])) + x[1] + x[2];
  });
}

void check_format(DType dtype, const char* what) {
  check(dtype == DType::f8e4m3 || dtype == DType::f8e5m2, what, ": expected f8e4m3 or f8e5m2, got ", dtype);
}

// Enough blocks to occupy a GPU; each looks at several elements before it takes part in the common maximum.
LaunchConfig for_maximum(std::int64_t threads, Device device) {
  return one_thread_each(std::clamp<std::int64_t>(threads, 1, std::int64_t{1024} * block_threads), device);
}

void clear(const TensorView& amax) {
  cuda_check(cudaMemsetAsync(amax.data, 0, sizeof(float), stream_of(amax.device)), "clear a maximum");
}

void absmax(TensorView x, TensorView amax) {
  clear(amax);
  if (x.numel() == 0) return;
  const auto o = operands<float, 1, 0>(x.shape, {x}, {});
  launch(for_maximum(o.threads(), x.device), absmax_kernel, o, amax.as<unsigned>());
}

void quantize_fp8(TensorView x, TensorView y, TensorView scale, TensorView inverse, TensorView amax) {
  check_format(y.dtype, "quantize_fp8");
  const bool vectors = can_use_vectors<float>(Spans<1>{{span_of(x)}}) && reinterpret_cast<std::uintptr_t>(y.data) % 8 == 0;
  launch(for_maximum(vectors ? x.numel() / vector_length : x.numel(), x.device), quantize_kernel, span_of(x), span_of(y),
         x.numel(), vectors, scale.as<const float>(), inverse.as<float>(), amax ? amax.as<unsigned>() : nullptr);
}

void fp8_current_scale(TensorView amax, TensorView scale, kernel::Fp8ScaleOptions options) {
  launch(one_thread_each(1, amax.device), current_scale_kernel, amax.as<const float>(), scale.as<float>(), options);
}

void fp8_delayed_scale(TensorView history, TensorView scale, TensorView count, kernel::Fp8ScaleOptions options) {
  launch(one_thread_each(1, history.device), delayed_scale_kernel, history.as<float>(), history.numel(), scale.as<float>(),
         count.as<std::int64_t>(), options);
}

void quantize_mx(TensorView x, TensorView y, TensorView scales) {
  check_format(y.dtype, "quantize_mx");
  if (x.numel() == 0) return;
  std::optional<Scratch> memory;
  TensorView source = x;
  if (x.stride(1) != 1) {  // blocks lie across the rows in memory: turned once
    memory.emplace(static_cast<std::size_t>(x.numel()) * sizeof(float), x.device);
    source.dtype = DType::f32;
    source.strides = contiguous_strides(x.shape);
    source.data = memory->as<std::byte>();
    kernel::copy(x, source);
  }
  const std::int64_t blocks = scales.numel();
  launch(one_thread_each(blocks * kernel::mx_block, x.device), quantize_mx_kernel, span_of(source), source.stride(0),
         span_of(y), scales.as<std::uint8_t>(), x.size(1), scales.size(1), blocks);
}

}  // namespace

void dequantize_fp8(const TensorView& codes, const TensorView& scales, const TensorView& y) {
  check_format(codes.dtype, "matmul_fp8");
  if (y.numel() == 0) return;
  if (!scales) return kernel::copy(codes, y);
  with_exact_type(y.dtype, [&]<class C>() {
    if constexpr (!std::is_same_v<C, std::int64_t>) {
      const auto o = operands<C, 1, 1>(y.shape, {codes}, {y});
      launch(one_thread_each(o.threads(), y.device), dequantize_mx_kernel<C>, o, y.size(1),
             scales.as<const std::uint8_t>(), scales.stride(0), scales.stride(1));
    }
  });
}

void finish_fp8_product(const TensorView& sums, const TensorView& scale_a, const TensorView& scale_b,
                        const TensorView& bias, const TensorView& c, bool accumulate) {
  const TensorView spread = bias ? detail::broadcast_view(bias, c.shape) : TensorView{};
  const auto run = [&]<class C>() {
    const auto o = operands<C, 3, 1>(c.shape, {sums, spread, accumulate ? c : TensorView{}}, {c});
    launch(one_thread_each(o.threads(), c.device), finish_kernel<C>, o, scale_a ? scale_a.as<const float>() : nullptr,
           scale_b ? scale_b.as<const float>() : nullptr);
  };
  if (c.dtype == DType::f64) return run.template operator()<double>();
  run.template operator()<float>();
}

void provide_fp8();
void provide_fp8() {
  kernel::absmax.provide(DeviceType::cuda, absmax);
  kernel::quantize_fp8.provide(DeviceType::cuda, quantize_fp8);
  kernel::fp8_current_scale.provide(DeviceType::cuda, fp8_current_scale);
  kernel::fp8_delayed_scale.provide(DeviceType::cuda, fp8_delayed_scale);
  kernel::quantize_mx.provide(DeviceType::cuda, quantize_mx);
}

}  // namespace binade::cuda
