// Copies between any dtypes and strides: runs of memory where both sides lie contiguous, tiles for transposed planes.
#include <cstring>

#include "binade/core/backend/kernels.h"
#include "binade/ops/cpu/blocks.h"
#include "binade/ops/cpu/quantize.h"

namespace binade::cpu {
namespace {

// Copies `count` elements; strides in elements.
using CopyRun = void (*)(const std::byte* x, std::int64_t x_stride, std::byte* y, std::int64_t y_stride,
                         std::int64_t count);

template <class From, class To>
void copy_run(const std::byte* source, std::int64_t x_stride, std::byte* destination, std::int64_t y_stride,
              std::int64_t count) {
  const From* x = reinterpret_cast<const From*>(source);
  To* y = reinterpret_cast<To*>(destination);
  constexpr bool from_16 = std::is_same_v<From, BFloat16> || std::is_same_v<From, Half>;
  constexpr bool from_8 = std::is_same_v<From, Float8E4M3> || std::is_same_v<From, Float8E5M2>;
  constexpr bool to_16 = std::is_same_v<To, BFloat16> || std::is_same_v<To, Half>;
  if (x_stride == 1 && y_stride == 1) {
    if constexpr (std::is_same_v<From, To>) {
      std::memcpy(y, x, static_cast<std::size_t>(count) * sizeof(To));
      return;
    } else if constexpr ((from_16 || from_8) && std::is_same_v<To, float>) {
      return widen(x, y, count);
    } else if constexpr (from_8 && std::is_same_v<To, BFloat16>) {
      return dequantize_run(x, y, count, 1);
    } else if constexpr (to_16 && std::is_same_v<From, float>) {
      return narrow(x, y, count);
    }
  }
  for (std::int64_t i = 0; i < count; ++i) y[i * y_stride] = convert<To>(x[i * x_stride]);
}

CopyRun copy_run_for(DType from, DType to) {
  return with_type(from, [&]<class From>() {
    return with_type(to, []<class To>() -> CopyRun { return copy_run<From, To>; });
  });
}

struct Plan {
  const std::byte* x;
  std::byte* y;
  std::int64_t x_size, y_size;  // bytes per element
  CopyRun run;
  void operator()(std::int64_t x_offset, std::int64_t x_stride, std::int64_t y_offset, std::int64_t y_stride,
                  std::int64_t count) const {
    run(x + x_offset * x_size, x_stride, y + y_offset * y_size, y_stride, count);
  }
};

// One plane [rows, columns] whose source is contiguous along the rows' index: tiles, so that both sides use the whole
// cache lines they touch.
void copy_plane(const Plan& plan, std::int64_t x_start, std::int64_t x_row, std::int64_t x_column,
                std::int64_t y_start, std::int64_t y_row, std::int64_t y_column, std::int64_t rows,
                std::int64_t columns) {
  constexpr std::int64_t tile = 32;
  const std::int64_t tiles_per_chunk = std::max<std::int64_t>(1, elementwise_grain / (tile * columns));
  parallel_for(chunk_count(rows, tile), tiles_per_chunk, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r0 = begin * tile; r0 < std::min(rows, end * tile); r0 += tile) {
      for (std::int64_t c0 = 0; c0 < columns; c0 += tile) {
        for (std::int64_t r = r0; r < std::min(rows, r0 + tile); ++r) {
          plan(x_start + r * x_row + c0 * x_column, x_column, y_start + r * y_row + c0 * y_column, y_column,
               std::min(tile, columns - c0));
        }
      }
    }
  });
}

// Offsets of element `index` of dims [0, dims) in both operands.
void offsets(const MergedDims& merged, int dims, std::int64_t index, std::int64_t& x, std::int64_t& y) {
  for (int d = dims - 1; d >= 0; --d) {
    x += (index % merged.sizes[d]) * merged.strides[0][d];
    y += (index % merged.sizes[d]) * merged.strides[1][d];
    index /= merged.sizes[d];
  }
}

void copy(TensorView source, TensorView y) {
  if (y.numel() == 0) return;
  const Plan plan{source.data, y.data, size_of(source.dtype), size_of(y.dtype), copy_run_for(source.dtype, y.dtype)};
  const MergedDims merged = merge_dims<2>(y.shape, {source, y});
  const std::int64_t* xs = merged.strides[0];
  const std::int64_t* ys = merged.strides[1];
  const int last = merged.dims - 1;
  const std::int64_t columns = merged.sizes[last];
  if (merged.dims >= 2 && xs[last - 1] > 0 && xs[last - 1] < xs[last]) {
    const std::int64_t rows = merged.sizes[last - 1];
    parallel_for(y.numel() / (rows * columns), std::max<std::int64_t>(1, elementwise_grain / (rows * columns)),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t p = begin; p < end; ++p) {
                     std::int64_t x_start = 0, y_start = 0;
                     offsets(merged, last - 1, p, x_start, y_start);
                     copy_plane(plan, x_start, xs[last - 1], xs[last], y_start, ys[last - 1], ys[last], rows, columns);
                   }
                 });
    return;
  }
  parallel_for(y.numel(), elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
    while (begin < end) {
      const std::int64_t i = begin % columns, length = std::min(end - begin, columns - i);
      std::int64_t x_start = i * xs[last], y_start = i * ys[last];
      offsets(merged, last, begin / columns, x_start, y_start);
      plan(x_start, xs[last], y_start, ys[last], length);
      begin += length;
    }
  });
}

}  // namespace

void provide_copy();
void provide_copy() { kernel::copy.provide(DeviceType::cpu, copy); }

}  // namespace binade::cpu
