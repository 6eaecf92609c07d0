// Kernels over many gradients at once: unscale, norm and check, clipping. One pass over memory.
#include <atomic>
#include <cmath>

#include "binade/core/backend/kernels.h"
#include "binade/ops/cpu/multi_chunks.h"
#include "binade/ops/cpu/multi_row.h"
#include "binade/ops/cpu/row_math.h"

namespace binade::cpu {
namespace {

double scalar(const TensorView& x) {
  return with_float_type(x.dtype, "scalar", [&]<class T>() { return static_cast<double>(*x.as<T>()); });
}

// Runs change(row, n) on every gradient chunk in its arithmetic type, in place.
template <class Change>
void change_grads(std::span<const kernel::GradItem> items, std::string_view what, const Change& change) {
  for_chunks(chunks_of(items), [&](const Chunk& chunk, std::size_t) {
    const TensorView& grad = items[chunk.item].grad;
    with_float_type(grad.dtype, what, [&]<class T>() {
      using C = Compute<T>;
      std::vector<C> room(static_cast<std::size_t>(is_narrow_float<T> ? chunk.size : 0));
      T* g = grad.as<T>() + chunk.begin;
      C* row = room.data();
      if constexpr (is_narrow_float<T>)
        widen(g, row, chunk.size);
      else
        row = g;
      change(row, chunk.size);
      row_out(row, g, chunk.size);
    });
  });
}

double inverse_of(const TensorView& scale) {  // one rounding
  return scale ? static_cast<double>(static_cast<float>(1 / scalar(scale))) : 1;
}
double clip_factor(const TensorView& norm, double max_norm) {
  const double factor = max_norm / (scalar(norm) + 1e-6);
  return factor >= 1 ? 1 : factor;  // a NaN goes on into the gradients, as in PyTorch
}

void unscale(std::span<const kernel::GradItem> items, TensorView scale, TensorView found_inf) {
  const double inverse = inverse_of(scale);
  std::atomic<bool> found = false;
  change_grads(items, "unscale", [&]<class C>(C* g, std::int64_t n) {
    if (!row_unscale(g, static_cast<C>(inverse), g, n)) found = true;
  });
  if (found) with_float_type(found_inf.dtype, "unscale", [&]<class T>() { *found_inf.as<T>() = T(1.0F); });
}

void inspect_gradients(std::span<const kernel::GradItem> items, TensorView scale, TensorView norm, TensorView found_inf) {
  const double inverse = inverse_of(scale);
  const std::vector<Chunk> chunks = chunks_of(items);
  std::vector<double> squares(chunks.size());
  std::atomic<bool> found = false;
  for_chunks(chunks, [&](const Chunk& chunk, std::size_t c) {
    const TensorView& grad = items[chunk.item].grad;
    const std::int64_t n = chunk.size;
    with_float_type(grad.dtype, "inspect_gradients", [&]<class T>() {
      using C = Compute<T>;
      std::vector<C> room(static_cast<std::size_t>(is_narrow_float<T> ? n : 0));
      const C* row = row_in(grad.as<T>() + chunk.begin, n, room.data());
      if (norm) squares[c] = row_squares_double(row, static_cast<C>(inverse), n);
      const bool all_finite = norm && std::isfinite(squares[c]);  // otherwise perhaps: products may overflow
      if (found_inf && !all_finite && !row_finite(row, n)) found = true;
    });
  });
  if (found_inf) *found_inf.as<float>() = found ? 1.0F : 0.0F;
  if (!norm) return;
  double sum = 0;
  for (const double s : squares) sum += s;  // in order, whoever computed them
  const double root = std::sqrt(sum);
  store_values(&root, norm, false);
}

void gradient_scale(TensorView grad_scale, TensorView scale, TensorView norm, double max_norm) {
  *grad_scale.as<double>() = inverse_of(scale) * (norm ? clip_factor(norm, max_norm) : 1);
}

void clip_by_norm(std::span<const kernel::GradItem> items, TensorView norm, double max_norm) {
  const double factor = clip_factor(norm, max_norm);
  if (factor == 1) return;
  change_grads(items, "clip_by_norm",
               [&]<class C>(C* g, std::int64_t n) { row_scale(g, static_cast<C>(factor), C(0), g, n); });
}

void clip_by_value(std::span<const kernel::GradItem> items, double limit) {
  change_grads(items, "clip_by_value", [&]<class C>(C* g, std::int64_t n) { row_clip(g, static_cast<C>(limit), n); });
}

void add_all(std::span<const kernel::SumItem> items) {
  for (const kernel::SumItem& item : items) kernel::add_into(item.x, item.y, 1);
}

}  // namespace

void provide_multi_tensor() {
  kernel::unscale.provide(DeviceType::cpu, unscale);
  kernel::inspect_gradients.provide(DeviceType::cpu, inspect_gradients);
  kernel::gradient_scale.provide(DeviceType::cpu, gradient_scale);
  kernel::clip_by_norm.provide(DeviceType::cpu, clip_by_norm);
  kernel::clip_by_value.provide(DeviceType::cpu, clip_by_value);
  kernel::add_all.provide(DeviceType::cpu, add_all);
}

}  // namespace binade::cpu
