// batch_norm over x [outer, channels, inner], contiguous. With xhat = (x - mean) rstd, its gradient is
// dx = rstd weight (dy - mean(dy) - xhat mean(dy xhat)), without the means where the statistics are given. One block
// sums a channel, in one order; the rest is elementwise. group_norm is made of the same slots and layer_norm_backward.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/cuda/kernels/batch_norm.h"
#include "binade/cuda/kernels/rows.h"

namespace binade::cuda {
namespace {

struct ChannelSizes {
  std::int64_t outer, channels, inner;
  bool vectors;  // eight elements never cross channels, and lie aligned
  __device__ __forceinline__ std::int64_t channel_of(std::int64_t i) const {
    const std::int64_t count = outer * channels * inner;
    if (count > 0x7fffffff) return i / inner % channels;
    return static_cast<unsigned>(i) / static_cast<unsigned>(inner) % static_cast<unsigned>(channels);
  }
};
template <class C, int In, int Out>
ChannelSizes sizes_of(const TensorView& x, const Spans<In>& in, const Spans<Out>& out) {
  return {x.size(0), x.size(1), x.size(2), can_use_vectors<C>(in, x.size(2)) && can_use_vectors<C>(out, x.size(2))};
}

struct PerChannel {  // one value per channel, or absent
  Span data;
  std::int64_t stride = 0;
  explicit PerChannel(const TensorView& x) : data(span_of(x)), stride(x ? x.stride(0) : 0) {}
  template <class C>
  __device__ __forceinline__ C get(std::int64_t channel, C absent) const {
    return data ? data.get<C, Formats::arithmetic>(channel * stride) : absent;
  }
  template <class C>
  __device__ __forceinline__ void set(std::int64_t channel, C value) const {
    if (data) data.set<Formats::arithmetic>(channel * stride, value);
  }
};

// The sum of term(inputs) over the channel of this block: at most 16 terms in C before they join a double.
template <class C, int In, class Term>
__device__ __forceinline__ double channel_sum(const Spans<In>& in, const ChannelSizes& s, double* shared,
                                              const Term& term) {
  constexpr int in_narrow = 16;
  C x[In], part = 0;
  double total = 0;
  int terms = 0;
  const std::int64_t count = s.outer * s.inner;
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    const std::int64_t at = (i / s.inner * s.channels + blockIdx.x) * s.inner + i % s.inner;
#pragma unroll
    for (int k = 0; k < In; ++k) x[k] = in.of[k].template get<C, Formats::arithmetic>(at);
    part += term(x);
    if (++terms % in_narrow == 0) {
      total += static_cast<double>(part);
      part = 0;
    }
  }
  return reduce_block(total + static_cast<double>(part), shared, Plus());
}

template <class C>
__global__ void batch_norm_statistics_kernel(Span x, ChannelSizes s, PerChannel mean, PerChannel var, PerChannel rstd,
                                             double eps) {
  SHARED(double, shared, max_warps);
  const Spans<1> in{{x}};
  const double count = static_cast<double>(s.outer * s.inner);
  const C m = static_cast<C>(channel_sum<C>(in, s, shared, [](const C* v) { return v[0]; }) / count);
  const double variance = channel_sum<C>(in, s, shared, [&](const C* v) { return (v[0] - m) * (v[0] - m); }) / count;
  if (threadIdx.x != 0) return;
  mean.set(blockIdx.x, m);
  var.set(blockIdx.x, variance);
  rstd.set(blockIdx.x, 1 / sqrt(variance + eps));
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    batch_norm_kernel(Spans<1> x, Spans<1> y, ChannelSizes s, PerChannel mean, PerChannel rstd, PerChannel weight,
                      PerChannel bias) {
  C m = 0, scale = 0, shift = 0;
  for_elements<C, Formats::arithmetic>(x, y, s.outer * s.channels * s.inner, s.vectors, global_thread(),
                                       global_threads(), [&](std::int64_t i, const C* in, C* out) {
                                         if (!s.vectors || i % vector_length == 0) {
                                           const std::int64_t channel = s.channel_of(i);
                                           m = mean.get(channel, C(0));
                                           scale = rstd.get(channel, C(1)) * weight.get(channel, C(1));
                                           shift = bias.get(channel, C(0));
                                         }
                                         out[0] = (in[0] - m) * scale + shift;
                                       });
}

// sums [2, channels]: of dy xhat, and of dy.
template <class C>
__global__ void batch_norm_sums_kernel(Spans<2> in, ChannelSizes s, PerChannel mean, PerChannel rstd, double* sums,
                                       PerChannel dweight, PerChannel dbias) {
  SHARED(double, shared, max_warps);
  const C m = mean.get(blockIdx.x, C(0)), r = rstd.get(blockIdx.x, C(1));
  const double with_xhat = channel_sum<C>(in, s, shared, [&](const C* v) { return v[1] * ((v[0] - m) * r); });
  const double plain = channel_sum<C>(in, s, shared, [](const C* v) { return v[1]; });
  if (threadIdx.x != 0) return;
  sums[blockIdx.x] = with_xhat;
  sums[s.channels + blockIdx.x] = plain;
  dweight.set(blockIdx.x, with_xhat);
  dbias.set(blockIdx.x, plain);
}

// in: x, dy; out: dx. sums null where the statistics do not depend on x.
template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    batch_norm_backward_kernel(Spans<2> in, Spans<1> dx, ChannelSizes s, PerChannel mean, PerChannel rstd,
                               PerChannel weight, const double* sums) {
  C m = 0, r = 0, scale = 0, c1 = 0, c2 = 0;
  for_elements<C, Formats::arithmetic>(in, dx, s.outer * s.channels * s.inner, s.vectors, global_thread(),
                                       global_threads(), [&](std::int64_t i, const C* x, C* out) {
                                         if (!s.vectors || i % vector_length == 0) {
                                           const std::int64_t channel = s.channel_of(i);
                                           const double count = static_cast<double>(s.outer * s.inner);
                                           m = mean.get(channel, C(0));
                                           r = rstd.get(channel, C(1));
                                           scale = r * weight.get(channel, C(1));
                                           if (sums) {
                                             c1 = static_cast<C>(sums[s.channels + channel] / count);
                                             c2 = static_cast<C>(sums[channel] / count);
                                           }
                                         }
                                         out[0] = scale * (x[1] - c1 - (x[0] - m) * r * c2);
                                       });
}

LaunchConfig block_per_channel(const TensorView& x) {
  return {dim3(static_cast<unsigned>(x.size(1))), dim3(row_threads(x.size(0) * x.size(2), vector_length)), 0,
          stream_of(x.device)};
}
LaunchConfig elementwise(const TensorView& x, const ChannelSizes& s) {
  return one_thread_each(s.vectors ? x.numel() / vector_length : x.numel(), x.device);
}

void batch_norm_statistics(TensorView x, TensorView mean, TensorView var, TensorView rstd, double eps) {
  if (x.size(1) == 0) return;
  with_row_type(x.dtype, "batch_norm", [&]<class C>() {
    const ChannelSizes s{x.size(0), x.size(1), x.size(2), false};
    launch(block_per_channel(x), batch_norm_statistics_kernel<C>, span_of(x), s, PerChannel(mean), PerChannel(var),
           PerChannel(rstd), eps);
  });
}

void batch_norm(TensorView x, TensorView mean, TensorView rstd, TensorView weight, TensorView bias, TensorView y) {
  if (x.numel() == 0) return;
  with_row_type(x.dtype, "batch_norm", [&]<class C>() {
    const Spans<1> in{{span_of(x)}}, out{{span_of(y)}};
    const ChannelSizes s = sizes_of<C>(x, in, out);
    launch(elementwise(x, s), batch_norm_kernel<C>, in, out, s, PerChannel(mean), PerChannel(rstd), PerChannel(weight),
           PerChannel(bias));
  });
}

}  // namespace

void own_batch_norm_backward(TensorView x, TensorView mean, TensorView rstd, TensorView weight, TensorView dy,
                             TensorView dx, TensorView dweight, TensorView dbias, bool training) {
  if (x.size(1) == 0) return;
  with_row_type(x.dtype, "batch_norm", [&]<class C>() {
    const Spans<2> in{{span_of(x), span_of(dy)}};
    const Spans<1> out{{span_of(dx)}};
    const ChannelSizes s = sizes_of<C>(x, in, out);
    const Scratch sums(static_cast<std::size_t>(2 * s.channels) * sizeof(double), x.device);
    if (training || dweight || dbias) {
      launch(block_per_channel(x), batch_norm_sums_kernel<C>, in, s, PerChannel(mean), PerChannel(rstd),
             sums.as<double>(), PerChannel(dweight), PerChannel(dbias));
    }
    if (!dx || x.numel() == 0) return;
    launch(elementwise(x, s), batch_norm_backward_kernel<C>, in, out, s, PerChannel(mean), PerChannel(rstd),
           PerChannel(weight), training ? sums.as<const double>() : nullptr);
  });
}

void provide_batch_norm();
void provide_batch_norm() {
  kernel::batch_norm_statistics.provide(DeviceType::cuda, batch_norm_statistics);
  kernel::batch_norm.provide(DeviceType::cuda, batch_norm);
}

}  // namespace binade::cuda
