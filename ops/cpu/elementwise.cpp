// Comparisons, where, fill, arange, and y += alpha x.
#include "binade/core/backend/kernels.h"
#include "binade/ops/cpu/blocks.h"
#include "binade/ops/formulas.h"

namespace binade::cpu {
namespace {

// body.template operator()<C>() with the type values of this dtype are compared and chosen in: exact for all of them.
template <class Body>
void with_exact_type(DType dtype, const Body& body) {
  if (dtype == DType::f64) return body.template operator()<double>();
  if (is_floating(dtype)) return body.template operator()<float>();
  body.template operator()<std::int64_t>();
}

template <class Formula>
void compare(TensorView a, TensorView b, TensorView y) {
  with_exact_type(a.dtype, [&]<class C>() {
    for_each_block<C, 2, 1>(y.shape, {a, b}, {y}, [](const auto& in, const auto& out, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) out[0][i] = static_cast<C>(Formula::holds(in[0][i], in[1][i]));
    });
  });
}

void where(TensorView condition, TensorView a, TensorView b, TensorView y) {
  with_exact_type(y.dtype, [&]<class C>() {
    for_each_block<C, 3, 1>(y.shape, {condition, a, b}, {y}, [](const auto& in, const auto& out, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) out[0][i] = in[0][i] != C(0) ? in[1][i] : in[2][i];
    });
  });
}

// fill's and arange's values are doubles; an integer beyond 2^53 is as exact as its double.
void fill(TensorView y, double value) {
  with_type(y.dtype, [&]<class T>() {
    const T element = convert<T>(value);
    const MergedDims merged = merge_dims<1>(y.shape, {y});
    parallel_for(y.numel(), elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
      for_each_run(merged, 0, begin, end, [&](std::int64_t offset, std::int64_t stride, std::int64_t length) {
        T* p = y.as<T>() + offset;
        if (stride == 1) {
          std::fill_n(p, length, element);
        } else {
          for (std::int64_t i = 0; i < length; ++i) p[i * stride] = element;
        }
      });
    });
  });
}

void arange(TensorView y, double start, double step) {
  with_type(y.dtype, [&]<class T>() {
    const MergedDims merged = merge_dims<1>(y.shape, {y});
    parallel_for(y.numel(), elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t i = begin;
      for_each_run(merged, 0, begin, end, [&](std::int64_t offset, std::int64_t stride, std::int64_t length) {
        T* p = y.as<T>() + offset;
        for (std::int64_t j = 0; j < length; ++j, ++i) {
          p[j * stride] = convert<T>(start + static_cast<double>(i) * step);
        }
      });
    });
  });
}

void add_into(TensorView x, TensorView y, double alpha) {
  check(is_floating(x.dtype) && is_floating(y.dtype), "add_into: needs floating dtypes, got ", x.dtype, " and ",
        y.dtype);
  const auto run = [&]<class C>() {
    const C factor = static_cast<C>(alpha);
    for_each_block<C, 2, 1>(y.shape, {x, y}, {y}, [&](const auto& in, const auto& out, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) out[0][i] = in[1][i] + factor * in[0][i];
    });
  };
  if (y.dtype == DType::f64 || x.dtype == DType::f64) return run.operator()<double>();
  run.operator()<float>();
}

}  // namespace

void provide_elementwise();
void provide_elementwise() {
  formulas::for_each_compare([]<class Formula>() {
    kernel::compare<Formula>.provide(DeviceType::cpu, compare<Formula>);
  });
  kernel::where.provide(DeviceType::cpu, where);
  kernel::fill.provide(DeviceType::cpu, fill);
  kernel::arange.provide(DeviceType::cpu, arange);
  kernel::add_into.provide(DeviceType::cpu, add_into);
}

}  // namespace binade::cpu
