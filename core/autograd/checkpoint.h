// checkpoint(): trades time for memory. Forward keeps only the inputs; backward runs the function again.
// Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
#pragma once
#include <functional>

#include "binade/core/tensor/tensor.h"

namespace binade {

// function(inputs), with its intermediate tensors dropped and recomputed in backward from the same random state and
// autocast setting. Parameters the function captures get their gradients. The function must be pure.
Tensor checkpoint(std::function<Tensor(const Tensors&)> function, Tensors inputs);

}  // namespace binade
