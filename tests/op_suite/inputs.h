// Draws the inputs of a sample: the same values in every dtype and layout, up to rounding.
#pragma once
#include "binade/tests/core/test_device.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

enum class Layout { contiguous, strided };

struct DrawnInputs {
  Tensors inputs;
  // What strided inputs are views of. Floating elements outside the view are NaN: an operation that reads beyond its
  // input delivers NaN, one that writes there is noticed by poison_is_intact().
  Tensors bases;
  bool poison_is_intact() const;
};

// Where the suite runs; references stay on the CPU.
inline Device suite_device() { return test_device(); }

DrawnInputs draw_inputs(const Sample& sample, DType dtype, Layout layout);
// The same values in f64, contiguous, on the CPU; integers as i64, bools as they are, undefined as undefined.
Tensors widened(Inputs inputs);
// Weights of the result's elements in the loss: multiples of 1/8 up to 2, exact in every dtype, never 0.
Tensor loss_weights(const Shape& shape, DType dtype, Device device = {});
std::uint64_t seed_of(std::string_view name);

}  // namespace binade::test
