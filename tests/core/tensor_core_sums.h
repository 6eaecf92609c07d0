// What Tensor Cores lose when they sum FP8 products.
#pragma once
#include <algorithm>
#include <cmath>
#include <span>

namespace binade::test {

// The most by which a Hopper GPU's sum of these products may be off, beside the roundings of FP32 sums.
//
// An instruction aligns its 32 products and the accumulator to the largest of them, cuts each off 13 bits below that
// one's leading bit and adds the rest; without fast accumulation, which is off, accumulators go to FP32 now and then.
// "Around 14 bits" is what the DeepSeek-V3 technical report (arXiv 2412.19437, 3.3.2) measured on an H800. The sums that
// an H100 (cuBLAS of CUDA 13.0) got wrong first, of 32 products for each pair of formats and of 64, have bit for bit the
// values of this arithmetic, and with 12 or 14 bits, or 16 products, other sums would have been the first. What is cut
// off a product can be computed; an accumulator loses at most a unit where it is aligned and one where it is kept in as
// few bits, counted every 16 products, for other GPUs may take fewer at once. Partial sums in the order of k stand for
// the accumulator.
inline double fp8_sum_error(std::span<const double> products) {
  double largest = 0, sum = 0, lowest = 0, highest = 0;
  for (const double p : products) {
    largest = std::max(largest, std::abs(p));
    sum += p;
    lowest = std::min(lowest, sum);
    highest = std::max(highest, sum);
  }
  largest = std::max(largest, highest - lowest);
  if (largest == 0) return 0;
  const double unit = std::ldexp(1, std::ilogb(largest) - 13);
  double lost = 0;
  for (const double p : products) lost += std::abs(std::fmod(p, unit));
  return lost + 2 * unit * std::ceil(static_cast<double>(products.size()) / 16);
}

}  // namespace binade::test
