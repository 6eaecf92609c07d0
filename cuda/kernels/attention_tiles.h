// What attention's kernels share: a block of 128 threads, as 8 rows of 16, owns a tile of `own` rows and walks over
// tiles of `other` rows; scores are formed tile by tile in registers (Dao, "FlashAttention-2", 2023). A thread holds
// Own rows times Other columns of the scores, and Own rows times every 16th channel of the results.
#pragma once
#include "binade/cuda/kernels/block.h"
#include "binade/cuda/kernels/draw.h"
#include "binade/cuda/kernels/operand.h"
// launch.h first
#include <limits>

#include "binade/core/backend/kernels.h"
#include "binade/cuda/runtime/context.h"

namespace binade::cuda {

// Per multiprocessor, for ptxas: all the registers it wants. Left alone it aims at more blocks and spills.
inline constexpr int attention_blocks = 2;

struct Extent {  // of one sequence: the queries and keys that take part
  std::int64_t queries, keys;
};
struct AttentionShape {
  std::int64_t heads, kv_heads, time_q, time_k;
  int d;
  double scale, dropout;
  Draw draw;
  bool causal, tf32;
  Strided4 mask;                               // [batch, heads, time_q, time_k] or absent
  const std::int32_t *q_lengths, *kv_lengths;  // [batch], or both null
  __device__ __forceinline__ Extent extent(std::int64_t batch) const {
    if (!q_lengths) return {time_q, time_k};
    return {q_lengths[batch], kv_lengths[batch]};
  }
};

inline AttentionShape attention_shape(const TensorView& q, const TensorView& k, const TensorView& mask,
                                      const kernel::AttentionOptions& o) {
  return {q.size(1),
          k.size(1),
          q.size(2),
          k.size(2),
          static_cast<int>(q.size(3)),
          o.scale,
          o.dropout,
          draw_of(o.state, q.device),
          o.causal,
          rounds_to_tf32(q.dtype, o.precision),
          strided(mask),
          o.q_lengths.as<const std::int32_t>(),
          o.kv_lengths.as<const std::int32_t>()};
}

struct HeadRows {  // x [batch, heads, time, d] with the last dim contiguous, or [batch, heads, time], or absent
  Span data;
  std::int64_t strides[3] = {};  // batch, head, time
  bool vectors = false;
  __device__ __forceinline__ Span of_head(std::int64_t batch, std::int64_t head) const {
    return data.from(batch * strides[0] + head * strides[1]);
  }
};
inline HeadRows head_rows(const TensorView& x) {
  HeadRows rows{span_of(x), {}, can_use_vectors<float>(Spans<1>{{span_of(x)}}, x.dim() == 4 ? x.size(3) : 0)};
  for (int d = 0; d < 3 && x; ++d) {
    rows.strides[d] = x.stride(d);
    rows.vectors = rows.vectors && x.stride(d) % vector_length == 0;
  }
  return rows;
}

// What is added to the scaled product of query i and key j: the mask; -inf where the key may not be seen.
template <class C>
__device__ __forceinline__ C score_term(const AttentionShape& s, const Extent& extent, std::int64_t batch,
                                        std::int64_t head, std::int64_t i, std::int64_t j) {
  constexpr C nothing = -std::numeric_limits<C>::infinity();
  if (i >= extent.queries || j >= extent.keys || (s.causal && j > i)) return nothing;
  if (!s.mask.data) return C(0);
  const C value = s.mask.data.get<C, Formats::arithmetic>(s.mask.at(batch, head, i, j));
  return s.mask.data.dtype != DType::boolean ? value : (value != C(0) ? C(0) : nothing);
}
__device__ __forceinline__ bool keeps(const AttentionShape& s, std::int64_t batch, std::int64_t head, std::int64_t i,
                                      std::int64_t j) {
  const auto word = static_cast<std::uint64_t>(((batch * s.heads + head) * s.time_q + i) * s.time_k + j);
  return static_cast<double>(uniform_from_word(philox_word(s.draw.state(), word))) >= s.dropout;
}

// D: channels there is room for. Own, Other: rows per thread.
template <class C, int D, int Own, int Other>
struct AttentionTiles {
  static constexpr int threads = 128, thread_rows = 8, thread_columns = 16;
  static constexpr int own = thread_rows * Own, other = thread_columns * Other, channels = D / thread_columns;
  static constexpr int pitch = D + 1, score_pitch = other + 1;  // odd: columns lie in different banks

