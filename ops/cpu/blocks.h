// Elementwise loops over operands of any strides and dtypes: blocks of elements in row-major order, each operand as a
// short contiguous array of the type arithmetic is done in. f32 operands that lie contiguous are used where they are.
#pragma once
#include <array>

#include "binade/core/tensor/view.h"
#include "binade/ops/cpu/convert.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {

inline constexpr int max_operands = 6;
inline constexpr std::int64_t block_size = 1024;

// Several views of one shape, seen with as few dimensions as their strides allow.
struct MergedDims {
  int dims = 1;
  std::int64_t sizes[Shape::max_dims] = {1};
  std::int64_t strides[max_operands][Shape::max_dims] = {};
};
// Views of the shape `shape`; absent ones keep stride 0.
template <std::size_t N>
MergedDims merge_dims(const Shape& shape, const std::array<TensorView, N>& views) {
  static_assert(N <= max_operands);
  MergedDims merged;
  int last = -1;
  for (int d = 0; d < shape.size(); ++d) {
    if (shape[d] == 1) continue;
    bool runs_on = last >= 0;
    for (std::size_t i = 0; i < N && runs_on; ++i) {
      runs_on = !views[i] || merged.strides[i][last] == views[i].strides[d] * shape[d];
    }
    if (!runs_on) merged.sizes[++last] = 1;
    merged.sizes[last] *= shape[d];
    for (std::size_t i = 0; i < N; ++i) merged.strides[i][last] = views[i] ? views[i].strides[d] : 0;
  }
  merged.dims = last + 1;
  if (merged.dims == 0) {  // one element
    merged.dims = 1;
    for (auto& strides : merged.strides) strides[0] = 1;
  }
  return merged;
}

// body(offset, stride, run length) for each run along the last dimension in elements [begin, end) of operand i.
template <class Body>
void for_each_run(const MergedDims& merged, std::size_t operand, std::int64_t begin, std::int64_t end,
                  const Body& body) {
  const int last = merged.dims - 1;
  const std::int64_t* strides = merged.strides[operand];
  while (begin < end) {
    std::int64_t rest = begin / merged.sizes[last];
    const std::int64_t inner = begin % merged.sizes[last];
    std::int64_t offset = inner * strides[last];
    for (int d = last - 1; d >= 0; --d) {
      offset += (rest % merged.sizes[d]) * strides[d];
      rest /= merged.sizes[d];
    }
    const std::int64_t length = std::min(end - begin, merged.sizes[last] - inner);
    body(offset, strides[last], length);
    begin += length;
  }
}

// body(std::array<const C*, In>, std::array<C*, Out>, count) for blocks of the inputs and outputs; what an absent
// output's array receives is dropped. All views have the shape `shape`.
template <class C, std::size_t In, std::size_t Out, class Body>
void for_each_block(const Shape& shape, const std::array<TensorView, In>& inputs,
                    const std::array<TensorView, Out>& outputs, const Body& body) {
  std::array<TensorView, In + Out> views;
  std::copy(inputs.begin(), inputs.end(), views.begin());
  std::copy(outputs.begin(), outputs.end(), views.begin() + In);
  const MergedDims merged = merge_dims(shape, views);
  // Operands of type C whose elements run through without a gap need no copy.
  std::array<bool, In + Out> direct;
  for (std::size_t i = 0; i < In + Out; ++i) {
    direct[i] = views[i] && views[i].dtype == dtype_of<C> && views[i].is_contiguous();
  }
  parallel_for(shape.numel(), elementwise_grain, [&](std::int64_t chunk_begin, std::int64_t chunk_end) {
    alignas(64) C buffers[In + Out][block_size];
    for (std::int64_t begin = chunk_begin; begin < chunk_end; begin += block_size) {
      const std::int64_t end = std::min(begin + block_size, chunk_end);
      std::array<const C*, In> in;
      std::array<C*, Out> out;
      for (std::size_t i = 0; i < In; ++i) {
        in[i] = direct[i] ? views[i].template as<C>() + begin : buffers[i];
        if (direct[i]) continue;
        std::int64_t done = 0;
        for_each_run(merged, i, begin, end, [&](std::int64_t offset, std::int64_t stride, std::int64_t length) {
          read_run(views[i].data + offset * size_of(views[i].dtype), views[i].dtype, stride, length,
                   buffers[i] + done);
          done += length;
        });
      }
      for (std::size_t i = In; i < In + Out; ++i) {
        out[i - In] = direct[i] ? views[i].template as<C>() + begin : buffers[i];
      }
      body(in, out, end - begin);
      for (std::size_t i = In; i < In + Out; ++i) {
        if (direct[i] || !views[i]) continue;
        std::int64_t done = 0;
        for_each_run(merged, i, begin, end, [&](std::int64_t offset, std::int64_t stride, std::int64_t length) {
          write_run(static_cast<const C*>(buffers[i]) + done, views[i].data + offset * size_of(views[i].dtype),
                    views[i].dtype, stride, length);
          done += length;
        });
      }
    }
  });
}

}  // namespace binade::cpu
