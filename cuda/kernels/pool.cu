// Max and average pooling over windows of planes. One thread per element, backward too: it gathers from the windows
// that hold its element, in the CPU's order, so that nothing needs atomics and both have the same bits.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <limits>

#include "binade/core/backend/kernels.h"
#include "binade/cuda/kernels/operand.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

using kernel::PoolOptions;

struct Planes {  // small: [batch, channels, oh, ow]; large: [.., h, w]
  Strided4 small, large, index;
  std::int64_t count, channels;
  int h, w, oh, ow;
};
struct Element {  // of one of the two
  std::int64_t batch, channel;
  int i, j;
};
__device__ __forceinline__ Element element(std::int64_t thread, std::int64_t channels, int rows, int columns) {
  const std::int64_t plane = thread / (static_cast<std::int64_t>(rows) * columns);
  const auto rest = static_cast<int>(thread % (static_cast<std::int64_t>(rows) * columns));
  return {plane / channels, plane % channels, rest / columns, rest % columns};
}
struct Range {
  int begin, end;
};
// What window `position` holds of `size` elements.
__device__ __forceinline__ Range window(int position, int size, int axis, const PoolOptions& o) {
  const int start = position * static_cast<int>(o.stride[axis]) - static_cast<int>(o.padding[axis]);
  return {max(start, 0), min(start + static_cast<int>(o.kernel[axis]), size)};
}
// The windows, of `count`, that hold element `position`.
__device__ __forceinline__ Range windows_over(int position, int count, int axis, const PoolOptions& o) {
  const int stride = static_cast<int>(o.stride[axis]), reach = position + static_cast<int>(o.padding[axis]);
  const int before = reach - static_cast<int>(o.kernel[axis]);  // the last window starts' end that is too early
  return {before < 0 ? 0 : before / stride + 1, min(reach / stride + 1, count)};
}
template <class C>
__device__ __forceinline__ C divisor(const Range& rows, const Range& columns, const PoolOptions& o) {
  return static_cast<C>(o.count_include_pad
                            ? o.kernel[0] * o.kernel[1]
                            : static_cast<std::int64_t>(rows.end - rows.begin) * (columns.end - columns.begin));
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) max_pool_kernel(Planes p, PoolOptions o) {
  const std::int64_t thread = global_thread();
  if (thread >= p.count) return;
  const Element e = element(thread, p.channels, p.oh, p.ow);
  const Range rows = window(e.i, p.h, 0, o), columns = window(e.j, p.w, 1, o);
  C best = -std::numeric_limits<C>::infinity();
  std::int64_t position = static_cast<std::int64_t>(rows.begin) * p.w + columns.begin;
  for (int r = rows.begin; r < rows.end; ++r) {
    for (int c = columns.begin; c < columns.end; ++c) {
      const C value = p.large.data.get<C, Formats::arithmetic>(p.large.at(e.batch, e.channel, r, c));
      if (value > best || (value != value && best == best)) {  // the first NaN wins
        best = value;
        position = static_cast<std::int64_t>(r) * p.w + c;
      }
    }
  }
  p.small.data.set<Formats::arithmetic>(p.small.at(e.batch, e.channel, e.i, e.j), best);
  p.index.data.set<Formats::arithmetic>(p.index.at(e.batch, e.channel, e.i, e.j), position);
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) max_pool_backward_kernel(Planes p, PoolOptions o) {
  const std::int64_t thread = global_thread();
  if (thread >= p.count) return;
  const Element e = element(thread, p.channels, p.h, p.w);
  const std::int64_t position = static_cast<std::int64_t>(e.i) * p.w + e.j;
  const Range rows = windows_over(e.i, p.oh, 0, o), columns = windows_over(e.j, p.ow, 1, o);
  C sum = 0;
  for (int r = rows.begin; r < rows.end; ++r) {
    for (int c = columns.begin; c < columns.end; ++c) {
      if (p.index.data.get<std::int64_t, Formats::arithmetic>(p.index.at(e.batch, e.channel, r, c)) == position)
        sum += p.small.data.get<C, Formats::arithmetic>(p.small.at(e.batch, e.channel, r, c));
    }
  }
  p.large.data.set<Formats::arithmetic>(p.large.at(e.batch, e.channel, e.i, e.j), sum);
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) avg_pool_kernel(Planes p, PoolOptions o) {
  const std::int64_t thread = global_thread();
  if (thread >= p.count) return;
  const Element e = element(thread, p.channels, p.oh, p.ow);
  const Range rows = window(e.i, p.h, 0, o), columns = window(e.j, p.w, 1, o);
  C sum = 0;
  for (int r = rows.begin; r < rows.end; ++r)
    for (int c = columns.begin; c < columns.end; ++c)
      sum += p.large.data.get<C, Formats::arithmetic>(p.large.at(e.batch, e.channel, r, c));
  p.small.data.set<Formats::arithmetic>(p.small.at(e.batch, e.channel, e.i, e.j), sum / divisor<C>(rows, columns, o));
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) avg_pool_backward_kernel(Planes p, PoolOptions o) {
  const std::int64_t thread = global_thread();
  if (thread >= p.count) return;
  const Element e = element(thread, p.channels, p.h, p.w);
  const Range rows = windows_over(e.i, p.oh, 0, o), columns = windows_over(e.j, p.ow, 1, o);
  C sum = 0;
  for (int r = rows.begin; r < rows.end; ++r) {
    for (int c = columns.begin; c < columns.end; ++c) {
      sum += p.small.data.get<C, Formats::arithmetic>(p.small.at(e.batch, e.channel, r, c)) /
             divisor<C>(window(r, p.h, 0, o), window(c, p.w, 1, o), o);
    }
  }
  p.large.data.set<Formats::arithmetic>(p.large.at(e.batch, e.channel, e.i, e.j), sum);
}

