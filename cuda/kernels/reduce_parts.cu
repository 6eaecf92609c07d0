// Neighbours first: the sums that wait for a partner are a binary counter, whose digit `level` is a sum of 2^level ranks.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/cuda/kernels/operands.h"
#include "binade/cuda/kernels/reduce_parts.h"

namespace binade::cuda {
namespace {

constexpr int levels = 11;
static_assert(most_ranks < 1 << levels);

// Integers wrap. Max and min keep a NaN of either side.
template <class A>
__device__ __forceinline__ A combine(dist::ReduceOp op, A a, A b) {
  if (op == dist::ReduceOp::max) return a > b || a != a ? a : b;
  if (op == dist::ReduceOp::min) return a < b || a != a ? a : b;
  if constexpr (std::is_integral_v<A>) return static_cast<A>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
  else return a + b;
}

struct Parts {
  const std::byte *own, *others;
  std::int64_t stride;
  int rank, ranks;
};

template <class A>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    reduce_parts_kernel(Parts parts, dist::ReduceOp op, Span out, std::int64_t count) {
  for (std::int64_t i = global_thread(); i < count; i += global_threads()) {
    A kept[levels] = {};
    for (int r = 0; r < parts.ranks; ++r) {
      A x = load<A>(r == parts.rank ? parts.own : parts.others + r * parts.stride, out.dtype, i);
      bool carried = true;
#pragma unroll
      for (int level = 0; level < levels; ++level) {
        const bool full = (r >> level & 1) != 0;
        if (carried && full) x = combine(op, kept[level], x);
        if (carried && !full) kept[level] = x;
        carried = carried && full;
      }
    }
    A total = A(0);
    bool any = false;
#pragma unroll
    for (int level = 0; level < levels; ++level) {  // without a partner: the later ranks are in the lower digits
      if ((parts.ranks >> level & 1) == 0) continue;
      total = any ? combine(op, kept[level], total) : kept[level];
      any = true;
    }
    if (op == dist::ReduceOp::avg) total /= static_cast<A>(parts.ranks);
    out.set(i, total);
  }
}

}  // namespace

void reduce_parts(const RankParts& p, dist::ReduceOp op, DType dtype, std::byte* out, std::int64_t count,
                  cudaStream_t stream) {
  if (count == 0) return;
  const LaunchConfig config{dim3(blocks_for(count)), dim3(block_threads), 0, stream};
  with_exact_type(dtype, [&]<class A>() {
    launch(config, reduce_parts_kernel<A>, Parts{p.own, p.others, p.stride, p.rank, p.ranks}, op, Span{out, dtype}, count);
  });
}

}  // namespace binade::cuda
