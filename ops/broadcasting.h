// Broadcasting for operations: gradients summed back to an input's shape, and plain double values for references.
#pragma once
#include <vector>

#include "binade/core/autograd/op.h"

namespace binade {

// A tensor with the shape of x and next to no memory: remembers a shape in Saved.
Tensor shape_only(const Tensor& x);

// Hands over `gradient`, which has the broadcast shape, as the gradient of input i of shape `shape`.
void put_broadcast(Gradients& out, std::size_t i, const Tensor& gradient, const Shape& shape);

// The values of x repeated to `shape`, row-major.
std::vector<double> repeated_values(const Tensor& x, const Shape& shape);

}  // namespace binade