  // First of this thread's rows; its columns are column() + 16 i.
  __device__ static int row() { return static_cast<int>(threadIdx.x) / thread_columns * Own; }
  __device__ static int column() { return static_cast<int>(threadIdx.x) % thread_columns; }

  // Rows [first, first + capacity) of one head; zeros after its last row, and up to a multiple of 16 channels.
  __device__ static void load(C* tile, int capacity, const HeadRows& rows, const Span& head, std::int64_t first,
                              std::int64_t time, const AttentionShape& s, bool tf32) {
    const int valid = static_cast<int>(time - first < capacity ? time - first : capacity);
    const int width = (s.d + thread_columns - 1) / thread_columns * thread_columns;
    if (std::is_same_v<C, float> && rows.vectors) {
      const int each = s.d / vector_length;
      for (int i = static_cast<int>(threadIdx.x); i < valid * each; i += threads) {
        const int r = i / each, c = i % each * vector_length;
        const Vector x = load_vector(head.data, head.dtype, ((first + r) * rows.strides[2] + c) / vector_length);
#pragma unroll
        for (int j = 0; j < vector_length; ++j) tile[r * pitch + c + j] = as_operand(static_cast<C>(x.v[j]), tf32);
      }
    } else {
      for (int i = static_cast<int>(threadIdx.x); i < valid * s.d; i += threads) {
        const int r = i / s.d, c = i % s.d;
        tile[r * pitch + c] = as_operand(head.get<C, Formats::arithmetic>((first + r) * rows.strides[2] + c), tf32);
      }
    }
    for (int i = static_cast<int>(threadIdx.x); i < capacity * width; i += threads) {
      const int r = i / width, c = i % width;
      if (r >= valid || c >= s.d) tile[r * pitch + c] = C(0);
    }
  }

