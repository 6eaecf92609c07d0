// Statistics for the precision tools: histograms of exponents, finite or not, the error of a scaled narrow format. One
// partial result per block, combined in order.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/core/backend/memory.h"
#include "binade/core/backend/statistics_kernels.h"
#include "binade/cuda/kernels/block.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

constexpr std::int64_t block_elements = 65536;

struct Larger0 {
  __device__ double operator()(double a, double b) const { return b > a ? b : a; }
};
struct SmallerButZero {
  __device__ double operator()(double a, double b) const { return a == 0 || (b != 0 && b < a) ? b : a; }
};

// ---- histogram -------------------------------------------------------------------------------------------------------

struct Histogram {  // of one block
  std::int64_t counts[kernel::histogram_size];
  double squares[kernel::binade_count];
  double largest, smallest;
};

// Within a binade v^2 / 4^e lies in [1, 4), so a block sums it exactly and in any order, as an integer of 2^-44: 2^16
// elements and a few stay below 2^63. Beyond binary32's exponents sums are taken in double.
constexpr double fixed_unit = 0x1p44;

__global__ void __launch_bounds__(block_threads, resident_blocks)
    histogram_kernel(Operands<1, 0> o, double factor, Histogram* blocks) {
  SHARED(unsigned, counts, kernel::histogram_size);
  SHARED(unsigned long long, sums, kernel::binade_count);
  SHARED(double, shared, max_warps);
  for (int i = static_cast<int>(threadIdx.x); i < kernel::histogram_size; i += block_threads) {
    counts[i] = 0;
    if (i < kernel::binade_count) sums[i] = 0;
  }
  __syncthreads();
  double largest = 0, smallest = 0, below = 0, above = 0;
  for_operands<double>(o, [&](std::int64_t, const double* x, double*) {
    const double v = factor * x[0], magnitude = fabs(v);
    if (!(magnitude > 0)) {
      atomicAdd(&counts[magnitude == 0 ? kernel::histogram_zeros : kernel::histogram_nans], 1U);
    } else if (isinf(magnitude)) {
      atomicAdd(&counts[kernel::histogram_infs], 1U);
    } else {
      // f64's exponent field; its subnormals are far below the lowest binade
      const int exponent = static_cast<int>(static_cast<unsigned long long>(__double_as_longlong(magnitude)) >> 52) - 1023;
      const int held = exponent < kernel::lowest_exponent    ? kernel::lowest_exponent
                       : exponent > kernel::highest_exponent ? kernel::highest_exponent
                                                             : exponent;
      const int bin = held - kernel::lowest_exponent;
      atomicAdd(&counts[bin], 1U);
      if (exponent == held) {
        const double scaled = ldexp(magnitude, -exponent);
        atomicAdd(&sums[bin], static_cast<unsigned long long>(scaled * scaled * fixed_unit + 0.5));
      } else {
        (exponent < held ? below : above) += v * v;
      }
      largest = Larger0()(largest, magnitude);
      smallest = SmallerButZero()(smallest, magnitude);
    }
  });
  __syncthreads();
  below = reduce_block(below, shared, Plus());
  above = reduce_block(above, shared, Plus());
  largest = reduce_block(largest, shared, Larger0());
  smallest = reduce_block(smallest, shared, SmallerButZero());
  Histogram& out = blocks[blockIdx.x];
  for (int i = static_cast<int>(threadIdx.x); i < kernel::histogram_size; i += block_threads) {
    out.counts[i] = counts[i];
    if (i >= kernel::binade_count) continue;
    const double within = ldexp(static_cast<double>(sums[i]) / fixed_unit, 2 * (i + kernel::lowest_exponent));
    out.squares[i] = within + (i == 0 ? below : i == kernel::binade_count - 1 ? above : 0.0);
  }
  if (threadIdx.x == 0) {
    out.largest = largest;
    out.smallest = smallest;
  }
}

// One thread per entry, and two for the extremes.
__global__ void __launch_bounds__(block_threads, resident_blocks)
    combine_histograms_kernel(const Histogram* blocks, std::int64_t count, std::int64_t* counts, double* squares,
                              double* extremes) {
  const auto i = static_cast<int>(global_thread());
  if (i >= kernel::histogram_size + 2) return;
  std::int64_t total = 0;
  double sum = 0, most = 0, least = 0;
  for (std::int64_t b = 0; b < count; ++b) {
    if (i < kernel::histogram_size) total += blocks[b].counts[i];
    if (i < kernel::binade_count) sum += blocks[b].squares[i];
    most = Larger0()(most, blocks[b].largest);
    least = SmallerButZero()(least, blocks[b].smallest);
  }
  if (i < kernel::histogram_size) counts[i] = total;
  if (i < kernel::binade_count) squares[i] = sum;
  if (i == kernel::histogram_size) extremes[0] = most;
  if (i == kernel::histogram_size + 1) extremes[1] = least;
}

// ---- a few sums per tensor --------------------------------------------------------------------------------------------

