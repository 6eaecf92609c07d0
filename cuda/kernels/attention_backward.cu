// Attention, backward. Probabilities are formed again from the saved logsumexp. One kernel owns queries, leaves their
// delta and sums dq over the keys; then the same one owning keys sums dk and dv over the queries of its heads in order:
// no atomics, the same bits each time. With P the probabilities and delta = sum_c do o: dS = P (do v^T - delta) scale,
// dq = dS k, dk = dS^T q, dv = P^T do; dropout multiplies P and do v^T.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/core/backend/memory.h"
#include "binade/cuda/kernels/attention.h"
#include "binade/cuda/kernels/attention_tiles.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

// Four tiles and scores must fit the shared memory of the smallest GPU, 99 KiB.
template <class C, int D>
using Tiles = std::conditional_t<
    std::is_same_v<C, double>, AttentionTiles<C, D, 16, 1, 1>,
    std::conditional_t<(D > 128), AttentionTiles<C, D, 16, 2, 1>,
                       std::conditional_t<(D > 64), AttentionTiles<C, D, 16, 4, 2>, AttentionTiles<C, D, 8, 4, 8>>>>;

// delta of query i, for all threads of a warp.
template <class C>
__device__ __forceinline__ C delta_of_query(const Span& o, std::int64_t o_row, const Span& d_o, std::int64_t do_row,
                                            int d) {
  C sum = 0;
  for (int c = static_cast<int>(threadIdx.x % 32); c < d; c += 32)
    sum = fma(o.get<C, Formats::arithmetic>(o_row + c), d_o.get<C, Formats::arithmetic>(do_row + c), sum);
  return reduce_warp(sum, Plus());
}

// delta [batch, heads, time_q] contiguous, where dq is not wanted; one warp per query.
template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    attention_delta_kernel(HeadRows o, HeadRows d_o, C* delta, std::int64_t heads, std::int64_t time, int d,
                           std::int64_t rows) {
  const std::int64_t row = global_thread() / 32;
  if (row >= rows) return;  // whole warps
  const std::int64_t i = row % time, head = row / time % heads, batch = row / time / heads;
  const C sum =
      delta_of_query<C>(o.of_head(batch, head), i * o.strides[2], d_o.of_head(batch, head), i * d_o.strides[2], d);
  if (threadIdx.x % 32 == 0) delta[row] = sum;
}

// One side of the scores: queries with q and do, or keys with k and v.
struct AttentionSide {
  HeadRows first, second;
};
struct AttentionStatistics {
  HeadRows lse;  // [batch, heads, time_q]
  void* delta;   // C, the same, contiguous: the queries' side writes it, the keys' side reads it
};

