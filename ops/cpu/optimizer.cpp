// Adam and SGD over many parameters at once, and the flags and counters a step leaves to the device. A chunk of a
// parameter is updated in float (double for f64), from and to whatever its state is stored in.
#include <cmath>
#include <vector>

#include "binade/core/backend/kernels.h"
#include "binade/core/base/stochastic.h"
#include "binade/ops/cpu/multi_chunks.h"
#include "binade/ops/cpu/multi_row.h"
#include "binade/ops/cpu/row_math.h"

namespace binade::cpu {
namespace {

bool is_set(const TensorView& flag) {
  return flag && with_float_type(flag.dtype, "skip", [&]<class T>() { return static_cast<Compute<T>>(*flag.as<T>()) != 0; });
}

// n elements of `x` from `begin` on, as arithmetic values: in place, or copied from another dtype and stored back.
template <class C>
class Run {
 public:
  Run(const TensorView& x, std::int64_t begin, std::int64_t n) : x_(x), begin_(begin), n_(n) {
    if (!x) return;
    if (x.dtype == dtype_of<C>) {
      values_ = x.as<C>() + begin;
      return;
    }
    room_.resize(static_cast<std::size_t>(n));
    values_ = room_.data();
    with_float_type(x.dtype, "optimizer", [&]<class T>() {
      const T* from = x.as<T>() + begin;
      if constexpr (is_narrow_float<T> && std::is_same_v<C, float>)
        widen(from, values_, n);
      else
        for (std::int64_t i = 0; i < n; ++i) values_[i] = convert<C>(from[i]);
    });
  }
  C* values() const { return values_; }
  void store() const {  // to nearest even
    if (room_.empty()) return;
    with_float_type(x_.dtype, "optimizer", [&]<class T>() {
      T* to = x_.as<T>() + begin_;
      if constexpr (is_narrow_float<T> && std::is_same_v<C, float>)
        narrow(values_, to, n_);
      else
        for (std::int64_t i = 0; i < n_; ++i) to[i] = convert<T>(values_[i]);
    });
  }

