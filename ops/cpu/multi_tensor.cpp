// Kernels over many tensors at once: unscale, norms, clipping, Adam and SGD. One pass over memory; work is cut into
// chunks of all tensors together, so that one large tensor does not wait for many small ones.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "binade/core/backend/kernels.h"
#include "binade/ops/cpu/multi_row.h"
#include "binade/ops/cpu/row_math.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {
namespace {

constexpr std::int64_t chunk_size = 16384;  // elements; five such float arrays fit a core's L2 cache
struct Chunk {
  std::size_t item;
  std::int64_t begin, size;
};
template <class Item>
std::vector<Chunk> chunks_of(std::span<const Item> items) {
  std::vector<Chunk> chunks;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::int64_t n = items[i].where().numel();
    for (std::int64_t begin = 0; begin < n; begin += chunk_size) {
      chunks.push_back({i, begin, std::min(chunk_size, n - begin)});
    }
  }
  return chunks;
}
template <class Body>  // body(chunk, its number)
void for_chunks(const std::vector<Chunk>& chunks, const Body& body) {
  parallel_for(static_cast<std::int64_t>(chunks.size()), 1, [&](std::int64_t c, std::int64_t) {
    body(chunks[static_cast<std::size_t>(c)], static_cast<std::size_t>(c));
  });
}
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

void unscale(std::span<const kernel::GradItem> items, TensorView inverse_scale, TensorView found_inf) {
  const double inverse = scalar(inverse_scale);
  std::atomic<bool> found = false;
  change_grads(items, "unscale", [&]<class C>(C* g, std::int64_t n) {
    if (!row_unscale(g, static_cast<C>(inverse), n)) found = true;
  });
  if (found) with_float_type(found_inf.dtype, "unscale", [&]<class T>() { *found_inf.as<T>() = T(1.0F); });
}

void global_norm(std::span<const kernel::GradItem> items, TensorView norm) {
  const std::vector<Chunk> chunks = chunks_of(items);
  std::vector<double> squares(chunks.size());
  for_chunks(chunks, [&](const Chunk& chunk, std::size_t c) {
    const TensorView& grad = items[chunk.item].grad;
    with_float_type(grad.dtype, "global_norm", [&]<class T>() {
      std::vector<Compute<T>> room(static_cast<std::size_t>(is_narrow_float<T> ? chunk.size : 0));
      squares[c] = row_squares_double(row_in(grad.as<T>() + chunk.begin, chunk.size, room.data()), chunk.size);
    });
  });
  double sum = 0;
  for (const double s : squares) sum += s;  // in order, whoever computed them
  const double root = std::sqrt(sum);
  store_values(&root, norm, false);
}

void clip_by_norm(std::span<const kernel::GradItem> items, TensorView norm, double max_norm) {
  const double factor = max_norm / (scalar(norm) + 1e-6);
  if (factor >= 1) return;  // a NaN goes on into the gradients, as in PyTorch
  change_grads(items, "clip_by_norm",
               [&]<class C>(C* g, std::int64_t n) { row_scale(g, static_cast<C>(factor), C(0), g, n); });
}

void clip_by_value(std::span<const kernel::GradItem> items, double limit) {
  change_grads(items, "clip_by_value", [&]<class C>(C* g, std::int64_t n) { row_clip(g, static_cast<C>(limit), n); });
}

// Runs update(p, g, m, v, n) on every chunk of every parameter, in the parameter's arithmetic type.
template <class Update>
void update_params(std::span<const kernel::OptimizerItem> items, std::string_view what, const Update& update) {
  for_chunks(chunks_of(items), [&](const Chunk& chunk, std::size_t) {
    const kernel::OptimizerItem& item = items[chunk.item];
    with_float_type(item.param.dtype, what, [&]<class P>() {
      using C = Compute<P>;
      const std::int64_t n = chunk.size;
      const auto state = [&](const TensorView& s) {
        if (s) check(s.dtype == dtype_of<C>, what, ": state must be ", dtype_of<C>, ", got ", s.dtype);
        return s ? s.as<C>() + chunk.begin : nullptr;
      };
      P* param = item.param.as<P>() + chunk.begin;
      std::vector<C> param_room(static_cast<std::size_t>(is_narrow_float<P> ? n : 0)), grad_room;
      C* p = param_room.data();
      if constexpr (is_narrow_float<P>)
        widen(param, p, n);
      else
        p = param;
      const C* g = nullptr;
      if (item.grad.dtype == dtype_of<C>) {
        g = item.grad.as<C>() + chunk.begin;
      } else {  // a gradient of another dtype than the arithmetic's
        grad_room.resize(static_cast<std::size_t>(n));
        with_float_type(item.grad.dtype, what, [&]<class G>() {
          const G* from = item.grad.as<G>() + chunk.begin;
          for (std::int64_t i = 0; i < n; ++i) grad_room[static_cast<std::size_t>(i)] = convert<C>(from[i]);
        });
        g = grad_room.data();
      }
      update(p, g, state(item.m), state(item.v), n);
      row_out(p, param, n);
    });
  });
}

void adam(std::span<const kernel::OptimizerItem> items, kernel::AdamOptions options) {
  const double t = static_cast<double>(options.step);
  AdamFactors f;
  f.keep = options.decoupled ? 1 - options.lr * options.weight_decay : 1;
  f.decay = options.decoupled ? 0 : options.weight_decay;
  f.one_minus_beta1 = 1 - options.beta1;
  f.beta2 = options.beta2;
  f.one_minus_beta2 = 1 - options.beta2;
  f.step = options.lr / (1 - std::pow(options.beta1, t));
  f.inverse_root = 1 / std::sqrt(1 - std::pow(options.beta2, t));
  f.eps = options.eps;
  update_params(items, "adam",
                [&]<class C>(C* p, const C* g, C* m, C* v, std::int64_t n) { row_adam(p, g, m, v, f, n); });
}

void sgd(std::span<const kernel::OptimizerItem> items, kernel::SgdOptions options) {
  SgdFactors f;
  f.lr = options.lr;
  f.decay = options.weight_decay;
  f.momentum = options.first ? 0 : options.momentum;
  f.one_minus_dampening = options.first ? 1 : 1 - options.dampening;
  f.nesterov = options.nesterov ? options.momentum : 0;
  update_params(items, "sgd", [&]<class C>(C* p, const C* g, C* m, C*, std::int64_t n) {
    row_sgd(p, g, options.momentum == 0 ? nullptr : m, f, options.first, options.nesterov, n);
  });
}

}  // namespace

void provide_multi_tensor() {
  kernel::unscale.provide(DeviceType::cpu, unscale);
  kernel::global_norm.provide(DeviceType::cpu, global_norm);
  kernel::clip_by_norm.provide(DeviceType::cpu, clip_by_norm);
  kernel::clip_by_value.provide(DeviceType::cpu, clip_by_value);
  kernel::adam.provide(DeviceType::cpu, adam);
  kernel::sgd.provide(DeviceType::cpu, sgd);
}

}  // namespace binade::cpu
