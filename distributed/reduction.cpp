#include "binade/distributed/reduction.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "binade/core/base/scalar.h"

namespace binade::dist {

namespace {

template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double,
                                       std::conditional_t<std::is_integral_v<T>, std::int64_t, float>>;

// a[i] = a[i] op b[i]. Max and min keep a NaN of either side.
template <class A>
void combine(ReduceOp op, A* a, const A* b, std::int64_t n) {
  switch (op) {
    case ReduceOp::sum:
    case ReduceOp::avg:
      if constexpr (std::is_integral_v<A>) {  // wraps, as integers do
        for (std::int64_t i = 0; i < n; ++i) a[i] = static_cast<A>(static_cast<std::uint64_t>(a[i]) + static_cast<std::uint64_t>(b[i]));
      } else {
        for (std::int64_t i = 0; i < n; ++i) a[i] += b[i];
      }
      break;
    case ReduceOp::max:
      for (std::int64_t i = 0; i < n; ++i) a[i] = a[i] > b[i] || a[i] != a[i] ? a[i] : b[i];
      break;
    case ReduceOp::min:
      for (std::int64_t i = 0; i < n; ++i) a[i] = a[i] < b[i] || a[i] != a[i] ? a[i] : b[i];
      break;
  }
}

template <class T>
void reduce(ReduceOp op, std::span<const std::byte* const> parts, std::byte* out, std::int64_t count) {
  using A = Accumulator<T>;
  constexpr std::int64_t block = 2048;  // elements: all parts of a block stay in the cache
  const std::size_t ranks = parts.size();
  std::vector<A> rows(ranks * static_cast<std::size_t>(block));
  const auto row = [&](std::size_t r) { return rows.data() + r * static_cast<std::size_t>(block); };
  for (std::int64_t begin = 0; begin < count; begin += block) {
    const std::int64_t n = std::min(block, count - begin);
    for (std::size_t r = 0; r < ranks; ++r) {
      const T* from = reinterpret_cast<const T*>(parts[r]) + begin;
      for (std::int64_t i = 0; i < n; ++i) row(r)[i] = convert<A>(from[i]);
    }
    for (std::size_t stride = 1; stride < ranks; stride *= 2) {
      for (std::size_t r = 0; r + stride < ranks; r += 2 * stride) combine(op, row(r), row(r + stride), n);
    }
    if (op == ReduceOp::avg) {
      for (std::int64_t i = 0; i < n; ++i) row(0)[i] /= static_cast<A>(ranks);
    }
    T* to = reinterpret_cast<T*>(out) + begin;
    for (std::int64_t i = 0; i < n; ++i) to[i] = convert<T>(row(0)[i]);
  }
}

}  // namespace

void reduce_parts(ReduceOp op, DType dtype, std::span<const std::byte* const> parts, std::byte* out, std::int64_t count) {
  with_type(dtype, [&]<class T>() { reduce<T>(op, parts, out, count); });
}

}  // namespace binade::dist
