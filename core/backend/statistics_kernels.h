// Kernel slots of the precision tools: what a tensor's values look like. Inputs are any floating dtype, FP8 included,
// and strided; outputs are contiguous, on the input's device, and overwritten. Counts are exact and sums are taken in
// f64 in an order that does not depend on the number of threads.
#pragma once
#include "binade/core/backend/kernel_slot.h"

namespace binade::kernel {

// A binade is [2^e, 2^(e+1)). Magnitudes of f64 outside of binary32's exponents are counted at its ends.
inline constexpr int lowest_exponent = -149, highest_exponent = 127;
inline constexpr int binade_count = highest_exponent - lowest_exponent + 1;
inline constexpr int histogram_zeros = binade_count, histogram_infs = binade_count + 1,
                     histogram_nans = binade_count + 2, histogram_size = binade_count + 3;
// Of v = factor * x (in f64): counts i64 [histogram_size], number of values per binade, then zeros, infinities and NaNs;
// squares f64 [binade_count], sum of v^2 per binade; extremes f64 [2], largest finite |v| and smallest but zero (0 both
// where there is none).
inline KernelSlot<void(TensorView x, double factor, TensorView counts, TensorView squares, TensorView extremes)>
    exponent_histogram{"exponent_histogram"};

// summary f64 [4]: number of values +inf, -inf, NaN; largest finite |x|.
inline KernelSlot<void(TensorView x, TensorView summary)> finite_summary{"finite_summary"};

// What storing x in `format` costs when it is scaled first, saturating at the format's largest value, and scaled back:
// errors f64 [3]: sum of (x - q(scale x) / scale)^2, number of values other than zero stored as zero, number saturated.
// Only finite values count.
inline KernelSlot<void(TensorView x, double scale, DType format, TensorView errors)> quantization_error{
    "quantization_error"};

}  // namespace binade::kernel