  // scores[own][other] = a [own, d] b [other, d]^T
  __device__ static void multiply(const C* a, const C* b, int d, C (&scores)[Own][Other]) {
#pragma unroll
    for (int i = 0; i < Own; ++i)
#pragma unroll
      for (int j = 0; j < Other; ++j) scores[i][j] = C(0);
    for (int c = 0; c < d; ++c) {
      C x[Own], y[Other];
#pragma unroll
      for (int i = 0; i < Own; ++i) x[i] = a[(row() + i) * pitch + c];
#pragma unroll
      for (int j = 0; j < Other; ++j) y[j] = b[(column() + thread_columns * j) * pitch + c];
#pragma unroll
      for (int i = 0; i < Own; ++i)
#pragma unroll
        for (int j = 0; j < Other; ++j) scores[i][j] = fma(x[i], y[j], scores[i][j]);
    }
  }
  // The terms of this thread's scores, into `shared`, and which of its probabilities dropout keeps, as bits i Other +
  // j: loops that are not unrolled, for the mask's dtypes and Philox make long programs. The own side is the keys' or
  // not.
  __device__ static unsigned prepare(const AttentionShape& s, const Extent& extent, std::int64_t batch,
                                     std::int64_t head, std::int64_t start, std::int64_t at, bool keys, C* shared) {
    unsigned kept = 0;
#pragma unroll 1
    for (int e = 0; e < Own * Other; ++e) {
      const int r = row() + e / Other, c = column() + thread_columns * (e % Other);
      const std::int64_t query = keys ? at + c : start + r, key = keys ? start + r : at + c;
      shared[r * score_pitch + c] = score_term<C>(s, extent, batch, head, query, key);
      if (s.dropout > 0 && keeps(s, batch, head, query, key)) kept |= 1U << e;
    }
    return kept;
  }
  // The score softmax sees, from the product and what prepare() left.
  __device__ static C score(const AttentionShape& s, C product, const C* shared, int i, int j) {
    const C term = shared[(row() + i) * score_pitch + column() + thread_columns * j];
    return term == -std::numeric_limits<C>::infinity() ? term : product * static_cast<C>(s.scale) + term;
  }
  // What a probability is multiplied with: 0 where it is dropped, 1 without dropout.
  __device__ static C dropout_factor(const AttentionShape& s, unsigned kept, int i, int j) {
    if (s.dropout <= 0) return C(1);
    return kept >> (i * Other + j) & 1U ? static_cast<C>(1 / (1 - s.dropout)) : C(0);
  }
  // This thread's scores as an operand of the next product, for the threads that own the same rows: half a warp.
  __device__ static void share(const C (&scores)[Own][Other], C* shared, bool tf32) {
#pragma unroll
    for (int i = 0; i < Own; ++i)
#pragma unroll
      for (int j = 0; j < Other; ++j)
        shared[(row() + i) * score_pitch + column() + thread_columns * j] = as_operand(scores[i][j], tf32);
  }
  // sums[own][channels] += scores [own, other] b [other, d]
  __device__ static void accumulate(const C* scores, const C* b, int d, C (&sums)[Own][channels]) {
#pragma unroll 1
    for (int j = 0; j < other; ++j) {
      C x[Own];
#pragma unroll
      for (int i = 0; i < Own; ++i) x[i] = scores[(row() + i) * score_pitch + j];
#pragma unroll
      for (int c = 0; c < channels; ++c) {
        if (c * thread_columns >= d) break;
        const C y = b[j * pitch + column() + thread_columns * c];
#pragma unroll
        for (int i = 0; i < Own; ++i) sums[i][c] = fma(x[i], y, sums[i][c]);
      }
    }
  }
  // Rows [first, ..) of one head, `time` long, from sums, and zeros from `length` on; through `tile` [own, pitch],
  // which nobody reads any more: few stores in the program, side by side in memory.
  __device__ static void store(const C (&sums)[Own][channels], C* tile, const HeadRows& rows, const Span& head,
                               std::int64_t first, std::int64_t time, std::int64_t length, int d) {
#pragma unroll
    for (int i = 0; i < Own; ++i)
#pragma unroll
      for (int c = 0; c < channels; ++c)
        tile[(row() + i) * pitch + column() + thread_columns * c] = first + row() + i < length ? sums[i][c] : C(0);
    __syncthreads();
    const int valid = static_cast<int>(time - first < own ? time - first : own);
    if (std::is_same_v<C, float> && rows.vectors) {
      const int each = d / vector_length;
      for (int i = static_cast<int>(threadIdx.x); i < valid * each; i += threads) {
        const int r = i / each, c = i % each * vector_length;
        Vector x;
#pragma unroll
        for (int j = 0; j < vector_length; ++j) x.v[j] = static_cast<float>(tile[r * pitch + c + j]);
        store_vector(head.data, head.dtype, ((first + r) * rows.strides[2] + c) / vector_length, x);
      }
      return;
    }
    for (int i = static_cast<int>(threadIdx.x); i < valid * d; i += threads) {
      const int r = i / d, c = i % d;
      head.set<Formats::arithmetic>((first + r) * rows.strides[2] + c, tile[r * pitch + c]);
    }
  }
};

// body.template operator()<C, D>() for the smallest tiles that hold d channels.
template <class Body>
void with_attention_tiles(DType dtype, std::int64_t d, const Body& body) {
  check(is_arithmetic_float(dtype), "attention: expected f64, f32, f16 or bf16, got ", dtype);
  check(d <= 256, "attention: at most 256 channels per head on CUDA, got ", d);
  if (dtype == DType::f64) return body.template operator()<double, 256>();
  if (d <= 64) return body.template operator()<float, 64>();
  if (d <= 128) return body.template operator()<float, 128>();
  body.template operator()<float, 256>();
}

}  // namespace binade::cuda
