// E4M3 quantisation written a second time, in double arithmetic, for the reference of fp8_linear.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

namespace binade::fp8_reference {

inline double rounded_e4m3(double x) {  // to nearest even, saturated at 448; unit 2^(exponent - 3), at least 2^-9
  if (std::isnan(x)) return x;
  const double bounded = std::clamp(x, -448.0, 448.0);
  const double unit = bounded == 0 ? 1 : std::ldexp(1.0, std::max(std::ilogb(bounded), -6) - 3);
  return std::nearbyint(bounded / unit) * unit;
}

inline double largest_magnitude(const double* x, std::size_t count) {  // NaN and infinities give NaN
  double largest = 0;
  for (std::size_t i = 0; i < count; ++i)
    largest = std::isfinite(x[i]) ? std::max(largest, std::abs(x[i])) : std::numeric_limits<double>::quiet_NaN();
  return largest;
}

// With the scale given, or (448 / amax) / 2^margin; the scale and x * scale are f32, as in the kernels.
inline std::vector<double> per_tensor(std::vector<double> x, std::optional<double> given, int margin) {
  for (double& v : x) v = static_cast<double>(static_cast<float>(v));
  const double amax = largest_magnitude(x.data(), x.size());
  const double found = amax == 0 ? 1 : std::ldexp(static_cast<double>(static_cast<float>(448 / amax)), -margin);
  const double scale = given.value_or(found), inverse = static_cast<double>(static_cast<float>(1 / scale));
  for (double& v : x) v = rounded_e4m3(static_cast<double>(static_cast<float>(v * scale))) * inverse;
  return x;
}

// Blocks of 32 in each row of `columns`, scale 2^(floor(log2 amax) - 8).
inline std::vector<double> blocks(std::vector<double> x, std::size_t columns) {
  for (std::size_t start = 0, next = 0; start < x.size(); start = next) {
    next = std::min(start + 32, (start / columns + 1) * columns);
    const double amax = largest_magnitude(x.data() + start, next - start);
    const double scale = amax == 0 ? 1 : std::ldexp(1.0, std::isnan(amax) ? 0 : std::ilogb(amax) - 8);
    for (std::size_t i = start; i < next; ++i) x[i] = std::isnan(amax) ? amax : rounded_e4m3(x[i] / scale) * scale;
  }
  return x;
}

}  // namespace binade::fp8_reference
