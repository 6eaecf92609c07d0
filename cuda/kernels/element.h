// Elements of any dtype, read and written as the type arithmetic is done in: C is float, double or std::int64_t.
// The dtype is a run-time value, the same for all threads, so that one kernel serves every dtype; where everything lies
// contiguous and aligned, eight floats, halves or bfloats are moved with 16-byte accesses.
#pragma once
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cstddef>
#include <cstdint>

#include "binade/core/base/scalar.h"
#include "binade/core/tensor/view.h"
#include "binade/cuda/runtime/check.h"

namespace binade::cuda {

// ---- one element ---------------------------------------------------------------------------------------------------
// What a kernel may meet. Conversions of FP8 are long programs: kernels of operations that never see it leave them out,
// which halves the time a formula takes to compile.
enum class Formats { all, arithmetic };

template <class C, Formats formats = Formats::all>
__device__ __forceinline__ C load(const std::byte* data, DType dtype, std::int64_t i) {
  switch (dtype) {
    case DType::f64:
      return static_cast<C>(reinterpret_cast<const double*>(data)[i]);
    case DType::f32:
      return static_cast<C>(reinterpret_cast<const float*>(data)[i]);
    case DType::f16:
      return static_cast<C>(__half2float(reinterpret_cast<const __half*>(data)[i]));
    case DType::bf16:
      return static_cast<C>(__bfloat162float(reinterpret_cast<const __nv_bfloat16*>(data)[i]));
    case DType::f8e4m3:
      if constexpr (formats == Formats::all)
        return static_cast<C>(static_cast<float>(reinterpret_cast<const Float8E4M3*>(data)[i]));
      break;
    case DType::f8e5m2:
      if constexpr (formats == Formats::all)
        return static_cast<C>(static_cast<float>(reinterpret_cast<const Float8E5M2*>(data)[i]));
      break;
    case DType::i64:
      return static_cast<C>(reinterpret_cast<const std::int64_t*>(data)[i]);
    case DType::i32:
      return static_cast<C>(reinterpret_cast<const std::int32_t*>(data)[i]);
    case DType::u8:
    case DType::boolean:
      return static_cast<C>(reinterpret_cast<const std::uint8_t*>(data)[i]);
  }
  return C(0);
}

// Rounded once, to nearest even; a double goes to the narrow formats without a detour through float.
template <class C, Formats formats = Formats::all>
__device__ __forceinline__ void store(std::byte* data, DType dtype, std::int64_t i, C value) {
  switch (dtype) {
    case DType::f64:
      reinterpret_cast<double*>(data)[i] = static_cast<double>(value);
      return;
    case DType::f32:
      reinterpret_cast<float*>(data)[i] = static_cast<float>(value);
      return;
    case DType::f16:
      if constexpr (std::is_same_v<C, float>) {
        reinterpret_cast<__half*>(data)[i] = __float2half_rn(value);
      } else {
        reinterpret_cast<Half*>(data)[i] = Half(static_cast<double>(value));
      }
      return;
    case DType::bf16:
      if constexpr (std::is_same_v<C, float>) {
        reinterpret_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(value);
      } else {
        reinterpret_cast<BFloat16*>(data)[i] = BFloat16(static_cast<double>(value));
      }
      return;
    case DType::f8e4m3:
      if constexpr (formats == Formats::all) reinterpret_cast<Float8E4M3*>(data)[i] = convert<Float8E4M3>(value);
      return;
    case DType::f8e5m2:
      if constexpr (formats == Formats::all) reinterpret_cast<Float8E5M2*>(data)[i] = convert<Float8E5M2>(value);
      return;
    case DType::i64:
      reinterpret_cast<std::int64_t*>(data)[i] = static_cast<std::int64_t>(value);
      return;
    case DType::i32:
      reinterpret_cast<std::int32_t*>(data)[i] = static_cast<std::int32_t>(value);
      return;
    case DType::u8:
      reinterpret_cast<std::uint8_t*>(data)[i] = static_cast<std::uint8_t>(value);
      return;
    case DType::boolean:
      reinterpret_cast<std::uint8_t*>(data)[i] = value != C(0);
      return;
  }
}

// ---- eight elements of float arithmetic; doubles and integers are 8 bytes wide and need no such help ----
inline constexpr int vector_length = 8;
inline constexpr std::uintptr_t vector_alignment = 16;

struct Vector {
  float v[vector_length];
};
constexpr bool has_vectors(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

// Elements [8 i, 8 i + 8).
__device__ __forceinline__ Vector load_vector(const std::byte* data, DType dtype, std::int64_t i) {
  Vector x;
  if (dtype == DType::f32) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float4 four = reinterpret_cast<const float4*>(data)[2 * i + j];
      x.v[4 * j] = four.x;
      x.v[4 * j + 1] = four.y;
      x.v[4 * j + 2] = four.z;
      x.v[4 * j + 3] = four.w;
    }
    return x;
  }
  const uint4 raw = reinterpret_cast<const uint4*>(data)[i];
  const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int j = 0; j < vector_length; ++j) {
    const auto bits = static_cast<unsigned short>(words[j / 2] >> (j % 2 * 16));
    x.v[j] =
        dtype == DType::f16 ? __half2float(__ushort_as_half(bits)) : static_cast<float>(std::bit_cast<BFloat16>(bits));
  }
  return x;
}

