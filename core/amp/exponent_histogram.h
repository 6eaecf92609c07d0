// ExponentHistogram: how a tensor's magnitudes spread over the binades [2^e, 2^(e+1)), and what a narrower format would
// lose of them at any scale that is a power of two, without looking at the tensor again.
#pragma once
#include <array>
#include <cstdint>

#include "binade/core/backend/statistics_kernels.h"
#include "binade/core/tensor/tensor.h"

namespace binade::amp {

// The exponents of a format's edges; largest values are compared exactly.
struct FormatRange {
  explicit FormatRange(DType format);  // f16, bf16, f8e4m3 or f8e5m2
  int normal, subnormal;  // log2 of the smallest normal and subnormal value
  double largest;         // largest finite value
  double overflow;        // the smallest magnitude that does not round to a finite value: 65520 for f16
  double width() const;   // binades from the smallest subnormal to the largest value
};

struct FormatShares {  // of the values that are not zero
  double below_normal = 0;  // less than the smallest normal, so with fewer bits; those that become zero included
  double to_zero = 0;       // less than half the smallest subnormal
  double above_largest = 0;
};

struct ExponentHistogram {
  std::array<std::int64_t, kernel::binade_count> counts{};  // [e - kernel::lowest_exponent]
  std::array<double, kernel::binade_count> squares{};       // sum of squares in each binade
  std::int64_t zeros = 0, infs = 0, nans = 0;
  double amax = 0, amin = 0;  // largest finite magnitude, and smallest but zero

  void add(const ExponentHistogram& other);
  std::int64_t nonzero() const;  // finite values other than zero
  std::int64_t total() const { return nonzero() + zeros + infs + nans; }
  double squared_norm() const;  // of the finite values
  double dynamic_range() const;  // log2(amax / amin); 0 where there is no value
  // The number of binades below amax that hold all but the smallest `share` of the nonzero values.
  int range_without(double share) const;

  // Of 2^log2_scale times the values. above_largest is sharp to a binade: the values in that of the format's largest
  // count as above it where amax is among them and above it.
  FormatShares shares(DType format, int log2_scale = 0) const;
  // Share of the squared norm in values that round to zero in `format` after scaling. Exact, except that a value of
  // exactly half the smallest subnormal, which rounds to zero too, counts as kept.
  double lost_squared_norm(DType format, int log2_scale = 0) const;
};

// Of factor * x; waits for the device.
ExponentHistogram exponent_histogram(const Tensor& x, double factor = 1);

}  // namespace binade::amp
