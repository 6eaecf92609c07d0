// Kernel slots of FP8: quantisation, its scales, and products of quantised operands. Formats f8e4m3 and f8e5m2 as in
// the OCP 8-bit Floating Point specification (OFP8, 2023); block scales as in OCP Microscaling Formats (MX) v1.0, 2023.
// Scales are device memory, so that no kernel waits for the host.
#pragma once
#include "binade/core/backend/kernels.h"

namespace binade::kernel {

inline constexpr std::int64_t mx_block = 32;  // elements that share a scale, along the dimension a product sums over

// amax[0] = max |x| in f32, 0 for an empty x; NaN propagates. x contiguous.
inline KernelSlot<void(TensorView x, TensorView amax)> absmax{"absmax"};

// y = x * scale[0], computed in f32 (an f64 x is rounded to f32 first), rounded to nearest even and saturated: what is
// too large for y's format, infinities too, becomes its largest finite value; NaN stays NaN. inverse[0] = 1 / scale[0];
// amax[0] = max(amax[0], max |x|) unless absent; NaN propagates. x contiguous f64 f32 bf16 f16, y contiguous f8e4m3 or
// f8e5m2; scale, inverse, amax f32.
inline KernelSlot<void(TensorView x, TensorView y, TensorView scale, TensorView inverse, TensorView amax)> quantize_fp8{
    "quantize_fp8"};

// scale = (largest / amax) / 2^margin, held where it and its inverse are normal f32 numbers.
struct Fp8ScaleOptions {
  double largest = 448;  // finite value of the format
  int margin = 0;
  bool most_recent = false;   // delayed: amax is history[0], else the largest of the history
  std::int64_t interval = 1;  // delayed: a new scale every so many calls
};
// From the amax of what is about to be quantised: 1 for amax 0, NaN for one that is not finite, so that an overflow
// shows in every result.
inline KernelSlot<void(TensorView amax, TensorView scale, Fp8ScaleOptions options)> fp8_current_scale{
    "fp8_current_scale"};
// From the amaxes of earlier calls: history [length] f32, newest first. ++count[0] (i64); where it is a multiple of the
// interval, a new scale, unless all amaxes are 0 or not finite; then the history moves on by one, and history[0] = 0.
inline KernelSlot<void(TensorView history, TensorView scale, TensorView count, Fp8ScaleOptions options)>
    fp8_delayed_scale{"fp8_delayed_scale"};

// Blocks of 32 along x's last dim (the last may be shorter), each with the scale 2^(floor(log2 amax) - emax), emax = 8
// for f8e4m3 and 15 for f8e5m2, stored as E8M0: u8, 2^(value - 127), 255 is NaN. Elements are x / scale, rounded to
// nearest even and saturated. A block of zeros has the smallest scale, one with a NaN or infinity the scale NaN and NaN
// elements. x [rows, n] of any strides; y [rows, n] and scales u8 [rows, ceil(n / 32)] contiguous.
inline KernelSlot<void(TensorView x, TensorView y, TensorView scales)> quantize_mx{"quantize_mx"};

// c [m, n] (+)= a [m, k] b [k, n] times the scales + bias [n]. a and b: either FP8 format, rows or columns contiguous.
// Either per-tensor scales, f32 [1], that multiply the f32 sum once (quantize_fp8's `inverse`); or E8M0 block scales,
// scale_a [m, ceil(k / 32)], scale_b [ceil(k / 32), n], with k contiguous in a, b and the scales (b and scale_b are
// transposed views). c contiguous: f32, bf16, f16, rounded once; f64, summed in f64. bias: any of these dtypes, or
// absent. Backends that need k contiguous for per-tensor scales too (cuBLASLt's TN layout) make that copy themselves.
struct Fp8MatmulOptions {
  bool accumulate = false;
};
inline KernelSlot<void(TensorView a, TensorView b, TensorView scale_a, TensorView scale_b, TensorView bias,
                       TensorView c, Fp8MatmulOptions options)>
    matmul_fp8{"matmul_fp8"};

}  // namespace binade::kernel