 private:
  TensorView x_;
  std::int64_t begin_, n_;
  std::vector<C> room_;
  C* values_ = nullptr;
};

template <class P>
void round_stochastically(const float* x, P* y, std::int64_t n, PhiloxState state, std::uint64_t first_word) {
  Philox4 words{};
  std::uint64_t block = ~std::uint64_t{0};
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint64_t word = first_word + static_cast<std::uint64_t>(i);
    if (word / 4 != block) words = philox(state, block = word / 4);
    y[i] = round_stochastic(x[i], words.x[word % 4], P());
  }
}

// The f32 copy of 16-bit parameters: where a parameter is not its copy's rounding, it was changed from outside.
template <class P>
void take_changes(const P* param, float* master, std::int64_t n) {
  std::vector<P> rounded(static_cast<std::size_t>(n));
  narrow(master, rounded.data(), n);
  for (std::int64_t i = 0; i < n; ++i)
    if (param[i].bits != rounded[static_cast<std::size_t>(i)].bits) master[i] = static_cast<float>(param[i]);
}

// Elements [begin, begin + n) of y = x, in cache still.
void write_rounding(const float* x, const TensorView& y, std::int64_t begin, std::int64_t n) {
  if (y.dtype == DType::f16) return narrow(x, y.as<Half>() + begin, n);
  narrow(x, y.as<BFloat16>() + begin, n);
}
void write_rounding(const double*, const TensorView&, std::int64_t, std::int64_t) {}  // no f64 parameter has one

// update(item's number, p, g, m, v, n) on every chunk of every parameter, in the parameter's arithmetic type.
template <class Update>
void update_params(std::span<const kernel::OptimizerItem> items, const kernel::Rounding& rounding, std::string_view what,
                   const Update& update) {
  for_chunks(chunks_of(items), [&](const Chunk& chunk, std::size_t) {
    const kernel::OptimizerItem& item = items[chunk.item];
    const std::int64_t begin = chunk.begin, n = chunk.size;
    with_float_type(item.param.dtype, what, [&]<class P>() {
      using C = Compute<P>;
      const Run<C> g(item.grad, begin, n), m(item.m, begin, n), v(item.v, begin, n);
      P* const param = item.param.as<P>() + begin;
      const Run<C> p(item.master ? item.master : item.param, begin, n);
      if constexpr (is_narrow_float<P>) {
        if (item.master) take_changes(param, p.values(), n);
        update(chunk.item, p.values(), g.values(), m.values(), v.values(), n);
        if (rounding.stochastic && !item.master)
          round_stochastically(p.values(), param, n, rounding.state, item.first_word + static_cast<std::uint64_t>(begin));
        else
          narrow(p.values(), param, n);
      } else {
        update(chunk.item, p.values(), g.values(), m.values(), v.values(), n);
        if (item.rounded) write_rounding(p.values(), item.rounded, begin, n);
      }
      m.store();
      v.store();
    });
  });
  for (const kernel::OptimizerItem& item : items) ++*item.step.as<std::int64_t>();
}

// Options as the device's memory has them.
template <class Options>
Options with_numbers(Options options, const TensorView& numbers) {
  if (!numbers) return options;
  options.lr = numbers.as<double>()[0];
  options.weight_decay = numbers.as<double>()[1];
  return options;
}
double grad_scale_of(const kernel::StepInputs& in) { return in.grad_scale ? *in.grad_scale.as<double>() : 1; }

void adam(std::span<const kernel::OptimizerItem> items, kernel::AdamOptions options, kernel::StepInputs in) {
  if (is_set(in.skip)) return;
  options = with_numbers(options, in.numbers);
  std::vector<AdamFactors> factors;  // each parameter counts its own steps
  for (const kernel::OptimizerItem& item : items) {
    const auto t = static_cast<double>(*item.step.as<std::int64_t>() + 1);
    AdamFactors& f = factors.emplace_back();
    f.keep = options.decoupled ? 1 - options.lr * options.weight_decay : 1;
    f.decay = options.decoupled ? 0 : options.weight_decay;
    f.one_minus_beta1 = 1 - options.beta1;
    f.beta2 = options.beta2;
    f.one_minus_beta2 = 1 - options.beta2;
    f.step = options.lr / (1 - std::pow(options.beta1, t));
    f.inverse_root = 1 / std::sqrt(1 - std::pow(options.beta2, t));
    f.eps = options.eps;
    f.grad_scale = grad_scale_of(in);
  }
  update_params(items, options.rounding, "adam", [&]<class C>(std::size_t i, C* p, const C* g, C* m, C* v, std::int64_t n) {
    row_adam(p, g, m, v, factors[i], n);
  });
}

void sgd(std::span<const kernel::OptimizerItem> items, kernel::SgdOptions options, kernel::StepInputs in) {
  if (is_set(in.skip)) return;
  options = with_numbers(options, in.numbers);
  SgdFactors later;
  later.lr = options.lr;
  later.decay = options.weight_decay;
  later.momentum = options.momentum;
  later.one_minus_dampening = 1 - options.dampening;
  later.nesterov = options.nesterov ? options.momentum : 0;
  later.grad_scale = grad_scale_of(in);
  SgdFactors first = later;
  first.momentum = 0;
  first.one_minus_dampening = 1;
  update_params(items, options.rounding, "sgd", [&]<class C>(std::size_t i, C* p, const C* g, C* m, C*, std::int64_t n) {
    const bool at_first = *items[i].step.as<std::int64_t>() == 0;
    row_sgd(p, g, m, at_first ? first : later, at_first, options.nesterov, n);
  });
}

void refresh_master(TensorView param, TensorView master) {
  with_float_type(param.dtype, "refresh_master", [&]<class P>() {
    if constexpr (is_narrow_float<P>) take_changes(param.as<P>(), master.as<float>(), param.numel());
  });
}
void copy_unless(TensorView source, TensorView y, TensorView skip) {
  if (!is_set(skip)) kernel::copy(source, y);
}
void count_unless(TensorView counter, TensorView skip) {
  if (!is_set(skip)) ++*counter.as<std::int64_t>();
}

}  // namespace

void provide_optimizer() {
  kernel::adam.provide(DeviceType::cpu, adam);
  kernel::sgd.provide(DeviceType::cpu, sgd);
  kernel::refresh_master.provide(DeviceType::cpu, refresh_master);
  kernel::copy_unless.provide(DeviceType::cpu, copy_unless);
  kernel::count_unless.provide(DeviceType::cpu, count_unless);
}

}  // namespace binade::cpu
