// What attention's kernels share: a block of 128 threads owns a tile of `own` rows and walks over tiles of `other`
// rows; scores are formed tile by tile in registers (Dao, "FlashAttention-2", 2023). A thread holds Own rows times
// Other columns of the scores, and Own rows times four neighbouring channels of the results, and the same further on.
// Operands come from shared memory by fours: for 4 x 8 scores 12 loads of 16 bytes and 128 multiply-adds.
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
  bool causal, tf32;
  double scale, dropout, kept;  // kept: what remains is multiplied with, 1 / (1 - dropout)
  Draw draw;
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
          o.causal,
          rounds_to_tf32(q.dtype, o.precision),
          o.scale,
          o.dropout,
          1 / (1 - o.dropout),
          draw_of(o.state, q.device),
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

// What the mask adds to the scaled product of query i and key j, which exist; -inf where the key may not be seen.
template <class C>
__device__ __forceinline__ C mask_term(const AttentionShape& s, std::int64_t batch, std::int64_t head, std::int64_t i,
                                       std::int64_t j) {
  const C value = s.mask.data.get<C, Formats::arithmetic>(s.mask.at(batch, head, i, j));
  return s.mask.data.dtype != DType::boolean ? value : (value != C(0) ? C(0) : -std::numeric_limits<C>::infinity());
}
__device__ __forceinline__ bool keeps(const AttentionShape& s, std::int64_t batch, std::int64_t head, std::int64_t i,
                                      std::int64_t j) {
  const auto word = static_cast<std::uint64_t>(((batch * s.heads + head) * s.time_q + i) * s.time_k + j);
  return static_cast<double>(uniform_from_word(philox_word(s.draw.state(), word))) >= s.dropout;
}

// What a block owns. With a causal mask the tiles with most to do come first, so that the last ones to run are short;
// without one the tiles of a head follow each other and find what they share in the cache.
struct OwnTile {
  std::int64_t batch, head, start;
};
__device__ __forceinline__ OwnTile own_tile(std::int64_t heads, unsigned tiles, int rows, bool causal, bool keys) {
  const unsigned of_all_heads = gridDim.x / tiles, turn = blockIdx.x / of_all_heads;
  const unsigned tile = !causal ? blockIdx.x % tiles : keys ? turn : tiles - 1 - turn;
  const unsigned head = causal ? blockIdx.x % of_all_heads : blockIdx.x / tiles;
  return {head / static_cast<unsigned>(heads), head % static_cast<unsigned>(heads), std::int64_t{tile} * rows};
}

// Which pairs of an own row, counted from `start`, and one of the other side's, counted from `at`, are a query and a
// key that it sees. Each own row sees a run of the others: [first(row), last(row)).
template <bool keys>
struct Sight {
  int own, other, ahead;  // rows that take part; how far the other tile begins after the own one
  bool causal;
  __device__ __forceinline__ Sight(const AttentionShape& s, const Extent& extent, std::int64_t start, std::int64_t at)
      : own(static_cast<int>((keys ? extent.keys : extent.queries) - start)),
        other(static_cast<int>((keys ? extent.queries : extent.keys) - at)),
        ahead(static_cast<int>(at - start)),
        causal(s.causal) {}
  __device__ __forceinline__ int first(int row) const { return keys && causal ? row - ahead : 0; }
  __device__ __forceinline__ int last(int row) const {
    if (row >= own) return 0;
    return !keys && causal && row - ahead < other ? row - ahead + 1 : other;
  }
};

template <class C>
struct alignas(16) Four {
  C v[4];
};
template <class C>
__device__ __forceinline__ Four<C> four_at(const C* data) {
  return *reinterpret_cast<const Four<C>*>(data);
}

// D: channels there is room for. Columns: threads that own the same rows. Own, Other: rows per thread.
template <class C, int D, int Columns, int Own, int Other>
struct AttentionTiles {
  static constexpr int threads = 128, thread_columns = Columns, thread_rows = threads / Columns;
  static constexpr int own = thread_rows * Own, other = thread_columns * Other;
  static constexpr int fours = D / 4 / thread_columns, channels = 4 * fours;
  // A load of 16 bytes is done for half a warp at a time, 8 columns of 2 rows, and best where each lane and its
  // neighbour, or its second neighbour, read the same. Rows are padded so that 8 of them lie in different banks, those
  // of the scores so that a warp's stores do.
  static constexpr int pitch = D + 16 / static_cast<int>(sizeof(C)), score_pitch = other + thread_columns;
  static_assert(fours > 0 && other % 4 == 0 && Own * Other <= 32 && thread_columns <= 16);

