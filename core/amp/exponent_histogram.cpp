#include "binade/core/amp/exponent_histogram.h"

#include <algorithm>
#include <cmath>

namespace binade::amp {

namespace {

std::size_t bin(int exponent) {
  return static_cast<std::size_t>(std::clamp(exponent, kernel::lowest_exponent, kernel::highest_exponent + 1) -
                                  kernel::lowest_exponent);
}

// sum of values[e] for exponents e < `end`.
template <class T, std::size_t N>
T sum_below(const std::array<T, N>& values, int end) {
  T sum{};
  for (std::size_t i = 0; i < bin(end); ++i) sum += values[i];
  return sum;
}

}  // namespace

FormatRange::FormatRange(DType format) {
  check(is_floating(format) && format != DType::f64 && format != DType::f32,
        "FormatRange: expected f16, bf16, f8e4m3 or f8e5m2, got ", format);
  normal = std::ilogb(smallest_normal(format));
  subnormal = std::ilogb(smallest_subnormal(format));
  largest = binade::largest(format);
  // Half an ulp above the largest value; the tie goes away from it where its last bit is odd, as in all four but
  // E4M3, whose largest value 1.75 * 2^8 is even, so that the tie 464 still rounds down.
  const double tie = largest + std::ldexp(epsilon(format), std::ilogb(largest) - 1);
  overflow = format == DType::f8e4m3 ? std::nextafter(tie, 2 * tie) : tie;
}

double FormatRange::width() const { return std::log2(largest) - subnormal; }

void ExponentHistogram::add(const ExponentHistogram& other) {
  for (std::size_t i = 0; i < counts.size(); ++i) {
    counts[i] += other.counts[i];
    squares[i] += other.squares[i];
  }
  zeros += other.zeros;
  infs += other.infs;
  nans += other.nans;
  amax = std::max(amax, other.amax);
  if (other.amin > 0) amin = amin == 0 ? other.amin : std::min(amin, other.amin);
}

std::int64_t ExponentHistogram::nonzero() const { return sum_below(counts, kernel::highest_exponent + 1); }
double ExponentHistogram::squared_norm() const { return sum_below(squares, kernel::highest_exponent + 1); }
double ExponentHistogram::dynamic_range() const { return amin > 0 ? std::log2(amax) - std::log2(amin) : 0; }

int ExponentHistogram::range_without(double share) const {
  if (amax == 0) return 0;
  const double skipped = share * static_cast<double>(nonzero());
  std::int64_t below = 0;
  int lowest = kernel::lowest_exponent;
  for (; lowest < kernel::highest_exponent; ++lowest) {
    below += counts[bin(lowest)];
    if (static_cast<double>(below) > skipped) break;
  }
  return std::clamp(std::ilogb(amax), kernel::lowest_exponent, kernel::highest_exponent) - lowest + 1;
}

FormatShares ExponentHistogram::shares(DType format, int log2_scale) const {
  const FormatRange range(format);
  const std::int64_t all = nonzero();
  if (all == 0) return {};
  const auto share = [&](std::int64_t count) { return static_cast<double>(count) / static_cast<double>(all); };
  // Binades wholly above the largest value; the binade it lies in only where amax is above too.
  const int top = std::ilogb(range.largest) - log2_scale;
  const bool over = std::ldexp(amax, log2_scale) > range.largest;
  const std::int64_t inside = sum_below(counts, over && std::ilogb(amax) == top ? top : top + 1);
  return {share(sum_below(counts, range.normal - log2_scale)), share(sum_below(counts, range.subnormal - 1 - log2_scale)),
          share(all - inside)};
}

double ExponentHistogram::lost_squared_norm(DType format, int log2_scale) const {
  const double norm = squared_norm();
  return norm > 0 ? sum_below(squares, FormatRange(format).subnormal - 1 - log2_scale) / norm : 0;
}

ExponentHistogram exponent_histogram(const Tensor& x, double factor) {
  check(x.defined() && is_floating(x.dtype()), "exponent_histogram: expected a floating tensor");
  const auto room = [&](std::int64_t size, DType dtype) { return empty({size}, {.dtype = dtype, .device = x.device()}); };
  const Tensor counts = room(kernel::histogram_size, DType::i64), squares = room(kernel::binade_count, DType::f64),
               extremes = room(2, DType::f64);
  kernel::exponent_histogram(x, factor, counts, squares, extremes);
  ExponentHistogram out;
  const std::vector<std::int64_t> all = counts.to_vector<std::int64_t>();
  std::copy_n(all.begin(), out.counts.size(), out.counts.begin());
  out.zeros = all[kernel::histogram_zeros];
  out.infs = all[kernel::histogram_infs];
  out.nans = all[kernel::histogram_nans];
  const std::vector<double> sums = squares.to_vector<double>(), ends = extremes.to_vector<double>();
  std::copy(sums.begin(), sums.end(), out.squares.begin());
  out.amax = ends[0];
  out.amin = ends[1];
  return out;
}

}  // namespace binade::amp
