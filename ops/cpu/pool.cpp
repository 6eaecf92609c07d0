// Max and average pooling, plane by plane.
#include <algorithm>
#include <cmath>
#include <limits>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/base/scalar.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {

namespace {

template <class T>
struct Plane {  // [h, w] of one batch element and channel
  T* data;
  std::int64_t row_stride, column_stride;
  Plane(const TensorView& x, std::int64_t plane)
      : data(x.as<T>() + plane / x.size(1) * x.stride(0) + plane % x.size(1) * x.stride(1)),
        row_stride(x.stride(2)),
        column_stride(x.stride(3)) {}
  T& operator()(std::int64_t i, std::int64_t j) const { return data[i * row_stride + j * column_stride]; }
};

struct Range {
  std::int64_t begin, end;
};
Range window(std::int64_t position, std::int64_t size, int axis, const kernel::PoolOptions& options) {
  const std::int64_t start = position * options.stride[axis] - options.padding[axis];
  return {std::max<std::int64_t>(start, 0), std::min(start + options.kernel[axis], size)};
}

// body(plane) for every (batch, channel); a plane is one thread's.
template <class Body>
void each_plane(const TensorView& x, const TensorView& y, const Body& body) {
  const std::int64_t work = std::max<std::int64_t>(1, std::max(x.size(2) * x.size(3), y.size(2) * y.size(3)));
  parallel_for(x.size(0) * x.size(1), std::max<std::int64_t>(1, elementwise_grain / work),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t plane = begin; plane < end; ++plane) body(plane);
               });
}

void max_pool2d(TensorView x, TensorView y, TensorView index, kernel::PoolOptions options) {
  with_float_type(x.dtype, "max_pool2d", [&]<class T> {
    using S = Compute<T>;
    each_plane(x, y, [&](std::int64_t plane) {
      const Plane<T> in(x, plane), out(y, plane);
      const Plane<std::int64_t> where(index, plane);
      for (std::int64_t i = 0; i < y.size(2); ++i)
        for (std::int64_t j = 0; j < y.size(3); ++j) {
          const Range rows = window(i, x.size(2), 0, options), columns = window(j, x.size(3), 1, options);
          S best = -std::numeric_limits<S>::infinity();
          std::int64_t position = rows.begin * x.size(3) + columns.begin;
          for (std::int64_t r = rows.begin; r < rows.end; ++r)
            for (std::int64_t c = columns.begin; c < columns.end; ++c) {
              const S value = convert<S>(in(r, c));
              if (value > best || (std::isnan(value) && !std::isnan(best))) {
                best = value;
                position = r * x.size(3) + c;
              }
            }
          out(i, j) = convert<T>(best);
          where(i, j) = position;
        }
    });
  });
}

// Gradients of one plane are summed in S and rounded once: windows overlap.
template <class T, class Add>
void spread(const TensorView& dy, const TensorView& dx, const Add& add) {
  using S = Compute<T>;
  each_plane(dx, dy, [&](std::int64_t plane) {
    const std::int64_t h = dx.size(2), w = dx.size(3);
    const Scratch memory(static_cast<std::size_t>(h * w) * sizeof(S), Device{});
    S* sums = memory.as<S>();
    std::fill_n(sums, h * w, S(0));
    const Plane<T> gradient(dy, plane), out(dx, plane);
    for (std::int64_t i = 0; i < dy.size(2); ++i)
      for (std::int64_t j = 0; j < dy.size(3); ++j) add(plane, i, j, convert<S>(gradient(i, j)), sums);
    for (std::int64_t i = 0; i < h; ++i)
      for (std::int64_t j = 0; j < w; ++j) out(i, j) = convert<T>(sums[i * w + j]);
  });
}

void max_pool2d_backward(TensorView dy, TensorView index, TensorView dx, kernel::PoolOptions /*options*/) {
  with_float_type(dy.dtype, "max_pool2d", [&]<class T> {
    spread<T>(dy, dx, [&](std::int64_t plane, std::int64_t i, std::int64_t j, Compute<T> gradient, Compute<T>* sums) {
      sums[Plane<std::int64_t>(index, plane)(i, j)] += gradient;
    });
  });
}

std::int64_t divisor(const Range& rows, const Range& columns, const kernel::PoolOptions& options) {
  return options.count_include_pad ? options.kernel[0] * options.kernel[1]
                                   : (rows.end - rows.begin) * (columns.end - columns.begin);
}

void avg_pool2d(TensorView x, TensorView y, kernel::PoolOptions options) {
  with_float_type(x.dtype, "avg_pool2d", [&]<class T> {
    using S = Compute<T>;
    each_plane(x, y, [&](std::int64_t plane) {
      const Plane<T> in(x, plane), out(y, plane);
      for (std::int64_t i = 0; i < y.size(2); ++i)
        for (std::int64_t j = 0; j < y.size(3); ++j) {
          const Range rows = window(i, x.size(2), 0, options), columns = window(j, x.size(3), 1, options);
          S sum = 0;
          for (std::int64_t r = rows.begin; r < rows.end; ++r)
            for (std::int64_t c = columns.begin; c < columns.end; ++c) sum += convert<S>(in(r, c));
          out(i, j) = convert<T>(sum / static_cast<S>(divisor(rows, columns, options)));
        }
    });
  });
}

void avg_pool2d_backward(TensorView dy, TensorView dx, kernel::PoolOptions options) {
  with_float_type(dy.dtype, "avg_pool2d", [&]<class T> {
    using S = Compute<T>;
    const std::int64_t h = dx.size(2), w = dx.size(3);
    spread<T>(dy, dx, [&](std::int64_t, std::int64_t i, std::int64_t j, S gradient, S* sums) {
      const Range rows = window(i, h, 0, options), columns = window(j, w, 1, options);
      const S share = gradient / static_cast<S>(divisor(rows, columns, options));
      for (std::int64_t r = rows.begin; r < rows.end; ++r)
        for (std::int64_t c = columns.begin; c < columns.end; ++c) sums[r * w + c] += share;
    });
  });
}

}  // namespace

void provide_pool() {
  kernel::max_pool2d.provide(DeviceType::cpu, max_pool2d);
  kernel::max_pool2d_backward.provide(DeviceType::cpu, max_pool2d_backward);
  kernel::avg_pool2d.provide(DeviceType::cpu, avg_pool2d);
  kernel::avg_pool2d_backward.provide(DeviceType::cpu, avg_pool2d_backward);
}

}  // namespace binade::cpu