  // This thread's rows are row(i), its columns column(j), its channels channel(f) and the three after it.
  __device__ static int row(int i) {
    return static_cast<int>(threadIdx.x % 2 + threadIdx.x / (2 * thread_columns) * 2) + thread_rows * i;
  }
  __device__ static int column(int j) {
    return static_cast<int>(threadIdx.x / 2 % thread_columns) + thread_columns * j;
  }
  __device__ static int channel(int f) { return 4 * column(f); }

  // Of the threads that own the same rows, for all of them.
  template <class Combine>
  __device__ static C of_columns(C x, const Combine& combine) {
#pragma unroll
    for (int distance = 2; distance <= thread_columns; distance *= 2)
      x = combine(x, __shfl_xor_sync(whole_warp, x, distance));
    return x;
  }

  // Rows [first, first + capacity) of one head; zeros after its last row and its last channel.
  template <int capacity>
  __device__ static void load(C* tile, const HeadRows& rows, const Span& head, std::int64_t first, std::int64_t time,
                              const AttentionShape& s) {
    const int valid = static_cast<int>(time - first < capacity ? time - first : capacity);
    if constexpr (std::is_same_v<C, float>) {
      if (rows.vectors) {
        const Span from = head.from(first * rows.strides[2]);
        if (from.dtype == DType::f32) return load_vectors<capacity>(tile, from, DType::f32, rows.strides[2], valid, s);
        return load_vectors<capacity>(tile, from, from.dtype, rows.strides[2], valid, s);
      }
    }
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < capacity * D; i += threads) {
      const int r = i / D, c = i % D;
      const bool there = r < valid && c < s.d;
      tile[r * pitch + c] =
          there ? as_operand(head.get<C, Formats::arithmetic>((first + r) * rows.strides[2] + c), s.tf32) : C(0);
    }
  }
  template <int capacity>
  __device__ static void load_vectors(C* tile, const Span& from, DType dtype, std::int64_t stride, int valid,
                                      const AttentionShape& s) {
    constexpr int each = D / vector_length, step = threads / each, turns = (capacity + step - 1) / step;
    constexpr int at_once = turns % 4 == 0 ? 4 : turns;  // loads under way
    const int r = static_cast<int>(threadIdx.x) / each, c = static_cast<int>(threadIdx.x) % each * vector_length;
#pragma unroll 1
    for (int turn = 0; turn < turns; turn += at_once) {
      Vector x[at_once];
#pragma unroll
      for (int k = 0; k < at_once; ++k) {
        const int i = r + (turn + k) * step;
        x[k] = i < valid && c < s.d ? load_vector(from.data, dtype, (i * stride + c) / vector_length) : Vector{};
      }
      if (s.tf32) {
#pragma unroll
        for (int k = 0; k < at_once; ++k)
#pragma unroll
          for (int j = 0; j < vector_length; ++j) x[k].v[j] = round_to_tf32(x[k].v[j]);
      }
#pragma unroll
      for (int k = 0; k < at_once; ++k) {
        const int i = r + (turn + k) * step;
        if (capacity % step != 0 && i >= capacity) break;
#pragma unroll
        for (int j = 0; j < vector_length; j += 4)
          *reinterpret_cast<Four<C>*>(tile + i * pitch + c + j) = {x[k].v[j], x[k].v[j + 1], x[k].v[j + 2],
                                                                   x[k].v[j + 3]};
      }
    }
  }

  // scores[own][other] = a [own, d] b [other, d]^T
  __device__ static void multiply(const C* a, const C* b, int d, C (&scores)[Own][Other]) {
#pragma unroll
    for (int i = 0; i < Own; ++i)
#pragma unroll
      for (int j = 0; j < Other; ++j) scores[i][j] = C(0);
#pragma unroll 1
    for (int c = 0; c < d; c += 8) {
#pragma unroll
      for (int half = 0; half < 8; half += 4) {
        Four<C> x[Own];
#pragma unroll
        for (int i = 0; i < Own; ++i) x[i] = four_at(a + row(i) * pitch + c + half);
#pragma unroll
        for (int j = 0; j < Other; ++j) {
          const Four<C> y = four_at(b + column(j) * pitch + c + half);
#pragma unroll
          for (int e = 0; e < 4; ++e)
#pragma unroll
            for (int i = 0; i < Own; ++i) scores[i][j] = fma(x[i].v[e], y.v[e], scores[i][j]);
        }
      }
    }
  }
  // With a mask its terms of this thread's scores, into `shared`; with dropout which of its probabilities are kept, as
  // bits i Other + j. Loops that are not unrolled, for the mask's dtypes and Philox make long programs.
  template <bool keys>
  __device__ static unsigned prepare(const AttentionShape& s, const Extent& extent, std::int64_t batch,
                                     std::int64_t head, std::int64_t start, std::int64_t at, C* shared) {
    unsigned kept = 0;
    if (!s.mask.data && s.dropout <= 0) return kept;
#pragma unroll 1
    for (int e = 0; e < Own * Other; ++e) {
      const int r = row(e / Other), c = column(e % Other);
      const std::int64_t query = keys ? at + c : start + r, key = keys ? start + r : at + c;
      const bool there = query < extent.queries && key < extent.keys;
      if (s.mask.data) shared[r * score_pitch + c] = there ? mask_term<C>(s, batch, head, query, key) : C(0);
      if (s.dropout > 0 && there && keeps(s, batch, head, query, key)) kept |= 1U << e;
    }
    return kept;
  }
  // The scores softmax sees, from the products and what prepare() left; what is not seen may be anything.
  __device__ static void finish(const AttentionShape& s, const C* shared, C (&scores)[Own][Other]) {
    const C scale = static_cast<C>(s.scale);
#pragma unroll
    for (int i = 0; i < Own; ++i)
#pragma unroll
      for (int j = 0; j < Other; ++j) scores[i][j] *= scale;
    if (!s.mask.data) return;
#pragma unroll
    for (int i = 0; i < Own; ++i)
#pragma unroll
      for (int j = 0; j < Other; ++j) {
        const C term = shared[row(i) * score_pitch + column(j)];
        scores[i][j] = term == -std::numeric_limits<C>::infinity() ? term : scores[i][j] + term;
      }
  }
  // What dropout leaves of probabilities, or of their gradients.
  __device__ static void drop(const AttentionShape& s, unsigned kept, C (&x)[Own][Other]) {
    if (s.dropout <= 0) return;
    const C factor = static_cast<C>(s.kept);
#pragma unroll
    for (int i = 0; i < Own; ++i)
#pragma unroll
      for (int j = 0; j < Other; ++j) x[i][j] *= kept >> (i * Other + j) & 1U ? factor : C(0);
  }
  // This thread's scores as an operand of the next product, for the threads that own the same rows, all in its warp.
  __device__ static void share(C (&scores)[Own][Other], C* shared, bool tf32) {
    if (tf32) {
#pragma unroll
      for (int i = 0; i < Own; ++i)
#pragma unroll
        for (int j = 0; j < Other; ++j) scores[i][j] = as_operand(scores[i][j], true);
    }
#pragma unroll
    for (int i = 0; i < Own; ++i)
#pragma unroll
      for (int j = 0; j < Other; ++j) shared[row(i) * score_pitch + column(j)] = scores[i][j];
    __syncwarp();
  }
  // sums[own][channels] += scores [own, other] b [other, d]
  __device__ static void accumulate(const C* scores, const C* b, C (&sums)[Own][channels]) {
#pragma unroll 2
    for (int j = 0; j < other; j += 4) {
      Four<C> x[Own];
#pragma unroll
      for (int i = 0; i < Own; ++i) x[i] = four_at(scores + row(i) * score_pitch + j);
#pragma unroll
      for (int e = 0; e < 4; ++e)
#pragma unroll
        for (int f = 0; f < fours; ++f) {
          const Four<C> y = four_at(b + (j + e) * pitch + channel(f));
#pragma unroll
          for (int i = 0; i < Own; ++i)
#pragma unroll
            for (int c = 0; c < 4; ++c) sums[i][4 * f + c] = fma(x[i].v[e], y.v[c], sums[i][4 * f + c]);
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
      for (int f = 0; f < fours; ++f) {
        Four<C> x;
#pragma unroll
        for (int c = 0; c < 4; ++c) x.v[c] = first + row(i) < length ? sums[i][4 * f + c] : C(0);
        *reinterpret_cast<Four<C>*>(tile + row(i) * pitch + channel(f)) = x;
      }
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
  if (d <= 32) return body.template operator()<float, 32>();
  if (d <= 64) return body.template operator()<float, 64>();
  if (d <= 128) return body.template operator()<float, 128>();
  body.template operator()<float, 256>();
}

}  // namespace binade::cuda
