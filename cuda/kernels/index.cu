// gather and scatter_add along one dim. gather: one thread per element. scatter_add: one thread walks a line of that
// dim in order; lines never share an output element, so that the sums have one order.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/core/backend/kernels.h"
#include "binade/cuda/kernels/fault.h"
#include "binade/cuda/kernels/operands.h"

namespace binade::cuda {
namespace {

struct Line {  // along the dim that is indexed
  std::int64_t length = 1, stride = 0;
};

// Lines of index: operand 0 is x (or y of scatter_add), 1 the index, 2 y (or the source).
struct Lines {
  Layout<3> starts;
  Line x, index, y;
};

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    gather_kernel(Span x, const std::int64_t* index, Span y, Lines lines, IndexFault* fault) {
  const std::int64_t thread = global_thread();
  if (thread >= lines.starts.count * lines.index.length) return;
  // Neighbouring threads take neighbouring lines.
  const std::int64_t line = thread % lines.starts.count, k = thread / lines.starts.count;
  std::int64_t at[3];
  lines.starts.offsets(line, at);
  const std::int64_t from = index[at[1] + k * lines.index.stride];
  const bool known = from >= 0 && from < lines.x.length;
  if (!known) note_fault(fault, IndexUser::gather, k, from, lines.x.length);
  y.set(at[2] + k * lines.y.stride, known ? x.get<C>(at[0] + from * lines.x.stride) : C(0));
}

template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    scatter_add_kernel(Span y, const std::int64_t* index, Span source, Lines lines, IndexFault* fault) {
  const std::int64_t line = global_thread();
  if (line >= lines.starts.count) return;
  std::int64_t at[3];
  lines.starts.offsets(line, at);
  for (std::int64_t k = 0; k < lines.index.length; ++k) {
    const std::int64_t to = index[at[1] + k * lines.index.stride];
    if (to < 0 || to >= lines.x.length) {
      note_fault(fault, IndexUser::scatter_add, k, to, lines.x.length);
      continue;
    }
    const std::int64_t target = at[0] + to * lines.x.stride;
    y.set(target, y.get<C>(target) + source.get<C>(at[2] + k * lines.y.stride));
  }
}

Lines lines_of(TensorView x, TensorView index, TensorView y, int dim) {
  const auto line = [&](TensorView& v) {
    if (v.dim() == 0) return Line{};
    const Line along{v.size(dim), v.stride(dim)};
    v.shape.erase(dim);
    v.strides.erase(dim);
    return along;
  };
  const Line along_x = line(x), along_index = line(index), along_y = line(y);
  return {layout_of<3>(index.shape, {x, index, y}), along_x, along_index, along_y};
}

void gather(TensorView x, TensorView index, TensorView y, int dim) {
  if (index.numel() == 0) return;
  const Lines lines = lines_of(x, index, y, dim);
  with_exact_type(x.dtype, [&]<class C>() {
    launch(one_thread_each(index.numel(), x.device), gather_kernel<C>, span_of(x), index.as<const std::int64_t>(),
           span_of(y), lines, index_fault_of(x.device));
  });
}

void scatter_add(TensorView source, TensorView index, TensorView y, int dim) {
  if (index.numel() == 0) return;
  const Lines lines = lines_of(y, index, source, dim);
  const auto run = [&]<class C>(C) {
    launch(one_thread_each(lines.starts.count, y.device), scatter_add_kernel<C>, span_of(y),
           index.as<const std::int64_t>(), span_of(source), lines, index_fault_of(y.device));
  };
  if (y.dtype == DType::f64) return run(double{});
  run(float{});
}

}  // namespace

void provide_index();
void provide_index() {
  kernel::gather.provide(DeviceType::cuda, gather);
  kernel::scatter_add.provide(DeviceType::cuda, scatter_add);
}

}  // namespace binade::cuda
