#include "binade/tests/op_suite/inputs.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <random>

#include "binade/core/tensor/tensor_impl.h"

namespace binade::test {

namespace {

using Kind = SampleInput::Kind;

bool floating_kind(Kind kind) { return kind == Kind::normal || kind == Kind::uniform || kind == Kind::distinct; }

// In (0, 1), written out so that every standard library draws the same.
double unit(std::mt19937_64& generator) { return (static_cast<double>(generator() >> 11) + 0.5) * 0x1p-53; }

std::vector<double> draw_values(const SampleInput& input, std::mt19937_64& generator) {
  std::vector<double> values(static_cast<std::size_t>(input.shape.numel()));
  const auto count = static_cast<double>(values.size());
  const double range = input.high - input.low;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double u = unit(generator);
    switch (input.kind) {
      case Kind::normal:
        values[i] = std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * unit(generator));
        break;
      case Kind::uniform:
        values[i] = input.low + range * u;
        break;
      case Kind::distinct:
        values[i] = input.low + range * (static_cast<double>(i) + 0.5) / count;
        break;
      case Kind::index:
        values[i] = std::floor(input.low + range * u);
        break;
      case Kind::boolean:
        values[i] = u < 0.5 ? 0 : 1;
        break;
      case Kind::undefined:
        break;
    }
  }
  if (input.kind == Kind::distinct)
    for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[generator() % i]);
  return values;
}

// A non-contiguous view with x's values: rows and columns exchanged in memory, or a gap after every element.
Tensor strided_copy(const Tensor& x, bool exchange, Tensors& bases) {
  if (x.dim() == 0 || x.numel() == 0) return x;
  const int last = x.dim() - 1;
  Shape shape = x.shape();
  Strides strides;
  std::int64_t offset = 0;
  if (exchange && last > 0) {
    std::swap(shape[last], shape[last - 1]);
    strides = contiguous_strides(shape);
    std::swap(strides[last], strides[last - 1]);
  } else {
    shape[last] = 2 * shape[last] + 1;
    strides = contiguous_strides(shape);
    strides[last] = 2;
    offset = 1;
  }
  Tensor base = empty(shape, {.dtype = x.dtype(), .device = x.device()});
  base.fill_(is_floating(x.dtype()) ? std::numeric_limits<double>::quiet_NaN() : 0);
  bases.push_back(base);
  Tensor view = alias(base, x.shape(), strides, offset);
  view.copy_(x);
  return view;
}

}  // namespace

std::uint64_t seed_of(std::string_view name) {  // FNV-1a
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return hash;
}

bool DrawnInputs::poison_is_intact() const {
  std::size_t next = 0;
  for (const Tensor& base : bases) {
    while (next < inputs.size() && !(inputs[next] && inputs[next].shares_memory_with(base))) ++next;
    if (next == inputs.size()) return false;
    if (!is_floating(base.dtype())) continue;
    std::int64_t poisoned = 0;
    for (const double v : base.to_vector<double>()) poisoned += std::isnan(v) ? 1 : 0;
    if (poisoned < base.numel() - inputs[next].numel()) return false;
  }
  return true;
}

DrawnInputs draw_inputs(const Sample& sample, DType dtype, Layout layout) {
  std::mt19937_64 generator(seed_of(sample.name));
  DrawnInputs drawn;
  for (const SampleInput& input : sample.inputs) {
    Tensor x;
    if (input.kind != Kind::undefined) {
      const DType as = floating_kind(input.kind) ? dtype : input.kind == Kind::index ? DType::i64 : DType::boolean;
      x = from_vector(draw_values(input, generator), input.shape, {.dtype = as, .device = suite_device()});
      if (layout == Layout::strided) x = strided_copy(x, drawn.inputs.size() % 2 == 0, drawn.bases);
    }
    drawn.inputs.push_back(x);
  }
  return drawn;
}

Tensors widened(Inputs inputs) {
  Tensors wide;
  for (const Tensor& x : inputs) {
    if (!x) {
      wide.emplace_back();
      continue;
    }
    const DType as = is_floating(x.dtype()) ? DType::f64 : is_integer(x.dtype()) ? DType::i64 : x.dtype();
    wide.push_back(contiguous_values(cast_values(x.detach().to(Device{}), as)));
  }
  return wide;
}

Tensor loss_weights(const Shape& shape, DType dtype, Device device) {
  std::mt19937_64 generator(11);
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  for (double& v : values) {
    v = static_cast<double>(1 + generator() % 16) / 8;
    if (generator() % 2 == 0) v = -v;
  }
  return from_vector(values, shape, {.dtype = dtype, .device = device});
}

}  // namespace binade::test