// One thread for each element of `written`.
template <class Kernel>
void run(Kernel in_float, Kernel in_double, const TensorView& small, const TensorView& large, const TensorView& index,
         const TensorView& written, const PoolOptions& options) {
  if (written.numel() == 0) return;
  const auto size = [](std::int64_t n) { return static_cast<int>(n); };
  const Planes planes{strided(small),      strided(large),      strided(index),      written.numel(),    large.size(1),
                      size(large.size(2)), size(large.size(3)), size(small.size(2)), size(small.size(3))};
  launch(one_thread_each(written.numel(), written.device), small.dtype == DType::f64 ? in_double : in_float, planes,
         options);
}

void max_pool2d(TensorView x, TensorView y, TensorView index, PoolOptions options) {
  run(max_pool_kernel<float>, max_pool_kernel<double>, y, x, index, y, options);
}
void max_pool2d_backward(TensorView dy, TensorView index, TensorView dx, PoolOptions options) {
  run(max_pool_backward_kernel<float>, max_pool_backward_kernel<double>, dy, dx, index, dx, options);
}
void avg_pool2d(TensorView x, TensorView y, PoolOptions options) {
  run(avg_pool_kernel<float>, avg_pool_kernel<double>, y, x, {}, y, options);
}
void avg_pool2d_backward(TensorView dy, TensorView dx, PoolOptions options) {
  run(avg_pool_backward_kernel<float>, avg_pool_backward_kernel<double>, dy, dx, {}, dx, options);
}

}  // namespace

void provide_pool();
void provide_pool() {
  kernel::max_pool2d.provide(DeviceType::cuda, max_pool2d);
  kernel::max_pool2d_backward.provide(DeviceType::cuda, max_pool2d_backward);
  kernel::avg_pool2d.provide(DeviceType::cuda, avg_pool2d);
  kernel::avg_pool2d_backward.provide(DeviceType::cuda, avg_pool2d_backward);
}

}  // namespace binade::cuda
