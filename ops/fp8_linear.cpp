// fp8_linear. Per-tensor scales: each operand is quantised once and its codes serve two products. Blocks (MX) lie along
// the summed dimension, so an operand of two products is quantised twice, along its rows and along its columns.
#include "binade/ops/fp8_linear.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "binade/core/backend/fp8_kernels.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/linear_parts.h"

namespace binade {

namespace {

// E4M3 quantisation written a second time, in double arithmetic, for the reference.
namespace fp8_reference {

double rounded_e4m3(double x) {  // to nearest even, saturated at 448; unit 2^(exponent - 3), at least 2^-9
  if (std::isnan(x)) return x;
  const double bounded = std::clamp(x, -448.0, 448.0);
  const double unit = bounded == 0 ? 1 : std::ldexp(1.0, std::max(std::ilogb(bounded), -6) - 3);
  return std::nearbyint(bounded / unit) * unit;
}

double largest_magnitude(const double* x, std::size_t count) {  // NaN and infinities give NaN
  double largest = 0;
  for (std::size_t i = 0; i < count; ++i)
    largest = std::isfinite(x[i]) ? std::max(largest, std::abs(x[i])) : std::numeric_limits<double>::quiet_NaN();
  return largest;
}

// With the scale given, or, where that is 0, (448 / amax) / 2^margin; the scale and x * scale are f32, as in the kernels.
std::vector<double> per_tensor(std::vector<double> x, double given, int margin) {
  for (double& v : x) v = static_cast<double>(static_cast<float>(v));
  const double amax = largest_magnitude(x.data(), x.size());
  const double found = amax == 0 ? 1 : std::ldexp(static_cast<double>(static_cast<float>(448 / amax)), -margin);
  const double scale = given > 0 ? given : found, inverse = static_cast<double>(static_cast<float>(1 / scale));
  for (double& v : x) v = rounded_e4m3(static_cast<double>(static_cast<float>(v * scale))) * inverse;
  return x;
}

// Blocks of 32 in each row of `columns`, scale 2^(floor(log2 amax) - 8).
std::vector<double> blocks(std::vector<double> x, std::size_t columns) {
  for (std::size_t start = 0, next = 0; start < x.size(); start = next) {
    next = std::min(start + 32, (start / columns + 1) * columns);
    const double amax = largest_magnitude(x.data() + start, next - start);
    const double scale = amax == 0 ? 1 : std::ldexp(1.0, std::isnan(amax) ? 0 : std::ilogb(amax) - 8);
    for (std::size_t i = start; i < next; ++i) x[i] = std::isnan(amax) ? amax : rounded_e4m3(x[i] / scale) * scale;
  }
  return x;
}

}  // namespace fp8_reference

enum Role { x_role, weight_role, dy_role };  // rows of Fp8State

struct Quantized {
  Tensor values;  // FP8 [rows, n], contiguous
  Tensor scales;  // what its product is multiplied with: f32 [1], or E8M0 of the blocks [rows, ceil(n / 32)]
};

// One element of a buffer, or a row of it.
TensorView part(const Tensor& x, std::int64_t begin, std::int64_t count) {
  TensorView view = reshaped(x, {count}, {1});
  view.data += begin * size_of(view.dtype);
  return view;
}

struct Fp8Linear : Op {
  Fp8LinearOptions options;
  Tensor scale;  // delayed: the scales when forward began, before its own update

  std::string_view name() const override { return "fp8_linear"; }
  bool changes_state() const override { return options.update && options.state; }  // histories and scales
  Precision precision() const override { return Precision::low; }
  bool blocks() const { return options.recipe.scaling == amp::Fp8Scaling::block; }

  Spec infer(Inputs in) const override { return infer_linear(name(), in[0], in[1], in[2]); }

  Tensor forward(Inputs in, Saved& saved) const override {
    const Tensor x = contiguous_values(in[0]), weight = contiguous_values(in[1]);
    const Tensor pre = empty(infer(in), x.device());
    const TensorView rows_x = matrix_rows(x, weight.size(1));
    const Quantized left = quantize(rows_x, x_role), right = quantize(weight, weight_role);
    multiply(left.values, transposed(right.values), left.scales, right_scales(right), in[2],
             matrix_rows(pre, weight.size(0)), false);
    if (!blocks()) {
      for (const Quantized& q : {left, right}) save(saved, q);
    } else if (grad_enabled()) {  // [in, rows] and [in, out]: blocks along what backward sums over
      save(saved, quantize(transposed(rows_x), x_role));
      save(saved, quantize(transposed(weight), weight_role));
    }
    if (options.activation == Activation::none) return pre;
    saved.save(pre);
    const Tensor y = empty_like(pre);
    activate(options.activation, pre, y);
    return y;
  }

  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Quantized x{saved[0], saved[1]}, weight{saved[2], saved[3]};
    const Tensor dpre = activated_backward(options.activation, saved, 4, contiguous_values(dy));
    const TensorView rows_dpre = matrix_rows(dpre, dpre.size(-1));
    const bool per_tensor = !blocks() && (out.wanted(0) || out.wanted(1));
    const Quantized shared = per_tensor ? quantize(rows_dpre, dy_role) : Quantized{};
    if (out.wanted(0)) {  // dx [rows, in] = dy [rows, out] weight [out, in]
      const auto [dx, accumulate] = out.target(0);
      const Quantized left = blocks() ? quantize(rows_dpre, dy_role) : shared;
      multiply(left.values, blocks() ? transposed(weight.values) : TensorView(weight.values), left.scales,
               right_scales(weight), {}, matrix_rows(dx, dx.size(-1)), accumulate);
    }
    if (out.wanted(1)) {  // dweight [out, in] = dy^T [out, rows] x [rows, in]
      const auto [dweight, accumulate] = out.target(1);
      const Quantized left = blocks() ? quantize(transposed(rows_dpre), dy_role) : shared;
      multiply(blocks() ? TensorView(left.values) : transposed(left.values),
               blocks() ? transposed(x.values) : TensorView(x.values), left.scales, right_scales(x), {}, dweight,
               accumulate);
    }
    if (out.wanted(2)) sum_linear_bias(out.target(2), rows_dpre);
  }

