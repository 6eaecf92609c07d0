// A reduction's dimensions: those kept, which enumerate the outputs, and those reduced.
#pragma once
#include "binade/cuda/kernels/operands.h"
// launch.h first

namespace binade::cuda {

struct ReduceDims {
  Layout<2> kept;     // operand 0: x, operand 1: y
  Layout<1> reduced;  // operand 0: x

  __device__ __forceinline__ std::int64_t x_start(std::int64_t output) const {
    std::int64_t at[2];
    kept.offsets(output, at);
    return at[0];
  }
  __device__ __forceinline__ std::int64_t y_at(std::int64_t output) const {
    std::int64_t at[2];
    kept.offsets(output, at);
    return at[1];
  }
  __device__ __forceinline__ std::int64_t x_step(std::int64_t i) const {
    if (reduced.dims == 1) return i * reduced.strides[0][0];
    std::int64_t at[1];
    reduced.offsets(i, at);
    return at[0];
  }
  // Whether outputs, and not the elements of one, lie next to each other.
  bool columns_contiguous() const {
    const int last = kept.dims - 1;
    return kept.strides[0][last] == 1 && kept.sizes[last] > 4 && reduced.strides[0][reduced.dims - 1] != 1;
  }
};

inline ReduceDims reduce_dims(const TensorView& x, const TensorView& y) {  // y has size 1 where reduced
  TensorView kept_x = x, kept_y = y, reduced_x = x;
  kept_x.shape = kept_x.strides = kept_y.shape = kept_y.strides = reduced_x.shape = reduced_x.strides = {};
  for (int d = 0; d < x.dim(); ++d) {
    if (y.shape[d] == x.shape[d]) {
      kept_x.shape.push_back(x.shape[d]);
      kept_x.strides.push_back(x.strides[d]);
      kept_y.strides.push_back(y.strides[d]);
    } else {
      reduced_x.shape.push_back(x.shape[d]);
      reduced_x.strides.push_back(x.strides[d]);
    }
  }
  return {layout_of<2>(kept_x.shape, {kept_x, kept_y}), layout_of<1>(reduced_x.shape, {reduced_x})};
}

}  // namespace binade::cuda
