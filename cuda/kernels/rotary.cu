// Rotary position embedding: pairs (a, b) become (a cos - b sin, a sin + b cos); the inverse turns the other way.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/core/backend/kernels.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

struct Pairs {  // of the last dim, d = 2 half
  std::int64_t half, time, x_step, y_step;
  bool interleaved;
};

// One thread per pair; rows: all dims but the last, of x and y.
template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    rotary_kernel(Span x, Span y, Layout<2> rows, Pairs pairs, const C* cosines, const C* sines, C direction) {
  const std::int64_t thread = global_thread(), row = thread / pairs.half, i = thread % pairs.half;
  if (row >= rows.count) return;
  std::int64_t start[2];
  rows.offsets(row, start);
  const std::int64_t first = pairs.interleaved ? 2 * i : i, second = pairs.interleaved ? 2 * i + 1 : i + pairs.half;
  const C a = x.get<C, Formats::arithmetic>(start[0] + first * pairs.x_step),
          b = x.get<C, Formats::arithmetic>(start[0] + second * pairs.x_step);
  const std::int64_t angle = row % pairs.time * pairs.half + i;
  const C c = cosines[angle], s = direction * sines[angle];
  y.set<Formats::arithmetic>(start[1] + first * pairs.y_step, a * c - b * s);
  y.set<Formats::arithmetic>(start[1] + second * pairs.y_step, a * s + b * c);
}

void rotary(TensorView x, TensorView cos, TensorView sin, TensorView y, bool interleaved, bool inverse) {
  if (x.numel() == 0) return;
  TensorView x_rows = x, y_rows = y;
  for (TensorView* view : {&x_rows, &y_rows}) {
    view->shape.erase(x.dim() - 1);
    view->strides.erase(x.dim() - 1);
  }
  const Layout<2> rows = layout_of<2>(x_rows.shape, {x_rows, y_rows});
  const Pairs pairs{x.size(-1) / 2, x.size(-2), x.stride(-1), y.stride(-1), interleaved};
  const auto run = [&]<class C>(C direction) {
    launch(one_thread_each(x.numel() / 2, x.device), rotary_kernel<C>, span_of(x), span_of(y), rows, pairs,
           cos.as<const C>(), sin.as<const C>(), direction);
  };
  if (x.dtype == DType::f64) return run(inverse ? -1.0 : 1.0);
  run(inverse ? -1.0F : 1.0F);
}

}  // namespace

void provide_rotary();
void provide_rotary() { kernel::rotary.provide(DeviceType::cuda, rotary); }

}  // namespace binade::cuda
