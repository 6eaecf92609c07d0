// Attention, forward: a block owns a tile of queries and walks over the keys with an online softmax (Milakov and
// Gimelshein, 2018; Dao, "FlashAttention-2", 2023), so that time x time scores are never in memory. Products are fused
// multiply-adds in float (double); what cuDNN does with Tensor Cores is for cuda/libs.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/cuda/kernels/attention.h"
#include "binade/cuda/kernels/attention_tiles.h"

namespace binade::cuda {
namespace {

// Three tiles must fit the shared memory of the smallest GPU, 99 KiB.
template <class C, int D>
using Tiles =
    std::conditional_t<std::is_same_v<C, double>, AttentionTiles<C, D, 16, 2, 1>,
                       std::conditional_t<(D > 128), AttentionTiles<C, D, 16, 4, 2>, AttentionTiles<C, D, 8, 4, 8>>>;

// For ptxas: with up to 64 channels the registers of three blocks are enough.
template <int D>
inline constexpr int blocks = D > 64 ? attention_blocks : 3;

// Block: (batch, head, tile of queries). lse [batch, heads, time_q].
template <class C, int D>
__global__ void __launch_bounds__(Tiles<C, D>::threads, blocks<D>)
    attention_kernel(AttentionShape s, HeadRows q, HeadRows k, HeadRows v, HeadRows o, HeadRows lse, unsigned tiles) {
  using T = Tiles<C, D>;
  constexpr int rows = T::own / T::thread_rows, columns = T::other / T::thread_columns;
  constexpr C nothing = -std::numeric_limits<C>::infinity();
  DYN_SHARED(C, memory);
  C* const queries = memory;
  C* const keys = queries + T::own * T::pitch;  // then values
  C* const probabilities = keys + T::other * T::pitch;
  const auto [batch, head, first] = own_tile(s.heads, tiles, T::own, s.causal, false);
  const std::int64_t kv_head = head / (s.heads / s.kv_heads);
  const Span k_head = k.of_head(batch, kv_head), v_head = v.of_head(batch, kv_head);
  const Extent extent = s.extent(batch);
  const std::int64_t last = first + T::own < extent.queries ? first + T::own : extent.queries;
  const std::int64_t most_seen = s.causal && last < extent.keys ? last : extent.keys;  // by the last query of the tile
  const std::int64_t seen = first < last ? most_seen : 0;
  T::template load<T::own>(queries, q, q.of_head(batch, head), first, extent.queries, s);

  C sums[rows][T::channels] = {}, most[rows], total[rows];  // total: of this thread's columns
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    most[i] = nothing;
    total[i] = C(0);
  }
  for (std::int64_t key = 0; key < seen; key += T::other) {
    T::template load<T::other>(keys, k, k_head, key, extent.keys, s);
    __syncthreads();
    const unsigned kept = T::template prepare<false>(s, extent, batch, head, first, key, probabilities);
    C scores[rows][columns];
    T::multiply(queries, keys, s.d, scores);
    T::finish(s, probabilities, scores);
    const Sight<false> sight(s, extent, first, key);
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int end = sight.last(T::row(i));
      C tile_most = nothing, tile_total = C(0);
#pragma unroll
      for (int j = 0; j < columns; ++j) {
        if (T::column(j) >= end) scores[i][j] = nothing;
        tile_most = max(tile_most, scores[i][j]);  // a NaN comes back with its exponential
      }
      const C now = max(most[i], T::of_columns(tile_most, [](C a, C b) { return max(a, b); }));
      const C shift = now == nothing ? C(0) : now;  // -inf - -inf would be NaN
      const C factor = exp(most[i] - shift);
#pragma unroll
      for (int j = 0; j < columns; ++j) {
        scores[i][j] = exp(scores[i][j] - shift);
        tile_total += scores[i][j];
      }
      total[i] = total[i] * factor + tile_total;
      most[i] = now;
#pragma unroll
      for (int c = 0; c < T::channels; ++c) sums[i][c] *= factor;
    }
    T::drop(s, kept, scores);
    T::share(scores, probabilities, s.tf32);
    __syncthreads();
    T::template load<T::other>(keys, v, v_head, key, extent.keys, s);
    __syncthreads();
    T::accumulate(probabilities, keys, sums);
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < rows; ++i) {
    total[i] = T::of_columns(total[i], Plus());
    const C factor = total[i] == C(0) ? C(0) : C(1) / total[i];
#pragma unroll
    for (int c = 0; c < T::channels; ++c) sums[i][c] *= factor;
  }
  __syncthreads();  // without keys nothing was waited for yet
  T::store(sums, queries, o, o.of_head(batch, head), first, s.time_q, extent.queries, s.d);
  if (T::column(0) != 0) return;
  const Span lse_head = lse.of_head(batch, head);
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    const std::int64_t query = first + T::row(i);
    if (query >= s.time_q) continue;
    const C of_row = total[i] == C(0) ? nothing : most[i] + log(total[i]);
    lse_head.set<Formats::arithmetic>(query * lse.strides[2], query < extent.queries ? of_row : -nothing);
  }
}

}  // namespace

void own_attention(TensorView q, TensorView k, TensorView v, TensorView mask, TensorView o, TensorView lse,
                   kernel::AttentionOptions options) {
  if (o.numel() == 0) return;
  with_attention_tiles(q.dtype, q.size(3), [&]<class C, int D>() {
    using T = Tiles<C, D>;
    const auto tiles = static_cast<unsigned>((q.size(2) + T::own - 1) / T::own);
    const std::size_t shared = sizeof(C) * ((T::own + T::other) * T::pitch + T::own * T::score_pitch);
    const LaunchConfig config{dim3(static_cast<unsigned>(q.size(0) * q.size(1)) * tiles), dim3(T::threads), shared,
                              stream_of(q.device)};
    launch(config, attention_kernel<C, D>, attention_shape(q, k, mask, options), head_rows(q), head_rows(k),
           head_rows(v), head_rows(o), head_rows(lse), tiles);
  });
}

}  // namespace binade::cuda
