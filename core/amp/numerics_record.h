// What the numerics monitor keeps of each tensor of a model, over the steps it observed.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "binade/core/amp/exponent_histogram.h"

namespace binade::amp {

enum class TensorKind {
  activation,           // an operation's output
  operand,              // what a matrix product or convolution reads, parameters aside: an FP8 recipe's subject
  weight,
  activation_gradient,  // the gradient of an operation's output
  weight_gradient       // a parameter's whole gradient of the step
};
std::string_view name(TensorKind kind);  // "activation_gradient"

// Of storing the tensor in an FP8 format, E4M3 forward and E5M2 for gradients, with one scale.
struct Fp8Error {
  double squared_error = 0;  // sum of (x - stored x)^2
  double values = 0;
  std::int64_t zeros = 0, saturated = 0;  // values lost to zero, or clamped to the largest
  void add(const Fp8Error& other) {
    squared_error += other.squared_error;
    values += other.values;
    zeros += other.zeros;
    saturated += other.saturated;
  }
  double mean_squared_error() const { return values > 0 ? squared_error / values : 0; }
};

struct TensorRecord {
  std::string name;       // the parameter's name, or the module's path; empty for a root module
  std::string operation;  // "linear"; empty for a parameter
  TensorKind kind = TensorKind::activation;
  bool narrow = false;   // under FP16 autocast the tensor is FP16 (for weight gradients: see MonitorOptions)
  bool fp8 = false;      // an FP8 matrix product would store it in FP8: the fields below are filled
  ExponentHistogram all;    // over all observed steps; gradients divided by the loss scale
  ExponentHistogram early;  // over the first ones (MonitorOptions::early_steps)

  std::int64_t steps = 0;  // observed with this tensor in them
  double amax_low = 0, amax_high = 0;  // smallest and largest amax of a step; steps of zeros aside
  double largest_jump = 1;             // largest ratio of two successive steps' amax, up or down
  std::int64_t jumps = 0, pairs = 0;   // pairs of successive steps, and those whose amax differ by more than 2x
  std::int64_t zero_run = 0, zero_since = -1;                  // the whole tensor exactly zero, until now
  std::int64_t longest_zero_run = 0, longest_zero_since = -1;  // and at any time; `since` is a step number

  DType fp8_format = DType::f8e4m3;
  Fp8Error current, delayed;  // scaled by this step's amax, or the previous one's
  double scale_inv_low() const { return amax_low / largest(fp8_format); }
  double scale_inv_high() const { return amax_high / largest(fp8_format); }

  std::string label() const;  // "h.0.attn.qkv linear"
};

}  // namespace binade::amp