constexpr int summary_size = 4;  // the last one is a maximum, the others are sums
struct Summary {
  double v[summary_size];
};
__device__ __forceinline__ Summary reduce_summary(Summary s, double* shared) {
#pragma unroll
  for (int i = 0; i < summary_size; ++i)
    s.v[i] = i + 1 < summary_size ? reduce_block(s.v[i], shared, Plus()) : reduce_block(s.v[i], shared, Larger0());
  return s;
}

struct FiniteSummary {
  __device__ __forceinline__ void operator()(double x, Summary& s) const {
    if (x != x) {
      s.v[2] += 1;
    } else if (isinf(x)) {
      s.v[0] += x > 0 ? 1 : 0;
      s.v[1] += x > 0 ? 0 : 1;
    } else {
      s.v[3] = Larger0()(s.v[3], fabs(x));
    }
  }
};
struct QuantizationError {
  double scale, top;
  DType format;
  __device__ __forceinline__ double stored(double x) const {
    switch (format) {
      case DType::f16: return static_cast<double>(Half(x));
      case DType::bf16: return static_cast<double>(BFloat16(x));
      case DType::f8e4m3: return static_cast<double>(Float8E4M3(x));
      default: return static_cast<double>(Float8E5M2(x));
    }
  }
  __device__ __forceinline__ void operator()(double x, Summary& s) const {
    if (!isfinite(x)) return;
    const double scaled = x * scale, held = stored(scaled > top ? top : scaled < -top ? -top : scaled);
    const double error = x - held / scale;
    s.v[0] += error * error;
    s.v[1] += x != 0 && held == 0 ? 1 : 0;
    s.v[2] += fabs(scaled) > top ? 1 : 0;
  }
};

template <class Body>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    summary_kernel(Operands<1, 0> o, Body body, Summary* blocks) {
  SHARED(double, shared, max_warps);
  Summary s{};
  for_operands<double>(o, [&](std::int64_t, const double* x, double*) { body(x[0], s); });
  s = reduce_summary(s, shared);
  if (threadIdx.x == 0) blocks[blockIdx.x] = s;
}
__global__ void __launch_bounds__(block_threads, resident_blocks)
    combine_summaries_kernel(const Summary* blocks, std::int64_t count, double* out, int wanted) {
  SHARED(double, shared, max_warps);
  Summary s{};
  for (std::int64_t b = threadIdx.x; b < count; b += blockDim.x) {
#pragma unroll
    for (int i = 0; i < summary_size; ++i)
      s.v[i] = i + 1 < summary_size ? s.v[i] + blocks[b].v[i] : Larger0()(s.v[i], blocks[b].v[i]);
  }
  s = reduce_summary(s, shared);
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int i = 0; i < summary_size; ++i) {
    if (i < wanted) out[i] = s.v[i];
  }
}

// One block of threads per block_elements; their number depends on the shape alone.
LaunchConfig blocks_of(const TensorView& x) {
  return one_thread_each((x.numel() + block_elements - 1) / block_elements * block_threads, x.device);
}

void exponent_histogram(TensorView x, double factor, TensorView counts, TensorView squares, TensorView extremes) {
  const LaunchConfig config = blocks_of(x);
  const Scratch blocks((config.grid.x + 1) * sizeof(Histogram), x.device);
  if (config.grid.x > 0) {
    const auto o = operands<double, 1, 0>(x.shape, {x}, {});
    launch(config, histogram_kernel, o, factor, blocks.as<Histogram>());
  }
  launch(one_thread_each(kernel::histogram_size + 2, x.device), combine_histograms_kernel,
         static_cast<const Histogram*>(blocks.as<Histogram>()), static_cast<std::int64_t>(config.grid.x),
         counts.as<std::int64_t>(), squares.as<double>(), extremes.as<double>());
}

template <class Body>
void summarize(const TensorView& x, const TensorView& out, const Body& body) {
  const LaunchConfig config = blocks_of(x);
  const Scratch blocks((config.grid.x + 1) * sizeof(Summary), x.device);
  if (config.grid.x > 0) {
    const auto o = operands<double, 1, 0>(x.shape, {x}, {});
    launch(config, summary_kernel<Body>, o, body, blocks.as<Summary>());
  }
  launch(one_thread_each(1, x.device), combine_summaries_kernel, static_cast<const Summary*>(blocks.as<Summary>()),
         static_cast<std::int64_t>(config.grid.x), out.as<double>(), static_cast<int>(out.numel()));
}

void finite_summary(TensorView x, TensorView summary) { summarize(x, summary, FiniteSummary{}); }

void quantization_error(TensorView x, double scale, DType format, TensorView errors) {
  check(is_floating(format) && size_of(format) <= 2, "quantization_error: expected f16, bf16, f8e4m3 or f8e5m2, got ",
        format);
  summarize(x, errors, QuantizationError{scale, largest(format), format});
}

}  // namespace

void provide_statistics();
void provide_statistics() {
  kernel::exponent_histogram.provide(DeviceType::cuda, exponent_histogram);
  kernel::finite_summary.provide(DeviceType::cuda, finite_summary);
  kernel::quantization_error.provide(DeviceType::cuda, quantization_error);
}

}  // namespace binade::cuda