__device__ __forceinline__ void store_vector(std::byte* data, DType dtype, std::int64_t i, const Vector& x) {
  if (dtype == DType::f32) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      reinterpret_cast<float4*>(data)[2 * i + j] =
          make_float4(x.v[4 * j], x.v[4 * j + 1], x.v[4 * j + 2], x.v[4 * j + 3]);
    }
    return;
  }
  unsigned words[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float low = x.v[2 * j], high = x.v[2 * j + 1];
    if (dtype == DType::f16) {
      words[j] = __half_as_ushort(__float2half_rn(low)) | static_cast<unsigned>(__half_as_ushort(__float2half_rn(high)))
                                                              << 16;
    } else {
      words[j] = __bfloat16_as_ushort(__float2bfloat16_rn(low)) |
                 static_cast<unsigned>(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
    }
  }
  reinterpret_cast<uint4*>(data)[i] = make_uint4(words[0], words[1], words[2], words[3]);
}

// size_of(), without its table in local memory.
__device__ __forceinline__ std::int64_t bytes_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f16:
    case DType::bf16:
      return 2;
    default:
      return 1;
  }
}

// ---- runs of elements ----------------------------------------------------------------------------------------------
struct Span {  // contiguous elements, or absent
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  __host__ __device__ explicit operator bool() const { return data != nullptr; }
  template <class C, Formats formats = Formats::all>
  __device__ __forceinline__ C get(std::int64_t i) const {
    return load<C, formats>(data, dtype, i);
  }
  template <Formats formats = Formats::all, class C>
  __device__ __forceinline__ void set(std::int64_t i, C value) const {
    store<C, formats>(data, dtype, i, value);
  }
  __device__ Span from(std::int64_t first) const { return {data ? data + first * bytes_of(dtype) : nullptr, dtype}; }
};
inline Span span_of(const TensorView& x) { return {x.data, x.dtype}; }

template <int N>
struct Spans {
  Span of[N > 0 ? N : 1];
};
// Whether a kernel may walk these with vectors; `row` is a length all its starting points are multiples of.
template <class C, int N>
__host__ __device__ bool can_use_vectors(const Spans<N>& x, std::int64_t row = 0) {
  bool all = std::is_same_v<C, float> && row % vector_length == 0;
  for (const Span& s : x.of) {
    all = all && (!s || (has_vectors(s.dtype) && reinterpret_cast<std::uintptr_t>(s.data) % vector_alignment == 0));
  }
  return all;
}

// body(i, in, out) for whole vectors of elements below `count`, shared out over `threads`, of which this is number
// `thread`: in[In] are the inputs' values (0 where absent), out[Out] what the outputs receive. Returns how many
// elements that were: 0 without vectors.
template <class C, int In, int Out, class Body>
__device__ __forceinline__ std::int64_t for_vectors(const Spans<In>& in, const Spans<Out>& out, std::int64_t count,
                                                    bool vectors, std::int64_t thread, std::int64_t threads,
                                                    const Body& body) {
  if constexpr (std::is_same_v<C, float>) {
    float x[In > 0 ? In : 1] = {}, y[Out > 0 ? Out : 1] = {};
    const std::int64_t whole = vectors ? count / vector_length : 0;
    for (std::int64_t i = thread; i < whole; i += threads) {
      Vector inputs[In > 0 ? In : 1] = {}, outputs[Out > 0 ? Out : 1] = {};
#pragma unroll
      for (int s = 0; s < In; ++s) {
        if (in.of[s]) inputs[s] = load_vector(in.of[s].data, in.of[s].dtype, i);
      }
#pragma unroll
      for (int j = 0; j < vector_length; ++j) {
#pragma unroll
        for (int s = 0; s < In; ++s) x[s] = inputs[s].v[j];
        body(i * vector_length + j, x, y);
#pragma unroll
        for (int s = 0; s < Out; ++s) outputs[s].v[j] = y[s];
      }
#pragma unroll
      for (int s = 0; s < Out; ++s) {
        if (out.of[s]) store_vector(out.of[s].data, out.of[s].dtype, i, outputs[s]);
      }
    }
    return whole * vector_length;
  } else {
    return 0;
  }
}

// body(i, in, out) for elements [0, count), as above.
template <class C, Formats formats = Formats::all, int In, int Out, class Body>
__device__ __forceinline__ void for_elements(const Spans<In>& in, const Spans<Out>& out, std::int64_t count,
                                             bool vectors, std::int64_t thread, std::int64_t threads,
                                             const Body& body) {
  C x[In > 0 ? In : 1] = {}, y[Out > 0 ? Out : 1] = {};
  const std::int64_t done = for_vectors<C>(in, out, count, vectors, thread, threads, body);
  for (std::int64_t i = done + thread; i < count; i += threads) {
#pragma unroll
    for (int s = 0; s < In; ++s) x[s] = in.of[s] ? in.of[s].template get<C, formats>(i) : C(0);
    body(i, x, y);
#pragma unroll
    for (int s = 0; s < Out; ++s) {
      if (out.of[s]) out.of[s].template set<formats>(i, y[s]);
    }
  }
}

}  // namespace binade::cuda
