// Several views of one shape as a kernel parameter: strided and broadcast operands, seen with as few dimensions as
// their strides allow, and the loop over their elements.
#pragma once
#include "binade/cuda/kernels/element.h"
// launch.h first
#include <algorithm>
#include <array>

#include "binade/cuda/runtime/context.h"

namespace binade::cuda {

inline constexpr int block_threads = 256;
// Allows 64 registers per thread. Without it ptxas aims at 32 and spills a few.
inline constexpr int resident_blocks = 4;

inline unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>((threads + block_threads - 1) / block_threads);
}
// One thread for each of `threads`, rounded up to whole blocks.
inline LaunchConfig one_thread_each(std::int64_t threads, Device device) {
  return {dim3(blocks_for(threads)), dim3(block_threads), 0, stream_of(device)};
}
__device__ __forceinline__ std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ std::int64_t global_threads() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }

template <int N>
struct Layout {
  int dims = 1;
  std::int64_t count = 1;
  std::int64_t sizes[Shape::max_dims] = {1};
  std::int64_t strides[N][Shape::max_dims] = {};  // in elements

  // Where row-major element i lies in each operand.
  __device__ __forceinline__ void offsets(std::int64_t i, std::int64_t (&at)[N]) const {
#pragma unroll
    for (int s = 0; s < N; ++s) at[s] = 0;
    if (count <= 0x7fffffff) return walk<unsigned>(static_cast<unsigned>(i), at);  // 64-bit division is slow
    walk<std::int64_t>(i, at);
  }

 private:
  template <class Index>
  __device__ __forceinline__ void walk(Index i, std::int64_t (&at)[N]) const {
#pragma unroll 1
    for (int d = dims - 1; d >= 0; --d) {
      const Index size = static_cast<Index>(sizes[d]), coordinate = d == 0 ? i : i % size;
#pragma unroll
      for (int s = 0; s < N; ++s) at[s] += static_cast<std::int64_t>(coordinate) * strides[s][d];
      if (d > 0) i /= size;
    }
  }
};

// Views of the shape `shape`; absent ones keep stride 0.
template <std::size_t N>
Layout<N> layout_of(const Shape& shape, const std::array<TensorView, N>& views) {
  Layout<N> merged;
  merged.count = shape.numel();
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
  merged.dims = std::max(1, last + 1);
  return merged;
}

template <int In, int Out>
struct Operands {
  Spans<In> in;
  Spans<Out> out;
  bool vectors = false;
  Layout<In + Out> layout;
  std::int64_t threads() const {  // that the loop below keeps busy
    return vectors ? (layout.count + vector_length - 1) / vector_length : layout.count;
  }
};
template <class C, std::size_t In, std::size_t Out>
Operands<In, Out> operands(const Shape& shape, const std::array<TensorView, In>& inputs,
                           const std::array<TensorView, Out>& outputs) {
  Operands<In, Out> o;
  std::array<TensorView, In + Out> views;
  std::copy(inputs.begin(), inputs.end(), views.begin());
  std::copy(outputs.begin(), outputs.end(), views.begin() + In);
  o.layout = layout_of(shape, views);
  bool contiguous = true;
  for (const TensorView& x : views) contiguous = contiguous && (!x || x.is_contiguous());
  std::transform(inputs.begin(), inputs.end(), o.in.of, span_of);
  std::transform(outputs.begin(), outputs.end(), o.out.of, span_of);
  o.vectors = contiguous && can_use_vectors<C>(o.in) && can_use_vectors<C>(o.out);
  return o;
}

// body(i, in, out) as in for_elements, over the elements of all operands, shared out over the grid. What is not moved
// with vectors goes through the strides, contiguous or not: one program less per formula.
template <class C, Formats formats = Formats::all, int In, int Out, class Body>
__device__ __forceinline__ void for_operands(const Operands<In, Out>& o, const Body& body) {
  const std::int64_t done =
      for_vectors<C>(o.in, o.out, o.layout.count, o.vectors, global_thread(), global_threads(), body);
  C x[In > 0 ? In : 1] = {}, y[Out > 0 ? Out : 1] = {};
  for (std::int64_t i = done + global_thread(); i < o.layout.count; i += global_threads()) {
    std::int64_t at[In + Out];
    o.layout.offsets(i, at);
#pragma unroll
    for (int s = 0; s < In; ++s) x[s] = o.in.of[s] ? o.in.of[s].template get<C, formats>(at[s]) : C(0);
    body(i, x, y);
#pragma unroll
    for (int s = 0; s < Out; ++s) {
      if (o.out.of[s]) o.out.of[s].template set<formats>(at[In + s], y[s]);
    }
  }
}
// For launchers of kernels that read and write Formats::arithmetic.
inline void check_no_fp8(std::string_view what, std::initializer_list<TensorView> views) {
  for (const TensorView& x : views) {
    check(!x || !is_floating(x.dtype) || is_arithmetic_float(x.dtype), what, ": not defined for ", x.dtype,
          "; convert it first");
  }
}

// body.template operator()<C>() with the type values of this dtype are compared, chosen and moved in: exact for all.
template <class Body>
void with_exact_type(DType dtype, const Body& body) {
  if (dtype == DType::f64) return body.template operator()<double>();
  if (is_floating(dtype)) return body.template operator()<float>();
  body.template operator()<std::int64_t>();
}

}  // namespace binade::cuda
