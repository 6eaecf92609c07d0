// Kernels over the rows of [rows, n] operands, contiguous or with one distance between all rows, one block per row: the
// operands as one parameter, and the passes over a row that several families share.
#pragma once
#include "binade/cuda/kernels/block.h"
#include "binade/cuda/kernels/operands.h"
// launch.h first
#include <limits>

namespace binade::cuda {

template <int In, int Out>
struct Rows {
  Spans<In> in;
  Spans<Out> out;
  std::int64_t rows = 0, n = 0;
  std::int64_t lead = 0;  // elements from one row's start to the next one's
  bool vectors = false;

  LaunchConfig config(Device device) const {
    return {dim3(static_cast<unsigned>(rows)), dim3(row_threads(n, vector_length)), 0, stream_of(device)};
  }
  // The row of this block.
  __device__ __forceinline__ Rows of_block() const { return row(blockIdx.x); }
  __device__ __forceinline__ Rows row(std::int64_t r) const {
    Rows row = *this;
    const std::int64_t start = r * lead;
#pragma unroll
    for (int s = 0; s < In; ++s) row.in.of[s] = in.of[s].from(start);
#pragma unroll
    for (int s = 0; s < Out; ++s) row.out.of[s] = out.of[s].from(start);
    return row;
  }
  // body(j, in, out) for the row's elements, shared out over the block.
  template <class C, class Body>
  __device__ __forceinline__ void for_each(const Body& body) const {
    for_elements<C>(in, out, n, vectors, threadIdx.x, blockDim.x, body);
  }
  // body(j, in): nothing is written.
  template <class C, class Body>
  __device__ __forceinline__ void read(const Body& body) const {
    for_elements<C>(in, Spans<0>(), n, vectors, threadIdx.x, blockDim.x,
                    [&](std::int64_t j, const C* x, C*) { body(j, x); });
  }
};

// lead: 0 for contiguous operands
template <class C, std::size_t In, std::size_t Out>
Rows<In, Out> make_rows(const TensorView& like, const std::array<TensorView, In>& inputs,
                        const std::array<TensorView, Out>& outputs, std::int64_t lead = 0) {
  Rows<In, Out> r;
  r.rows = like.size(0);
  r.n = like.size(1);
  r.lead = lead ? lead : r.n;
  std::transform(inputs.begin(), inputs.end(), r.in.of, span_of);
  std::transform(outputs.begin(), outputs.end(), r.out.of, span_of);
  r.vectors = can_use_vectors<C>(r.in, r.lead) && can_use_vectors<C>(r.out, r.lead);
  return r;
}

// body.template operator()<C>() with the type arithmetic on `dtype` is done in.
template <class Body>
void with_row_type(DType dtype, const char* what, const Body& body) {
  check(is_arithmetic_float(dtype), what, ": expected f64, f32, f16 or bf16, got ", dtype);
  if (dtype == DType::f64) return body.template operator()<double>();
  body.template operator()<float>();
}

// Of operand 0, for all threads of the block.
template <class C, int In, int Out>
__device__ __forceinline__ C row_max(const Rows<In, Out>& row, C* shared) {
  C most = -std::numeric_limits<C>::infinity();
  row.template read<C>([&](std::int64_t, const C* x) { most = Larger()(most, x[0]); });
  return reduce_block(most, shared, Larger());
}
template <class C, int In, int Out>
__device__ __forceinline__ C row_exp_sum(const Rows<In, Out>& row, C most, C* shared) {
  C sum = 0;
  row.template read<C>([&](std::int64_t, const C* x) { sum += exp(x[0] - most); });
  return reduce_block(sum, shared, Plus());
}

}  // namespace binade::cuda
