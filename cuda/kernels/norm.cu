// layer_norm and rms_norm with gradients. With xhat = (x - mean) rstd and g = dy weight, both have
// dx = rstd (g - mean(g) - xhat mean(g xhat)), without the first mean for rms_norm. A row is read by one block, which
// in backward also sums dy xhat and dy, the gradients of weight and bias, over its rows.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <optional>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/cuda/kernels/arrival.h"
#include "binade/cuda/kernels/norm.h"

namespace binade::cuda {
namespace {

template <class C>
__global__ void norm_kernel(Rows<1, 1> rows, Norm<C> norm) {
  SHARED(double, shared, max_warps);
  norm.of_row(rows.of_block(), shared);
}

// Blocks' sums over their rows become the gradients of weight and bias, each absent or [n]: the last block of a group
// adds up the group, the last of these the groups, in order.
template <class C>
struct BlockSums {
  Span dweight, dbias;
  bool accumulate = false;
  unsigned group = 1;            // blocks
  C* blocks = nullptr;           // [gridDim.x, 2, n], or null: no such gradients
  double* groups = nullptr;      // [groups, 2, n]
  unsigned* arrivals = nullptr;  // of each group, and of all groups
};
__device__ __forceinline__ void finish_column(const Span& out, double total, std::int64_t j, bool accumulate) {
  if (out) out.set(j, accumulate ? out.get<double>(j) + total : total);
}
// body(j, sum of dy xhat, sum of dy) over `count` parts [2, n].
template <class T, class Body>
__device__ __forceinline__ void add_up(const T* parts, unsigned count, std::int64_t n, const Body& body) {
  for (std::int64_t j = threadIdx.x; j < n; j += blockDim.x) {
    double weight_total = 0, bias_total = 0;
#pragma unroll 8  // so many loads are on their way at a time
    for (unsigned p = 0; p < count; ++p) {
      weight_total += static_cast<double>(parts[2 * p * n + j]);
      bias_total += static_cast<double>(parts[(2 * p + 1) * n + j]);
    }
    body(j, weight_total, bias_total);
  }
}
template <class C>
__device__ void combine_block_sums(const BlockSums<C>& to, std::int64_t n, bool* last) {
  const unsigned group = blockIdx.x / to.group, groups = (gridDim.x + to.group - 1) / to.group;
  const unsigned first = group * to.group, members = gridDim.x - first < to.group ? gridDim.x - first : to.group;
  if (!last_to_arrive(to.arrivals + group, members, last)) return;
  const auto finish = [&](std::int64_t j, double weight_total, double bias_total) {
    finish_column(to.dweight, weight_total, j, to.accumulate);
    finish_column(to.dbias, bias_total, j, to.accumulate);
  };
  const C* const blocks = to.blocks + 2 * first * n;
  if (groups == 1) return add_up(blocks, members, n, finish);
  add_up(blocks, members, n, [&](std::int64_t j, double weight_total, double bias_total) {
    to.groups[2 * group * n + j] = weight_total;
    to.groups[(2 * group + 1) * n + j] = bias_total;
  });
  if (last_to_arrive(to.arrivals + groups, groups, last)) add_up(to.groups, groups, n, finish);
}

// Threads of a block that have a row together, and how many rows each team takes, one after the other.
struct Teams {
  unsigned threads, turns;
};
// a and b summed over the team, for all its threads. A barrier of the whole block; `shared`, 2 max_warps, is free again
// after the next one.
__device__ __forceinline__ void reduce_team(double& a, double& b, unsigned threads, double* shared) {
  a = reduce_warp(a, Plus());
  b = reduce_warp(b, Plus());
  const unsigned warps = threads / 32, warp = threadIdx.x / 32;
  if (warps == 1) return;
  if (threadIdx.x % 32 == 0) {
    shared[2 * warp] = a;
    shared[2 * warp + 1] = b;
  }
  __syncthreads();
  const double* const mine = shared + warp / warps * warps * 2;
  a = mine[0];
  b = mine[1];
  for (unsigned w = 1; w < warps; ++w) {
    a += mine[2 * w];
    b += mine[2 * w + 1];
  }
}

// rows: in x, dy; out dx, which is added to what is there where `accumulate`. A team takes at most 16 rows: so many are
// summed in C.
template <class C>
__global__ void norm_backward_kernel(Rows<2, 1> rows, Span weight, const C* mean, const C* rstd, bool accumulate,
                                     Teams team, BlockSums<C> to) {
  SHARED(double, shared, 4 * max_warps);
  SHARED1(bool, last_block);
  DYN_SHARED(C, all_sums);  // a team's of dy xhat, then of dy; a thread adds to its own columns
  const unsigned teams = blockDim.x / team.threads, me = threadIdx.x / team.threads, lane = threadIdx.x % team.threads;
  // Side by side are the columns of a vector's neighbours, which neighbouring threads add to at the same time.
  const std::int64_t vectors = (rows.n + vector_length - 1) / vector_length, width = vectors * vector_length;
  const auto place = [&](std::int64_t j) { return rows.vectors ? j % vector_length * vectors + j / vector_length : j; };
  C* const sums = all_sums + 2 * me * width;
  C* const bias_sums = sums + width;
  const double n = static_cast<double>(rows.n);
  for (unsigned turn = 0; turn < team.turns; ++turn) {
    const std::int64_t r = (static_cast<std::int64_t>(blockIdx.x) * team.turns + turn) * teams + me;
    const bool there = r < rows.rows;
    const Rows<2, 1> row = rows.row(there ? r : 0);
    const Spans<4> in{{row.in.of[0], row.in.of[1], weight, accumulate ? row.out.of[0] : Span{}}};
    const C m = there && mean ? mean[r] : C(0), s = there ? rstd[r] : C(0);
    C sum_g = 0, sum_g_xhat = 0;
    for_elements<C>(in, Spans<0>(), there ? rows.n : 0, rows.vectors, lane, team.threads,
                    [&](std::int64_t, const C* x, C*) {
                      const C g = weight ? x[1] * x[2] : x[1];
                      sum_g += g;
                      sum_g_xhat += g * ((x[0] - m) * s);
                    });
    double all_g = static_cast<double>(sum_g), all_g_xhat = static_cast<double>(sum_g_xhat);
    reduce_team(all_g, all_g_xhat, team.threads, shared + turn % 2 * 2 * max_warps);
    const C c1 = mean ? static_cast<C>(all_g / n) : C(0), c2 = static_cast<C>(all_g_xhat / n);
    for_elements<C>(in, Spans<1>{{row.out.of[0]}}, there ? rows.n : 0, rows.vectors, lane, team.threads,
                    [&](std::int64_t j, const C* x, C* dx) {
                      const C g = weight ? x[1] * x[2] : x[1], xhat = (x[0] - m) * s;
                      dx[0] = s * (g - c1 - xhat * c2) + x[3];
                      if (!to.blocks) return;
                      const std::int64_t at = place(j);
                      sums[at] = (turn == 0 ? C(0) : sums[at]) + x[1] * xhat;
                      bias_sums[at] = (turn == 0 ? C(0) : bias_sums[at]) + x[1];
                    });
  }
  if (!to.blocks) return;
  __syncthreads();
  // Teams whose first row is none have no sums: they are the last ones.
  const std::int64_t left = rows.rows - static_cast<std::int64_t>(blockIdx.x) * team.turns * teams;
  const unsigned summed = left < teams ? static_cast<unsigned>(left) : teams;
  C* const mine = to.blocks + 2 * blockIdx.x * rows.n;
  for (std::int64_t j = threadIdx.x; j < rows.n; j += blockDim.x) {
    double weight_total = 0, bias_total = 0;
    for (unsigned t = 0; t < summed; ++t) {
      weight_total += static_cast<double>(all_sums[2 * t * width + place(j)]);
      bias_total += static_cast<double>(all_sums[(2 * t + 1) * width + place(j)]);
    }
    mine[j] = static_cast<C>(weight_total);
    mine[rows.n + j] = static_cast<C>(bias_total);
  }
  combine_block_sums(to, rows.n, &last_block);
}

struct Columns {  // the gradients of weight and bias, each absent or [n]
  Span dweight, dbias;
  bool accumulate = false;
  double *weight_parts = nullptr, *bias_parts = nullptr;  // [gridDim.y, n]
  unsigned* arrivals = nullptr;
};
__device__ __forceinline__ double add_up_column(const double* parts, std::int64_t n, std::int64_t j) {
  double total = 0;
  for (unsigned p = 0; p < gridDim.y; ++p) total += parts[p * n + j];
  return total;
}

// The columns' sums alone, where dx is not wanted or rows are too long for shared memory: one thread per column and
// piece of the rows (block's y), at most 16 rows in C before they join a double.
template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    norm_columns_kernel(Span x, Span dy, const C* mean, const C* rstd, Columns to, std::int64_t rows, std::int64_t n,
                        std::int64_t piece_rows) {
  constexpr int in_narrow = 16;
  SHARED1(bool, last_block);
  const std::int64_t j = global_thread();
  const std::int64_t last = blockIdx.y * piece_rows + piece_rows < rows ? blockIdx.y * piece_rows + piece_rows : rows;
  double weight_total = 0, bias_total = 0;
  for (std::int64_t r = blockIdx.y * piece_rows; j < n && r < last;) {
    C weight_part = 0, bias_part = 0;
    for (int k = 0; k < in_narrow && r < last; ++k, ++r) {
      const C grad = dy.get<C>(r * n + j), m = mean ? mean[r] : C(0);
      weight_part += grad * ((x.get<C>(r * n + j) - m) * rstd[r]);
      bias_part += grad;
    }
    weight_total += static_cast<double>(weight_part);
    bias_total += static_cast<double>(bias_part);
  }
  if (j < n) {
    to.weight_parts[blockIdx.y * n + j] = weight_total;
    to.bias_parts[blockIdx.y * n + j] = bias_total;
  }
  if (!last_to_arrive(to.arrivals + blockIdx.x, gridDim.y, &last_block) || j >= n) return;
  finish_column(to.dweight, add_up_column(to.weight_parts, n, j), j, to.accumulate);
  finish_column(to.dbias, add_up_column(to.bias_parts, n, j), j, to.accumulate);
}

template <class C>
const C* or_null(const TensorView& x) {
  return x ? x.as<const C>() : nullptr;
}

void norm_rows(const TensorView& x, const TensorView& weight, const TensorView& bias, const TensorView& y,
               const TensorView& mean, const TensorView& rstd, double eps, bool centred) {
  if (x.numel() == 0) return;
  with_row_type(x.dtype, "norm", [&]<class C>() {
    const Norm<C> norm{span_of(weight), span_of(bias), mean.as<C>(), rstd.as<C>(), eps, centred};
    const auto rows = rows_of_norm(x, y, norm);
    launch(rows.config(x.device), norm_kernel<C>, rows, norm);
  });
}

// The columns' sums by a launch of their own.
template <class C>
void sum_columns(const TensorView& x, const TensorView& mean, const TensorView& rstd, const TensorView& dy,
                 Columns to) {
  const std::int64_t rows = x.size(0), n = x.size(1);
  // As many pieces as occupy a GPU; their number depends on the shape alone.
  LaunchConfig config = one_thread_each(n, x.device);
  const std::int64_t most = config.grid.x <= arrival_words ? 128 : 1;
  const std::int64_t piece_rows = std::max<std::int64_t>(16, (rows + most - 1) / most);
  const std::int64_t pieces = std::max<std::int64_t>(1, (rows + piece_rows - 1) / piece_rows);
  config.grid.y = static_cast<unsigned>(pieces);
  const Scratch parts(static_cast<std::size_t>(2 * pieces * n) * sizeof(double), x.device);
  to.weight_parts = parts.as<double>();
  to.bias_parts = parts.as<double>() + pieces * n;
  to.arrivals = arrivals_of(x.device);
  launch(config, norm_columns_kernel<C>, span_of(x), span_of(dy), or_null<C>(mean), rstd.as<const C>(), to, rows, n,
         piece_rows);
}

// How the rows are shared out over blocks, where these sum columns too; by the shape alone. Blocks of about 384 threads,
// 256 of them or more: what the last ones have to add up costs as much as the rows otherwise.
struct BlockShares {
  std::int64_t teams, turns, blocks, group, groups;
  BlockShares(std::int64_t rows, std::int64_t threads, std::size_t team_bytes) {
    teams = std::clamp<std::int64_t>(384 / threads, 1, static_cast<std::int64_t>(most_shared / team_bytes));
    turns = std::clamp<std::int64_t>(rows / (256 * teams), 1, 16);
    blocks = (rows + teams * turns - 1) / (teams * turns);
    group = std::max<std::int64_t>(16, (blocks + arrival_words - 2) / (arrival_words - 1));
    while (group * group < blocks) ++group;
    groups = (blocks + group - 1) / group;
  }
};

void norm_rows_backward(const TensorView& x, const TensorView& weight, const TensorView& mean, const TensorView& rstd,
                        const TensorView& dy, const TensorView& dx, const TensorView& dweight, const TensorView& dbias,
                        kernel::NormAccumulate accumulate) {
  const std::int64_t rows = x.size(0), n = x.size(1);
  if (n == 0) return;
  with_row_type(x.dtype, "norm", [&]<class C>() {
    const std::size_t sums =
        static_cast<std::size_t>((n + vector_length - 1) / vector_length * vector_length) * 2 * sizeof(C);
    const bool with_rows = dx && rows > 0, summing = dweight || dbias;
    const bool together = with_rows && summing && sums <= most_shared;
    if (with_rows) {
      auto both = make_rows<C, 2, 1>(x, {x, dy}, {dx});
      both.vectors = both.vectors && can_use_vectors<C>(Spans<1>{{span_of(weight)}});
      LaunchConfig config = both.config(x.device);
      const unsigned threads = config.block.x;
      const auto run = [&](std::int64_t turns, const BlockSums<C>& to) {
        launch(config, norm_backward_kernel<C>, both, span_of(weight), or_null<C>(mean), rstd.as<const C>(),
               accumulate.x, Teams{threads, static_cast<unsigned>(turns)}, to);
      };
      if (!together) {
        run(1, {});
      } else {
        const BlockShares shares(rows, threads, sums);
        const auto parts = [&](std::int64_t count) { return static_cast<std::size_t>(2 * count * n); };
        const Scratch blocks(parts(shares.blocks) * sizeof(C), x.device);
        const Scratch groups(shares.groups > 1 ? parts(shares.groups) * sizeof(double) : 0, x.device);
        config.grid.x = static_cast<unsigned>(shares.blocks);
        config.block.x = threads * static_cast<unsigned>(shares.teams);
        config.shared_bytes = sums * static_cast<std::size_t>(shares.teams);
        run(shares.turns, {.dweight = span_of(dweight),
                                .dbias = span_of(dbias),
                                .accumulate = accumulate.parameters,
                                .group = static_cast<unsigned>(shares.group),
                                .blocks = blocks.as<C>(),
                                .groups = groups.as<double>(),
                                .arrivals = arrivals_of(x.device)});
      }
    }
    if (summing && !together) {
      sum_columns<C>(x, mean, rstd, dy,
                     {.dweight = span_of(dweight), .dbias = span_of(dbias), .accumulate = accumulate.parameters});
    }
  });
}

void layer_norm(TensorView x, TensorView weight, TensorView bias, TensorView y, TensorView mean, TensorView rstd,
                double eps) {
  norm_rows(x, weight, bias, y, mean, rstd, eps, true);
}
void layer_norm_backward(TensorView x, TensorView weight, TensorView mean, TensorView rstd, TensorView dy,
                         TensorView dx, TensorView dweight, TensorView dbias, kernel::NormAccumulate accumulate) {
  norm_rows_backward(x, weight, mean, rstd, dy, dx, dweight, dbias, accumulate);
}
void rms_norm(TensorView x, TensorView weight, TensorView y, TensorView rstd, double eps) {
  norm_rows(x, weight, {}, y, {}, rstd, eps, false);
}
void rms_norm_backward(TensorView x, TensorView weight, TensorView rstd, TensorView dy, TensorView dx,
                       TensorView dweight, kernel::NormAccumulate accumulate) {
  norm_rows_backward(x, weight, {}, rstd, dy, dx, dweight, {}, accumulate);
}

}  // namespace

void provide_norm();
void provide_norm() {
  kernel::layer_norm.provide(DeviceType::cuda, layer_norm);
  kernel::layer_norm_backward.provide(DeviceType::cuda, layer_norm_backward);
  kernel::rms_norm.provide(DeviceType::cuda, rms_norm);
  kernel::rms_norm_backward.provide(DeviceType::cuda, rms_norm_backward);
}

}  // namespace binade::cuda
