// gather and scatter_add along one dim. Lines of that dim never share an output element, so they run in parallel and
// each is walked in order: scatter_add gives the same sums for any number of threads.
#include "binade/core/backend/kernels.h"
#include "binade/ops/cpu/row_math.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {
namespace {

// body(offset of the line in a, in index, in b) for every line of `index` along `dim`; offsets in elements.
template <class Body>
void for_lines(const TensorView& a, const TensorView& index, const TensorView& b, int dim, const Body& body) {
  std::int64_t lines = 1;
  for (int d = 0; d < index.dim(); ++d) lines *= d == dim ? 1 : index.size(d);
  const std::int64_t length = index.dim() == 0 ? 1 : index.size(dim);
  parallel_for(lines, std::max<std::int64_t>(1, elementwise_grain / 4 / std::max<std::int64_t>(length, 1)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t line = begin; line < end; ++line) {
                   std::int64_t rest = line, in_a = 0, in_index = 0, in_b = 0;
                   for (int d = index.dim() - 1; d >= 0; --d) {
                     if (d == dim) continue;
                     const std::int64_t i = rest % index.size(d);
                     rest /= index.size(d);
                     in_a += i * a.stride(d);
                     in_index += i * index.stride(d);
                     in_b += i * b.stride(d);
                   }
                   body(in_a, in_index, in_b);
                 }
               });
}
struct Line {
  std::int64_t length, stride;
};
Line line_of(const TensorView& x, int dim) { return x.dim() == 0 ? Line{1, 0} : Line{x.size(dim), x.stride(dim)}; }
std::int64_t checked(std::int64_t i, std::int64_t size, const char* op, int dim) {
  check(i >= 0 && i < size, op, ": index out of range: ", i, " along dim ", dim, " of size ", size);
  return i;
}

void gather(TensorView x, TensorView index, TensorView y, int dim) {
  if (index.numel() == 0) return;
  const Line from = line_of(x, dim), at = line_of(index, dim), to = line_of(y, dim);
  with_type(x.dtype, [&]<class T>() {
    for_lines(x, index, y, dim, [&](std::int64_t in_x, std::int64_t in_index, std::int64_t in_y) {
      const T* source = x.as<T>() + in_x;
      const std::int64_t* position = index.as<std::int64_t>() + in_index;
      T* target = y.as<T>() + in_y;
      for (std::int64_t k = 0; k < at.length; ++k) {
        target[k * to.stride] = source[checked(position[k * at.stride], from.length, "gather", dim) * from.stride];
      }
    });
  });
}

void scatter_add(TensorView source, TensorView index, TensorView y, int dim) {
  if (index.numel() == 0) return;
  const Line from = line_of(source, dim), at = line_of(index, dim), to = line_of(y, dim);
  with_float_type(source.dtype, "scatter_add", [&]<class T>() {
    with_float_type(y.dtype, "scatter_add", [&]<class Y>() {
      using C = Compute<Y>;
      for_lines(source, index, y, dim, [&](std::int64_t in_source, std::int64_t in_index, std::int64_t in_y) {
        const T* values = source.as<T>() + in_source;
        const std::int64_t* position = index.as<std::int64_t>() + in_index;
        Y* target = y.as<Y>() + in_y;
        for (std::int64_t k = 0; k < at.length; ++k) {
          Y& sum = target[checked(position[k * at.stride], to.length, "scatter_add", dim) * to.stride];
          sum = static_cast<Y>(static_cast<C>(sum) + convert<C>(values[k * from.stride]));
        }
      });
    });
  });
}

}  // namespace

void provide_index() {
  kernel::gather.provide(DeviceType::cpu, gather);
  kernel::scatter_add.provide(DeviceType::cpu, scatter_add);
}

}  // namespace binade::cpu
