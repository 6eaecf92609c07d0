// Statistics for the precision tools: histograms of exponents, finite or not, the error of a scaled narrow format.
// One partial result per chunk of elements, combined in order.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "binade/core/backend/statistics_kernels.h"
#include "binade/ops/cpu/blocks.h"

namespace binade::cpu {
namespace {

constexpr std::int64_t chunk_size = 65536;  // elements: a histogram is 4.5 KB, cheap beside that many

// Partial results of type P: body(values, count, partial) for blocks of x's elements in type C; each chunk its own.
template <class C, class P, class Body>
std::vector<P> per_chunk(const TensorView& x, const Body& body) {
  std::vector<P> partials(static_cast<std::size_t>(chunk_count(x.numel(), chunk_size)));
  const MergedDims merged = merge_dims(x.shape, std::array<TensorView, 1>{x});
  parallel_for(x.numel(), chunk_size, [&](std::int64_t begin, std::int64_t end) {
    P& partial = partials[static_cast<std::size_t>(begin / chunk_size)];
    alignas(64) C values[block_size];
    for_each_run(merged, 0, begin, end, [&](std::int64_t offset, std::int64_t stride, std::int64_t length) {
      for (std::int64_t i = 0; i < length; i += block_size) {
        const std::int64_t count = std::min(block_size, length - i);
        read_run(x.data + (offset + i * stride) * size_of(x.dtype), x.dtype, stride, count, values);
        body(values, count, partial);
      }
    });
  });
  return partials;
}

struct Histogram {
  std::array<std::int64_t, kernel::histogram_size> counts{};
  std::array<double, kernel::binade_count> squares{};
  double largest = 0, smallest = 0;
};

void count_value(double v, Histogram& h) {
  const double magnitude = std::abs(v);
  if (!(magnitude > 0)) {
    ++h.counts[magnitude == 0 ? kernel::histogram_zeros : kernel::histogram_nans];
    return;
  }
  if (std::isinf(magnitude)) {
    ++h.counts[kernel::histogram_infs];
    return;
  }
  // f64's exponent field; its subnormals are far below the lowest binade.
  const int exponent = static_cast<int>(std::bit_cast<std::uint64_t>(magnitude) >> 52) - 1023;
  const auto bin = static_cast<std::size_t>(std::clamp(exponent, kernel::lowest_exponent, kernel::highest_exponent) -
                                            kernel::lowest_exponent);
  ++h.counts[bin];
  h.squares[bin] += v * v;
  h.largest = std::max(h.largest, magnitude);
  h.smallest = h.smallest == 0 ? magnitude : std::min(h.smallest, magnitude);
}

void exponent_histogram(TensorView x, double factor, TensorView counts, TensorView squares, TensorView extremes) {
  Histogram total;
  for (const Histogram& part :
       per_chunk<double, Histogram>(x, [&](const double* values, std::int64_t count, Histogram& h) {
         for (std::int64_t i = 0; i < count; ++i) count_value(factor * values[i], h);
       })) {
    for (std::size_t i = 0; i < total.counts.size(); ++i) total.counts[i] += part.counts[i];
    for (std::size_t i = 0; i < total.squares.size(); ++i) total.squares[i] += part.squares[i];
    total.largest = std::max(total.largest, part.largest);
    if (part.smallest > 0) total.smallest = total.smallest == 0 ? part.smallest : std::min(total.smallest, part.smallest);
  }
  std::copy(total.counts.begin(), total.counts.end(), counts.as<std::int64_t>());
  std::copy(total.squares.begin(), total.squares.end(), squares.as<double>());
  extremes.as<double>()[0] = total.largest;
  extremes.as<double>()[1] = total.smallest;
}

struct Finite {
  std::int64_t positive = 0, negative = 0, nans = 0;
  double largest = 0;
};

template <class C>
void finite_summary_in(const TensorView& x, const TensorView& summary) {
  using Bits = std::conditional_t<std::is_same_v<C, float>, std::uint32_t, std::uint64_t>;
  constexpr Bits sign = Bits{1} << (sizeof(C) * 8 - 1);
  constexpr Bits infinity = std::bit_cast<Bits>(std::numeric_limits<C>::infinity());
  Finite total;
  for (const Finite& part : per_chunk<C, Finite>(x, [](const C* values, std::int64_t count, Finite& f) {
         Bits positive = 0, negative = 0, nans = 0, largest = 0;  // magnitudes order as integers
         for (std::int64_t i = 0; i < count; ++i) {
           const Bits bits = std::bit_cast<Bits>(values[i]), magnitude = bits & ~sign;
           positive += bits == infinity;
           negative += bits == (infinity | sign);
           nans += magnitude > infinity;
           largest = std::max(largest, magnitude < infinity ? magnitude : 0);
         }
         f.positive += static_cast<std::int64_t>(positive);
         f.negative += static_cast<std::int64_t>(negative);
         f.nans += static_cast<std::int64_t>(nans);
         f.largest = std::max(f.largest, static_cast<double>(std::bit_cast<C>(largest)));
       })) {
    total.positive += part.positive;
    total.negative += part.negative;
    total.nans += part.nans;
    total.largest = std::max(total.largest, part.largest);
  }
  double* out = summary.as<double>();
  out[0] = static_cast<double>(total.positive);
  out[1] = static_cast<double>(total.negative);
  out[2] = static_cast<double>(total.nans);
  out[3] = total.largest;
}
void finite_summary(TensorView x, TensorView summary) {
  x.dtype == DType::f64 ? finite_summary_in<double>(x, summary) : finite_summary_in<float>(x, summary);
}

struct Errors {
  double squares = 0;
  std::int64_t zeros = 0, saturated = 0;
};

void quantization_error(TensorView x, double scale, DType format, TensorView errors) {
  Errors total;
  with_type(format, [&]<class F>() {
    if constexpr (is_narrow_float<F>) {
      const double top = largest(format);
      for (const Errors& part : per_chunk<double, Errors>(x, [&](const double* values, std::int64_t count, Errors& e) {
             for (std::int64_t i = 0; i < count; ++i) {
               const double v = values[i];
               if (!std::isfinite(v)) continue;
               const double scaled = v * scale, stored = static_cast<double>(F(std::clamp(scaled, -top, top)));
               e.squares += (v - stored / scale) * (v - stored / scale);
               e.zeros += v != 0 && stored == 0;
               e.saturated += std::abs(scaled) > top;
             }
           })) {
        total.squares += part.squares;
        total.zeros += part.zeros;
        total.saturated += part.saturated;
      }
    } else {
      fail({"quantization_error: expected f16, bf16, f8e4m3 or f8e5m2, got ", to_text(format)});
    }
  });
  double* out = errors.as<double>();
  out[0] = total.squares;
  out[1] = static_cast<double>(total.zeros);
  out[2] = static_cast<double>(total.saturated);
}

}  // namespace

void provide_statistics() {
  kernel::exponent_histogram.provide(DeviceType::cpu, exponent_histogram);
  kernel::finite_summary.provide(DeviceType::cpu, finite_summary);
  kernel::quantization_error.provide(DeviceType::cpu, quantization_error);
}

}  // namespace binade::cpu