  // The product of the quantised operands in float64: quantisation is what the operation means.
  Tensor reference(Inputs in) const override {
    const Tensor x = contiguous_values(in[0]), weight = contiguous_values(in[1]);
    const Tensor y = empty(infer(in), x.device());
    const auto n_in = static_cast<std::size_t>(weight.size(1)), n_out = static_cast<std::size_t>(weight.size(0));
    const auto quantized = [&](const Tensor& values, Role role) {
      if (blocks()) return fp8_reference::blocks(values.to_vector<double>(), n_in);
      return fp8_reference::per_tensor(values.to_vector<double>(), scale ? scale.at(role) : 0, options.recipe.margin);
    };
    const std::vector<double> xs = quantized(x, x_role), ws = quantized(weight, weight_role);
    const auto ys = y.data<double>();
    for (std::size_t o = 0; o < ys.size(); ++o) {
      const std::size_t row = o / n_out, column = o % n_out;
      double sum = in[2] ? in[2].at(static_cast<std::int64_t>(column)) : 0.0;
      for (std::size_t l = 0; l < n_in; ++l) sum += xs[row * n_in + l] * ws[column * n_in + l];
      ys[o] = reference_activation(options.activation, sum);
    }
    return y;
  }

 private:
  static void save(Saved& saved, const Quantized& q) {
    saved.save(q.values);
    saved.save(q.scales);
  }
  TensorView right_scales(const Quantized& q) const { return blocks() ? transposed(q.scales) : TensorView(q.scales); }
  static void multiply(const TensorView& a, const TensorView& b, const TensorView& scale_a, const TensorView& scale_b,
                       const TensorView& bias, const TensorView& c, bool accumulate) {
    kernel::matmul_fp8(a, b, scale_a, scale_b, bias, c, {.accumulate = accumulate});
  }

  Quantized quantize(const TensorView& x, Role role) const {  // x [rows, n]; contiguous unless quantised in blocks
    const DType format = role == dy_role ? DType::f8e5m2 : DType::f8e4m3;
    Quantized q{empty(x.shape, {.dtype = format, .device = x.device}), {}};
    if (blocks()) {
      const std::int64_t count = (x.size(1) + kernel::mx_block - 1) / kernel::mx_block;
      q.scales = empty({x.size(0), count}, {.dtype = DType::u8, .device = x.device});
      kernel::quantize_mx(x, q.values, q.scales);
      return q;
    }
    const amp::Fp8Recipe& recipe = options.recipe;
    const kernel::Fp8ScaleOptions choice{.largest = largest(format),
                                         .margin = recipe.margin,
                                         .most_recent = recipe.amax_algorithm == amp::Fp8Amax::most_recent,
                                         .interval = recipe.interval};
    q.scales = empty({1}, {.device = x.device});
    if (recipe.scaling == amp::Fp8Scaling::current) {
      const Tensor amax = empty({1}, {.device = x.device}), own_scale = empty({1}, {.device = x.device});
      kernel::absmax(x, amax);
      kernel::fp8_current_scale(amax, own_scale, choice);
      kernel::quantize_fp8(x, q.values, own_scale, q.scales, {});
      return q;
    }
    const amp::Fp8State& state = options.state;
    const TensorView own_scale = part(state.scale, role, 1);
    if (!options.update) {
      kernel::quantize_fp8(x, q.values, own_scale, q.scales, {});
      return q;
    }
    // The scale for next time is found right after use: forward under NoGrad and its recomputation by checkpoint() see
    // the same scale, and only the recomputation, which is recorded, updates.
    const std::int64_t length = state.amax_history.size(1);
    const TensorView history = part(state.amax_history, role * length, length);
    kernel::quantize_fp8(x, q.values, own_scale, q.scales, part(state.amax_history, role * length, 1));
    kernel::fp8_delayed_scale(history, own_scale, part(state.count, role, 1), choice);
    for (const Tensor& buffer : {state.scale, state.amax_history, state.count}) bump_version(buffer);
    return q;
  }
};

}  // namespace

Tensor fp8_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Fp8LinearOptions& options) {
  amp::check_recipe(options.recipe);
  Fp8Linear op;
  op.options = options;
  if (options.recipe.scaling == amp::Fp8Scaling::delayed) {
    check(static_cast<bool>(options.state), "fp8_linear: delayed scaling needs a state; see amp::make_fp8_state");
    check(!x || options.state.scale.device() == x.device(), "fp8_linear: the state must lie on x's device: x is on ",
          to_text(x.device()), ", the state on ", to_text(options.state.scale.device()));
    op.scale = empty_like(options.state.scale);
    kernel::copy(options.state.scale, op.scale);
  }
  return run(std::move(op), {x, weight, bias});
}

namespace families {
std::vector<OpPtr> fp8_linear_ops() {
  Fp8Linear op;
  op.options.recipe.scaling = amp::Fp8Scaling::current;
  return {std::make_shared<const Fp8Linear>(op)};
}
}  // namespace families

}  // namespace binade
