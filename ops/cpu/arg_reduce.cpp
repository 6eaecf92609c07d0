// argmax and argmin: the index of the first extreme along the reduced dimensions; the first NaN counts as extreme.
#include <vector>

#include "binade/core/backend/kernels.h"
#include "binade/ops/cpu/reduce_dims.h"

namespace binade::cpu {
namespace {

constexpr std::int64_t arg_chunk = 65536;

template <class C>
struct Best {
  C value{};
  std::int64_t index = 0;
  template <bool largest>
  void take(C candidate, std::int64_t i) {
    if (value != value) return;
    if ((largest ? candidate > value : candidate < value) || candidate != candidate) *this = {candidate, i};
  }
};

template <class C, bool largest>
void arg_reduce_typed(const TensorView& x, const TensorView& y) {
  const ReduceDims dims(x, y);
  const std::int64_t chunks = chunk_count(dims.count, arg_chunk);
  std::vector<Best<C>> best(static_cast<std::size_t>(dims.outputs * chunks));
  const std::int64_t grain = std::max<std::int64_t>(1, elementwise_grain / std::min(dims.count, arg_chunk));
  parallel_for(dims.outputs * chunks, grain, [&](std::int64_t begin, std::int64_t end) {
    C values[block_size];
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t offset = dims.x_offset(item / chunks), first = item % chunks * arg_chunk;
      const std::int64_t last = std::min(dims.count, first + arg_chunk);
      Best<C> found;
      for (std::int64_t i = first; i < last; i += block_size) {
        const std::int64_t count = std::min(block_size, last - i);
        read_elements(x, dims.reduced, offset, i, count, values);
        if (i == first) found = {values[0], first};
        for (std::int64_t j = 0; j < count; ++j) found.template take<largest>(values[j], i + j);
      }
      best[static_cast<std::size_t>(item)] = found;
    }
  });
  for (std::int64_t o = 0; o < dims.outputs; ++o) {
    Best<C> found = best[static_cast<std::size_t>(o * chunks)];
    for (std::int64_t c = 1; c < chunks; ++c) {
      const Best<C>& other = best[static_cast<std::size_t>(o * chunks + c)];
      found.template take<largest>(other.value, other.index);
    }
    y.as<std::int64_t>()[dims.y_offset(o)] = found.index;
  }
}

template <bool largest>
void arg_reduce(TensorView x, TensorView y) {
  if (y.numel() == 0) return;
  check(x.numel() > 0, largest ? "argmax" : "argmin", ": no elements to reduce in shape ", x.shape);
  if (x.dtype == DType::f64) return arg_reduce_typed<double, largest>(x, y);
  if (is_floating(x.dtype)) return arg_reduce_typed<float, largest>(x, y);
  arg_reduce_typed<std::int64_t, largest>(x, y);
}

}  // namespace

void provide_arg_reduce();
void provide_arg_reduce() {
  kernel::argmax.provide(DeviceType::cpu, arg_reduce<true>);
  kernel::argmin.provide(DeviceType::cpu, arg_reduce<false>);
}

}  // namespace binade::cpu
