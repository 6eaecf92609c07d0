// Rows of a table by index, and the table's gradient: the sum of the rows of dy with the same index.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "binade/core/backend/kernels.h"
#include "binade/ops/cpu/row_math.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {
namespace {

void embedding(TensorView weight, TensorView indices, TensorView y) {
  const std::int64_t rows = weight.size(0), n = weight.size(1), count = indices.size(0);
  const std::int64_t* index = indices.as<std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t row = index[i * indices.stride(0)];
    check(row >= 0 && row < rows, "embedding: index out of range for ", rows, " rows: position ", i, " has ", row);
  }
  if (count * n == 0) return;
  with_type(weight.dtype, [&]<class T>() {
    parallel_for(count, std::max<std::int64_t>(1, elementwise_grain / n), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T* from = weight.as<T>() + index[i * indices.stride(0)] * weight.stride(0);
        T* to = y.as<T>() + i * n;
        if (weight.stride(1) == 1) {
          std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
        } else {
          for (std::int64_t j = 0; j < n; ++j) to[j] = from[j * weight.stride(1)];
        }
      }
    });
  });
}

// Positions sorted by index, kept in order within one: each run of equal indices is one row of the gradient, summed in
// order of position by one thread.
template <class T, class Out>
void sum_runs(const TensorView& dy, const TensorView& indices, const TensorView& dweight, bool accumulate) {
  using C = Compute<T>;
  const std::int64_t n = dweight.size(1), count = indices.size(0);
  const std::int64_t* index = indices.as<std::int64_t>();
  std::vector<std::int64_t> order(static_cast<std::size_t>(count)), starts;
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return index[a] < index[b]; });
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || index[order[i]] != index[order[i - 1]]) starts.push_back(static_cast<std::int64_t>(i));
  }
  const std::int64_t runs = static_cast<std::int64_t>(starts.size());
  starts.push_back(count);
  constexpr std::int64_t block = 1024;  // columns: a frequent index is shared among threads
  const std::int64_t blocks = chunk_count(n, block);
  parallel_for(runs * blocks, std::max<std::int64_t>(1, elementwise_grain / std::min(n, block)),
               [&](std::int64_t begin, std::int64_t end) {
                 std::vector<C> sum(static_cast<std::size_t>(std::min(n, block)));
                 for (std::int64_t item = begin; item < end; ++item) {
                   const auto run = static_cast<std::size_t>(item / blocks);
                   const std::int64_t first = item % blocks * block, width = std::min(block, n - first);
                   std::fill(sum.begin(), sum.end(), C(0));
                   for (std::int64_t i = starts[run]; i < starts[run + 1]; ++i) {
                     const T* row = dy.as<T>() + order[static_cast<std::size_t>(i)] * n + first;
                     for (std::int64_t j = 0; j < width; ++j)
                       sum[static_cast<std::size_t>(j)] += static_cast<C>(row[j]);
                   }
                   Out* to = dweight.as<Out>() + index[order[static_cast<std::size_t>(starts[run])]] * n + first;
                   using A = Compute<Out>;
                   for (std::int64_t j = 0; j < width; ++j) {
                     const A value = static_cast<A>(sum[static_cast<std::size_t>(j)]);
                     to[j] = static_cast<Out>(accumulate ? static_cast<A>(to[j]) + value : value);
                   }
                 }
               });
}

void embedding_backward(TensorView dy, TensorView indices, TensorView dweight, bool accumulate) {
  if (dweight.numel() == 0) return;
  if (!accumulate) {
    const std::int64_t bytes = dweight.numel() * size_of(dweight.dtype);
    parallel_for(bytes, elementwise_grain * 16, [&](std::int64_t begin, std::int64_t end) {
      std::memset(dweight.data + begin, 0, static_cast<std::size_t>(end - begin));
    });
  }
  with_float_type(dy.dtype, "embedding", [&]<class T>() {
    with_float_type(dweight.dtype, "embedding",
                    [&]<class Out>() { sum_runs<T, Out>(dy, indices, dweight, accumulate); });
  });
}

}  // namespace

void provide_embedding() {
  kernel::embedding.provide(DeviceType::cpu, embedding);
  kernel::embedding_backward.provide(DeviceType::cpu, embedding_backward);
}

}  // namespace binade::cpu
