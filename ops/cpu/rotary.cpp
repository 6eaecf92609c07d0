// Rotary position embedding: pairs (a, b) become (a cos - b sin, a sin + b cos); the inverse turns the other way.
#include "binade/core/backend/kernels.h"
#include "binade/core/base/scalar.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {

namespace {

std::int64_t row_offset(const TensorView& x, std::int64_t row) {  // row-major index over all dims but the last
  std::int64_t offset = 0;
  for (int d = x.dim() - 2; d >= 0; --d) {
    offset += row % x.size(d) * x.stride(d);
    row /= x.size(d);
  }
  return offset;
}

void rotary(TensorView x, TensorView cos, TensorView sin, TensorView y, bool interleaved, bool inverse) {
  if (x.numel() == 0) return;
  const std::int64_t d = x.size(-1), half = d / 2, time = x.size(-2), rows = x.numel() / d;
  with_float_type(x.dtype, "rotary_embedding", [&]<class T> {
    using S = Compute<T>;
    const std::int64_t step_x = x.stride(-1), step_y = y.stride(-1);
    const std::int64_t pair = interleaved ? 2 : 1, partner = interleaved ? 1 : half;
    const S direction = inverse ? S(-1) : S(1);
    parallel_for(rows, std::max<std::int64_t>(1, elementwise_grain / d), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* from = x.as<T>() + row_offset(x, row);
        T* to = y.as<T>() + row_offset(y, row);
        const S* cosines = cos.as<S>() + row % time * half;
        const S* sines = sin.as<S>() + row % time * half;
        for (std::int64_t i = 0; i < half; ++i) {
          const S a = convert<S>(from[i * pair * step_x]), b = convert<S>(from[(i * pair + partner) * step_x]);
          const S c = cosines[i], s = direction * sines[i];
          to[i * pair * step_y] = convert<T>(a * c - b * s);
          to[(i * pair + partner) * step_y] = convert<T>(a * s + b * c);
        }
      }
    });
  });
}

}  // namespace

void provide_rotary() { kernel::rotary.provide(DeviceType::cpu, rotary); }

}  // namespace binade::cpu
