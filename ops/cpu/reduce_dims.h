// A reduction's dimensions: those kept, which enumerate the outputs, and those reduced.
#pragma once
#include "binade/ops/cpu/blocks.h"

namespace binade::cpu {

inline std::int64_t offset_of(const MergedDims& merged, std::size_t operand, std::int64_t index) {
  if (merged.dims == 1) return index * merged.strides[operand][0];
  std::int64_t offset = 0;
  for (int d = merged.dims - 1; d >= 0; --d) {
    offset += (index % merged.sizes[d]) * merged.strides[operand][d];
    index /= merged.sizes[d];
  }
  return offset;
}

struct ReduceDims {
  MergedDims kept;     // operand 0: x, operand 1: y
  MergedDims reduced;  // operand 0: x
  std::int64_t outputs = 1, count = 1;

  ReduceDims(const TensorView& x, const TensorView& y) {  // y has size 1 where reduced
    TensorView kept_x = x, kept_y = y, reduced_x = x;
    kept_x.shape = kept_x.strides = kept_y.shape = kept_y.strides = reduced_x.shape = reduced_x.strides = {};
    for (int d = 0; d < x.dim(); ++d) {
      if (y.shape[d] == x.shape[d]) {
        kept_x.shape.push_back(x.shape[d]);
        kept_x.strides.push_back(x.strides[d]);
        kept_y.strides.push_back(y.strides[d]);
        outputs *= x.shape[d];
      } else {
        reduced_x.shape.push_back(x.shape[d]);
        reduced_x.strides.push_back(x.strides[d]);
        count *= x.shape[d];
      }
    }
    kept = merge_dims<2>(kept_x.shape, {kept_x, kept_y});
    reduced = merge_dims<1>(reduced_x.shape, {reduced_x});
  }

  std::int64_t x_offset(std::int64_t output) const { return offset_of(kept, 0, output); }
  std::int64_t y_offset(std::int64_t output) const { return offset_of(kept, 1, output); }
  std::int64_t reduced_offset(std::int64_t i) const { return offset_of(reduced, 0, i); }
  // Whether outputs, and not the elements of one, lie next to each other.
  bool columns_contiguous() const {
    const int last = kept.dims - 1;
    return kept.strides[0][last] == 1 && kept.sizes[last] > 4 && count > 1 && reduced.strides[0][reduced.dims - 1] != 1;
  }
};

// Elements [first, first + count) of merged dims from `offset` in x, as C.
template <class C>
void read_elements(const TensorView& x, const MergedDims& merged, std::int64_t offset, std::int64_t first,
                   std::int64_t count, C* y) {
  for_each_run(merged, 0, first, first + count, [&](std::int64_t start, std::int64_t stride, std::int64_t length) {
    read_run(x.data + (offset + start) * size_of(x.dtype), x.dtype, stride, length, y);
    y += length;
  });
}

}  // namespace binade::cpu
