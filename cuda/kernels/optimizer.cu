// Adam and SGD over many parameters at once, and the counters and flags a step leaves to the device. A launch counts the
// steps and finds what depends on them; the next ones update, eight elements per thread and turn.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/base/stochastic.h"
#include "binade/cuda/kernels/draw.h"
#include "binade/cuda/kernels/multi_tensor.h"

namespace binade::cuda {
namespace {

// ---- what depends on a parameter's own count of steps, and on numbers in the device's memory -------------------------
struct Numbers {
  double lr, weight_decay;
};
struct Start {
  double step;          // Adam: lr / (1 - beta1^t); SGD: lr
  double inverse_root;  // Adam: 1 / sqrt(1 - beta2^t)
  double keep, decay;   // p *= keep; g += decay p
  double grad_scale;
  bool first;
};
struct AdamStart {
  double beta1, beta2;
  bool decoupled;
  __device__ Start operator()(const Numbers& n, std::int64_t done) const {
    const double t = static_cast<double>(done + 1);
    return {n.lr / (1 - pow(beta1, t)), 1 / sqrt(1 - pow(beta2, t)), decoupled ? 1 - n.lr * n.weight_decay : 1,
            decoupled ? 0 : n.weight_decay, 1, done == 0};
  }
};
struct SgdStart {
  __device__ Start operator()(const Numbers& n, std::int64_t done) const {
    return {n.lr, 0, 1, n.weight_decay, 1, done == 0};
  }
};
// Where a step's inputs lie, or null.
struct Inputs {
  const float* skip;
  const double *grad_scale, *numbers;
};

constexpr int counters_per_launch = 48;
struct StepCounters {
  std::int64_t* steps[counters_per_launch];
  int size = 0;
};
// starts[i] of counter i, which then counts on unless skipped.
template <class MakeStart>
__global__ void start_kernel(StepCounters counters, MakeStart make, Numbers numbers, Inputs in, Start* starts) {
  const auto i = static_cast<int>(threadIdx.x);
  if (i >= counters.size) return;
  if (in.numbers) numbers = {in.numbers[0], in.numbers[1]};
  const std::int64_t done = *counters.steps[i];
  starts[i] = make(numbers, done);
  if (in.grad_scale) starts[i].grad_scale = *in.grad_scale;
  if (!is_set(in.skip)) *counters.steps[i] = done + 1;
}

// ---- the update of one element, in C --------------------------------------------------------------------------------
template <class C>
struct AdamRule {
  C one_minus_beta1, beta2, one_minus_beta2, eps;
  __device__ __forceinline__ void operator()(const Start& start, C& p, C g, C& m, C& v) const {
    const C step = static_cast<C>(start.step), root = static_cast<C>(start.inverse_root);
    const C keep = static_cast<C>(start.keep);
    g = multiply_add(static_cast<C>(start.decay), p, g);
    m = multiply_add(one_minus_beta1, g - m, m);
    if constexpr (std::is_same_v<C, float>) {
      v = multiply_add(beta2, v, one_minus_beta2 * (g * g));
      p = multiply_add(-step, m / multiply_add(sqrtf(v), root, eps), keep * p);
    } else {
      v = beta2 * v + one_minus_beta2 * g * g;
      p = keep * p - step * m / (sqrt(v) * root + eps);
    }
  }
};
template <class C>
struct SgdRule {
  C momentum, one_minus_dampening;
  bool nesterov, has_buffer;
  __device__ __forceinline__ void operator()(const Start& start, C& p, C g, C& m, C&) const {
    C d = multiply_add(static_cast<C>(start.decay), p, g);
    if (has_buffer) {
      m = start.first ? d : multiply_add(momentum, m, one_minus_dampening * d);
      d = !nesterov ? m : multiply_add(momentum, m, d);
    }
    p = multiply_add(-static_cast<C>(start.step), d, p);
  }
};

// ---- many parameters ------------------------------------------------------------------------------------------------
struct Parameter {
  std::byte *param, *grad, *m, *v;  // m and v may be null
  std::byte* copy;                  // of a 16-bit parameter its f32 master; of an f32 one its rounding; or null
  std::int64_t count;
  std::uint64_t first_word;
  DType param_type, grad_type, m_type, v_type, copy_type;
  bool stochastic;
};
constexpr int parameters_per_launch = 6;
using Parameters = ItemTable<Parameter, parameters_per_launch>;

// x as a parameter of 16 bits holds it.
__device__ __forceinline__ float rounded_to(DType dtype, float x) {
  return dtype == DType::f16 ? static_cast<float>(Half(x)) : static_cast<float>(BFloat16(x));
}
__device__ __forceinline__ float rounded_stochastically(DType dtype, float x, std::uint32_t random) {
  return dtype == DType::f16 ? static_cast<float>(round_stochastic(x, random, Half()))
                             : static_cast<float>(round_stochastic(x, random, BFloat16()));
}
// A parameter that is not its master copy's rounding was changed from outside, and wins.
__device__ __forceinline__ float newest(DType dtype, float param, float master) {
  return __float_as_uint(rounded_to(dtype, master)) == __float_as_uint(param) ? master : param;
}

template <class C, class Rule>
__global__ void __launch_bounds__(block_threads, 2)
    update_kernel(Parameters parameters, Rule rule, const Start* starts, const float* skip, Draw draw) {
  if (is_set(skip)) return;
  const Chunk chunk = chunk_of_block(parameters);
  const Parameter& p = parameters.items[chunk.item];
  const Start start = starts[chunk.item];
  const C grad_scale = static_cast<C>(start.grad_scale);
  const auto part = [&](std::byte* data, DType dtype) { return Span{data, dtype}.from(chunk.begin); };
  const DType dtype = p.param_type;
  const Span copy = part(p.copy, p.copy_type);
  const bool has_master = copy && copy.dtype == DType::f32, stochastic = p.stochastic;
  const Spans<5> in{{part(p.param, p.param_type), part(p.grad, p.grad_type), part(p.m, p.m_type), part(p.v, p.v_type),
                     has_master ? copy : Span{}}};
  const Spans<4> out{{in.of[0], in.of[2], in.of[3], copy}};
  const bool vectors = can_use_vectors<C>(in) && can_use_vectors<C>(out);
  const std::uint64_t first_word = p.first_word + static_cast<std::uint64_t>(chunk.begin);
  for_elements<C>(in, out, chunk.size, vectors, threadIdx.x, blockDim.x,
                  [&](std::int64_t i, const C* x, C* y) {
    C value = x[0], m = x[2], v = x[3];
    if constexpr (std::is_same_v<C, float>) {
      if (has_master) value = newest(dtype, value, x[4]);
    }
    rule(start, value, x[1] * grad_scale, m, v);
    y[0] = y[3] = value;
    y[1] = m;
    y[2] = v;
    if constexpr (std::is_same_v<C, float>) {
      if (stochastic) y[0] = rounded_stochastically(dtype, value, philox_word(draw.state(), first_word + static_cast<std::uint64_t>(i)));
    }
  });
}

// make_rule.template operator()<C>(has a buffer m).
template <class MakeStart, class MakeRule>
void update(std::span<const kernel::OptimizerItem> items, const char* what, const kernel::Rounding& rounding,
            const Numbers& numbers, const kernel::StepInputs& given, const MakeStart& make_start,
            const MakeRule& make_rule) {
  const Device device = device_of(items);
  const Inputs in{flag_of(given.skip), given.grad_scale ? given.grad_scale.as<const double>() : nullptr,
                  given.numbers ? given.numbers.as<const double>() : nullptr};
  std::vector<kernel::OptimizerItem> single, wide;
  for (const kernel::OptimizerItem& item : items) {
    check(is_arithmetic_float(item.param.dtype), what, ": expected f64, f32, f16 or bf16, got ", item.param.dtype);
    (item.param.dtype == DType::f64 ? wide : single).push_back(item);
  }
  const auto run = [&]<class C>(const std::vector<kernel::OptimizerItem>& those) {
    if (those.empty()) return;
    const Scratch memory(those.size() * sizeof(Start), device);
    Start* const starts = memory.as<Start>();
    for (std::size_t first = 0; first < those.size(); first += counters_per_launch) {
      StepCounters counters;
      for (std::size_t i = first; i < std::min(those.size(), first + counters_per_launch); ++i)
        counters.steps[counters.size++] = those[i].step.as<std::int64_t>();
      launch({dim3(1), dim3(64), 0, stream_of(device)}, start_kernel<MakeStart>, counters, make_start, numbers, in,
             starts + first);
    }
    std::vector<Parameter> parameters;
    for (const kernel::OptimizerItem& item : those) {
      const bool narrow = size_of(item.param.dtype) == 2;
      const TensorView& copy = narrow ? item.master : item.rounded;
      parameters.push_back({item.param.data, item.grad.data, item.m.data, item.v.data, copy.data, item.param.numel(),
                            item.first_word, item.param.dtype, item.grad.dtype, item.m.dtype, item.v.dtype, copy.dtype,
                            narrow && rounding.stochastic && !item.master});
    }
    const auto rule = make_rule.template operator()<C>(static_cast<bool>(those.front().m));
    for_tables<parameters_per_launch>(
        parameters, device, [&](const Parameters& table, const LaunchConfig& config, std::size_t first) {
          launch(config, update_kernel<C, decltype(rule)>, table, rule, static_cast<const Start*>(starts + first), in.skip,
                 draw_of(rounding.state, device));
        });
  };
  run.template operator()<float>(single);
  run.template operator()<double>(wide);
}

void adam(std::span<const kernel::OptimizerItem> items, kernel::AdamOptions o, kernel::StepInputs in) {
  update(items, "adam", o.rounding, {o.lr, o.weight_decay}, in, AdamStart{o.beta1, o.beta2, o.decoupled},
         [&]<class C>(bool) {
           return AdamRule<C>{static_cast<C>(1 - o.beta1), static_cast<C>(o.beta2), static_cast<C>(1 - o.beta2),
                              static_cast<C>(o.eps)};
         });
}

void sgd(std::span<const kernel::OptimizerItem> items, kernel::SgdOptions o, kernel::StepInputs in) {
  update(items, "sgd", o.rounding, {o.lr, o.weight_decay}, in, SgdStart{}, [&]<class C>(bool has_buffer) {
    return SgdRule<C>{static_cast<C>(o.momentum), static_cast<C>(1 - o.dampening), o.nesterov, has_buffer};
  });
}

// ---- parts of a step ------------------------------------------------------------------------------------------------
__global__ void __launch_bounds__(block_threads, resident_blocks) refresh_master_kernel(Operands<2, 1> o, DType dtype) {
  for_operands<float>(o, [&](std::int64_t, const float* x, float* y) { y[0] = newest(dtype, x[0], x[1]); });
}
template <class C>
__global__ void __launch_bounds__(block_threads, resident_blocks) copy_unless_kernel(Operands<1, 1> o, const float* skip) {
  if (is_set(skip)) return;
  for_operands<C>(o, [](std::int64_t, const C* x, C* y) { y[0] = x[0]; });
}
__global__ void count_unless_kernel(std::int64_t* counter, const float* skip) {
  if (global_thread() == 0 && !is_set(skip)) ++*counter;
}

void refresh_master(TensorView param, TensorView master) {
  if (param.numel() == 0 || size_of(param.dtype) != 2) return;
  const auto o = operands<float, 2, 1>(param.shape, {param, master}, {master});
  launch(one_thread_each(o.threads(), param.device), refresh_master_kernel, o, param.dtype);
}
void copy_unless(TensorView source, TensorView y, TensorView skip) {
  if (y.numel() == 0) return;
  with_exact_type(source.dtype, [&]<class C>() {
    const auto o = operands<C, 1, 1>(y.shape, {source}, {y});
    launch(one_thread_each(o.threads(), y.device), copy_unless_kernel<C>, o, flag_of(skip));
  });
}
void count_unless(TensorView counter, TensorView skip) {
  launch(one_thread_each(1, counter.device), count_unless_kernel, counter.as<std::int64_t>(), flag_of(skip));
}

}  // namespace

void provide_optimizer();
void provide_optimizer() {
  kernel::adam.provide(DeviceType::cuda, adam);
  kernel::sgd.provide(DeviceType::cuda, sgd);
  kernel::refresh_master.provide(DeviceType::cuda, refresh_master);
  kernel::copy_unless.provide(DeviceType::cuda, copy_unless);
  kernel::count_unless.provide(DeviceType::cuda, count_unless);
}

}  // namespace binade::cuda