// Block: (batch, head of the own side, tile of the own side). `keys`: whether that is the keys' side; it has a second
// gradient, dv, where the queries' side reads o.
template <class C, int D, bool keys>
__global__ void __launch_bounds__(Tiles<C, D>::threads, attention_blocks)
    attention_backward_kernel(AttentionShape s, AttentionSide own, AttentionSide other, AttentionStatistics statistics,
                              HeadRows d_first, HeadRows dv_or_o, unsigned tiles) {
  using T = Tiles<C, D>;
  constexpr int rows = T::own / T::thread_rows, columns = T::other / T::thread_columns;
  constexpr int queries = keys ? T::other : T::own;  // of a tile
  DYN_SHARED(C, memory);
  C* const own_first = memory;
  C* const own_second = own_first + T::own * T::pitch;
  C* const other_first = own_second + T::own * T::pitch;
  C* const other_second = other_first + T::other * T::pitch;
  C* const shared_scores = other_second + T::other * T::pitch;  // probabilities, then gradients
  C* const tile_lse = shared_scores + T::own * T::score_pitch;
  C* const tile_delta = tile_lse + queries;

  const std::int64_t own_heads = keys ? s.kv_heads : s.heads, group = s.heads / s.kv_heads;
  const auto [batch, own_head, start] = own_tile(own_heads, tiles, T::own, s.causal, keys);
  const Extent extent = s.extent(batch);
  const std::int64_t own_time = keys ? extent.keys : extent.queries;
  const std::int64_t other_time = keys ? extent.queries : extent.keys;
  const std::int64_t stop = start + T::own < own_time ? start + T::own : own_time;
  T::template load<T::own>(own_first, own.first, own.first.of_head(batch, own_head), start, own_time, s);
  T::template load<T::own>(own_second, own.second, own.second.of_head(batch, own_head), start, own_time, s);

  // Of the queries from `first` on. Where no key is seen lse is -inf; then, as beyond the last query, exp(score - inf)
  // is 0.
  const auto load_statistics = [&](std::int64_t head, std::int64_t first) {
    constexpr C infinity = std::numeric_limits<C>::infinity();
    const C* const lse = reinterpret_cast<const C*>(statistics.lse.of_head(batch, head).data);
    const C* const delta = static_cast<const C*>(statistics.delta) + (batch * s.heads + head) * s.time_q;
    for (int i = static_cast<int>(threadIdx.x); i < queries; i += T::threads) {
      const bool there = first + i < extent.queries;
      const C of_row = there ? lse[(first + i) * statistics.lse.strides[2]] : infinity;
      tile_lse[i] = of_row == -infinity ? infinity : of_row;
      if (keys) tile_delta[i] = there ? delta[first + i] : C(0);
    }
  };
  if constexpr (!keys) {
    load_statistics(own_head, start);
    const Span o_head = dv_or_o.of_head(batch, own_head), do_head = own.second.of_head(batch, own_head);
    C* const delta = static_cast<C*>(statistics.delta) + (batch * s.heads + own_head) * s.time_q;
    for (std::int64_t i = start + threadIdx.x / 32; i < start + T::own; i += T::threads / 32) {
      C sum = 0;
      if (i < stop) sum = delta_of_query<C>(o_head, i * dv_or_o.strides[2], do_head, i * own.second.strides[2], s.d);
      if (threadIdx.x % 32 != 0) continue;
      tile_delta[i - start] = sum;
      if (i < stop) delta[i] = sum;
    }
  }

  // With a causal mask, keys from `start` are seen by queries from there on.
  const std::int64_t begin = keys && s.causal ? start / T::other * T::other : 0;
  const std::int64_t most_seen = !keys && s.causal && stop < other_time ? stop : other_time;
  const std::int64_t end = start < stop ? most_seen : 0;
  C first_sums[rows][T::channels] = {}, second_sums[rows][T::channels] = {};
  for (std::int64_t g = 0; g < (keys ? group : 1); ++g) {
    const std::int64_t head = keys ? own_head * group + g : own_head, other_head = keys ? head : own_head / group;
    const Span other_first_head = other.first.of_head(batch, other_head);
    const Span other_second_head = other.second.of_head(batch, other_head);
    for (std::int64_t at = begin; at < end; at += T::other) {
      T::template load<T::other>(other_first, other.first, other_first_head, at, other_time, s);
      T::template load<T::other>(other_second, other.second, other_second_head, at, other_time, s);
      if (keys) load_statistics(head, at);
      __syncthreads();
      const unsigned kept = T::template prepare<keys>(s, extent, batch, head, start, at, shared_scores);
      const Sight<keys> sight(s, extent, start, at);
      C probabilities[rows][columns], gradients[rows][columns];
      T::multiply(own_first, other_first, s.d, probabilities);
      T::finish(s, shared_scores, probabilities);
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        const int from = sight.first(T::row(i)), to = sight.last(T::row(i));
#pragma unroll
        for (int j = 0; j < columns; ++j) {
          const C lse = tile_lse[keys ? T::column(j) : T::row(i)], p = exp(probabilities[i][j] - lse);
          probabilities[i][j] = T::column(j) >= from && T::column(j) < to ? p : C(0);
        }
      }
      T::multiply(own_second, other_second, s.d, gradients);
      T::drop(s, kept, gradients);
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        const int from = sight.first(T::row(i)), to = sight.last(T::row(i));
#pragma unroll
        for (int j = 0; j < columns; ++j) {
          const C delta = tile_delta[keys ? T::column(j) : T::row(i)];
          const C d_score = probabilities[i][j] * (gradients[i][j] - delta) * static_cast<C>(s.scale);
          gradients[i][j] = T::column(j) >= from && T::column(j) < to ? d_score : C(0);
        }
      }
      if (keys) {
        T::drop(s, kept, probabilities);
        T::share(probabilities, shared_scores, s.tf32);
        T::accumulate(shared_scores, other_second, second_sums);
        __syncwarp();
      }
      T::share(gradients, shared_scores, s.tf32);
      T::accumulate(shared_scores, other_first, first_sums);
      __syncthreads();
    }
  }
  __syncthreads();  // where the other side is empty nothing was waited for yet
  const std::int64_t time = keys ? s.time_k : s.time_q;
  if (d_first.data)
    T::store(first_sums, own_first, d_first, d_first.of_head(batch, own_head), start, time, own_time, s.d);
  if (keys && dv_or_o.data)
    T::store(second_sums, own_second, dv_or_o, dv_or_o.of_head(batch, own_head), start, time, own_time, s.d);
}

template <class C, int D, bool keys>
void run(const AttentionShape& s, const AttentionSide& own, const AttentionSide& other,
         const AttentionStatistics& statistics, const TensorView& d_first, const TensorView& dv_or_o,
         const TensorView& like) {
  using T = Tiles<C, D>;
  if ((!d_first && !(keys && dv_or_o)) || like.numel() == 0) return;
  const auto tiles = static_cast<unsigned>((like.size(2) + T::own - 1) / T::own);
  const std::size_t shared =
      sizeof(C) * (2 * (T::own + T::other) * T::pitch + T::own * T::score_pitch + 2 * (keys ? T::other : T::own));
  const LaunchConfig config{dim3(static_cast<unsigned>(like.size(0) * like.size(1)) * tiles), dim3(T::threads), shared,
                            stream_of(like.device)};
  launch(config, attention_backward_kernel<C, D, keys>, s, own, other, statistics, head_rows(d_first),
         head_rows(dv_or_o), tiles);
}

}  // namespace

void own_attention_backward(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
                            TensorView d_o, TensorView dq, TensorView dk, TensorView dv,
                            kernel::AttentionOptions options) {
  if (o.numel() == 0) return;
  with_attention_tiles(q.dtype, q.size(3), [&]<class C, int D>() {
    const AttentionShape s = attention_shape(q, k, mask, options);
    const std::int64_t rows = q.size(0) * s.heads * s.time_q;
    const Scratch delta(static_cast<std::size_t>(rows) * sizeof(C), q.device);
    if (!dq) {
      launch(one_thread_each(rows * 32, q.device), attention_delta_kernel<C>, head_rows(o), head_rows(d_o),
             delta.as<C>(), s.heads, s.time_q, s.d, rows);
    }
    const AttentionSide queries{head_rows(q), head_rows(d_o)}, keys{head_rows(k), head_rows(v)};
    const AttentionStatistics statistics{head_rows(lse), delta.as<void>()};
    run<C, D, false>(s, queries, keys, statistics, dq, o, q);
    run<C, D, true>(s, keys, queries, statistics, dk, dv, k);
  });
}

}  // namespace binade::cuda
