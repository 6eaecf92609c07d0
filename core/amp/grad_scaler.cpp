#include "binade/core/amp/grad_scaler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "binade/core/amp/post_mortem.h"
#include "binade/core/autograd/module_path.h"
#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/optim/clip.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::amp {

namespace {

DType scaled_dtype(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// y = x * factor, with the factor on the device. Its result is f32 also for 16-bit losses, whose range the scale would
// leave.
struct Scale : Op {
  std::string_view name() const override { return "scale"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    check(in[0].defined(), "GradScaler: scale: the loss is undefined");
    check(is_arithmetic_float(in[0].dtype()), "GradScaler: scale: the loss must be f64, f32, f16 or bf16, got ",
          in[0].dtype());
    return {in[0].shape(), scaled_dtype(in[0].dtype())};
  }
  static Tensor times(const Tensor& x, const Tensor& factor) {
    const Tensor y = empty({x.shape(), scaled_dtype(x.dtype())}, x.device());
    kernel::multiply_by(x, factor, y);
    return y;
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    infer(in);
    saved.save(in[1]);
    return times(in[0], in[1]);
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (out.wanted(0)) out.put(0, times(dy, saved[0]));
  }
  Tensor reference(Inputs in) const override {
    const Tensor y = empty({in[0].shape(), DType::f64}, Device{});
    const auto x = in[0].data<double>();
    const double factor = in[1].data<double>()[0];
    std::transform(x.begin(), x.end(), y.data<double>().begin(), [=](double v) { return v * factor; });
    return y;
  }
};

float checked_scale(double scale, const char* what) {
  const auto rounded = static_cast<float>(scale);
  check(rounded > 0 && std::isfinite(rounded), "GradScaler: ", what, " must be positive and finite in f32, got ", scale);
  return rounded;
}
Tensor one_float(double value) { return full({1}, value); }

}  // namespace

GradScaler::GradScaler(GradScalerOptions options) : options_(std::move(options)) {
  if (!options_.enabled) return;
  scale_ = one_float(static_cast<double>(checked_scale(options_.init_scale, "init_scale")));
  last_good_ = one_float(0);
  counters_ = zeros({2}, {.dtype = DType::i64});
  check(options_.max_consecutive_skips >= 0, "GradScaler: max_consecutive_skips must not be negative, got ",
        options_.max_consecutive_skips);
  if (!options_.policy)
    options_.policy = std::make_shared<loss_scale::Dynamic>(loss_scale::DynamicOptions{
        .growth_factor = options_.growth_factor,
        .backoff_factor = options_.backoff_factor,
        .growth_interval = options_.growth_interval,
        .min_scale = options_.min_scale,
        .hysteresis = options_.hysteresis});
}

void GradScaler::move_to(Device device) {
  if (scale_.device() == device) return;
  for (Tensor* x : {&scale_, &last_good_, &counters_}) *x = x->to(device);
}

Tensor GradScaler::scale(const Tensor& loss) {
  if (!options_.enabled) return loss;
  check(loss.defined(), "GradScaler: scale: the loss is undefined");
  move_to(loss.device());
  return run(Scale(), {loss, scale_});
}

Tensors GradScaler::scale(const Tensors& losses) {
  Tensors scaled;
  for (const Tensor& loss : losses) scaled.push_back(scale(loss));
  return scaled;
}

GradScaler::OptimizerState& GradScaler::state_of(optim::Optimizer& optimizer) {
  const auto found = std::ranges::find(optimizers_, &optimizer, &OptimizerState::optimizer);
  return found != optimizers_.end() ? *found : optimizers_.emplace_back(OptimizerState{&optimizer, Stage::ready, {}});
}

namespace {

// Each once, checked.
Tensors gradients_of(const optim::Optimizer& optimizer, const char* what) {
  Tensors gradients;
  for (const Tensor& param : optimizer.params()) {
    const Tensor grad = param.grad();
    if (!grad) continue;
    check(grad.dtype() == DType::f32 || grad.dtype() == DType::bf16 || grad.dtype() == DType::f64, "GradScaler: ", what,
          ": gradients in ", grad.dtype(),
          " would underflow when they are unscaled: keep the parameters in f32 and use Autocast");
    check(grad.is_contiguous(), "GradScaler: ", what, ": a gradient of shape ", grad.shape(), " is not contiguous");
    check(gradients.empty() || grad.device() == gradients.front().device(), "GradScaler: ", what,
          ": the gradients of one optimizer must be on one device, got ",
          to_text(gradients.empty() ? grad.device() : gradients.front().device()), " and ", to_text(grad.device()));
    if (std::ranges::none_of(gradients, [&](const Tensor& g) { return g.is_same(grad); })) gradients.push_back(grad);
  }
  return gradients;
}

}  // namespace

void GradScaler::unscale_(optim::Optimizer& optimizer) {
  if (!options_.enabled) return;
  OptimizerState& state = state_of(optimizer);
  check(state.stage != Stage::unscaled, "GradScaler: unscale_ was already called for this optimizer since update()");
  check(state.stage != Stage::stepped, "GradScaler: unscale_ is called after step() of the same optimizer");
  const Tensors gradients = gradients_of(optimizer, "unscale_");
  if (!gradients.empty()) {
    move_to(gradients.front().device());
    state.found_inf = zeros({1}, {.device = gradients.front().device()});
    std::vector<kernel::GradItem> items;
    for (const Tensor& grad : gradients)
      if (grad.numel() > 0) items.push_back({grad});
    if (!items.empty()) kernel::unscale(std::span<const kernel::GradItem>(items), scale_, state.found_inf);
    for (const Tensor& grad : gradients) bump_version(grad);
    if (options_.agree) options_.agree(state.found_inf);
  }
  state.stage = Stage::unscaled;
}

Tensor GradScaler::step(optim::Optimizer& optimizer, StepOptions options) {
  check(options.max_norm >= 0, "GradScaler: step: max_norm must be positive, or 0 for no clipping, got ", options.max_norm);
  const bool clips = options.max_norm > 0;
  if (!options_.enabled) {
    if (clips) return optim::clipped_step(optimizer, options.max_norm);
    optimizer.step();
    return {};
  }
  OptimizerState& state = state_of(optimizer);
  check(state.stage != Stage::stepped, "GradScaler: step() was already called for this optimizer since update()");
  Tensor norm;
  if (optimizer.scales_gradients() && (clips || state.stage == Stage::ready)) {
    norm = fused_step(optimizer, state, options.max_norm);
  } else {
    if (state.stage == Stage::ready) unscale_(optimizer);
    check(state.found_inf.defined(), "GradScaler: step: no parameter of this optimizer has a gradient");
    if (clips) norm = optim::clip_grad_norm_(optimizer, options.max_norm);
    optimizer.step(state.found_inf);
  }
  state.stage = Stage::stepped;
  return norm;
}

// Gradients are read twice, here for what is to be known of all of them and by the update, and not written.
Tensor GradScaler::fused_step(optim::Optimizer& optimizer, OptimizerState& state, double max_norm) {
  const bool unscaled = state.stage == Stage::unscaled;
  const Tensors gradients = gradients_of(optimizer, "step");
  check(!gradients.empty(), "GradScaler: step: no parameter of this optimizer has a gradient");
  const Device device = gradients.front().device();
  move_to(device);
  const Tensor scale = unscaled ? Tensor() : scale_, norm = max_norm > 0 ? empty({{1}, DType::f32}, device) : Tensor();
  if (!unscaled) state.found_inf = empty({{1}, DType::f32}, device);
  optimizer.inspect_gradients(scale, norm, unscaled ? Tensor() : state.found_inf);
  if (!unscaled && options_.agree) options_.agree(state.found_inf);
  const Tensor grad_scale = empty({{1}, DType::f64}, device);
  kernel::gradient_scale(grad_scale, scale, norm, max_norm);
  optimizer.step(state.found_inf, grad_scale);
  return norm;
}

void GradScaler::update() {
  if (!options_.enabled) return;
  Tensor found_inf;
  for (const OptimizerState& state : optimizers_) {
    if (!state.found_inf) continue;
    if (!found_inf) found_inf = zeros({1}, {.device = scale_.device()});
    kernel::add_into(state.found_inf.to(scale_.device()), found_inf, 1);
  }
  check(found_inf.defined(), "GradScaler: update: no gradients were checked since the last update()");
  kernel::loss_scale_count(counters_, last_good_, scale_, found_inf);
  options_.policy->update(scale_, found_inf);
  guard();
  optimizers_.clear();
}

void GradScaler::update(double new_scale) {
  if (!options_.enabled) return;
  scale_.fill_(static_cast<double>(checked_scale(new_scale, "update: the new scale")));
  optimizers_.clear();
}

void GradScaler::update(const Tensor& new_scale) {
  if (!options_.enabled) return;
  check(new_scale.defined() && new_scale.numel() == 1 && is_floating(new_scale.dtype()),
        "GradScaler: update: the new scale must be one floating element");
  scale_.copy_(new_scale.detach().reshape({1}).to(scale_.device()));
  optimizers_.clear();
}

// ---- collapse

void GradScaler::guard() {
  const std::int64_t limit = options_.max_consecutive_skips;
  if (limit == 0) return;
  const bool reading_is_free = counters_.device().type == DeviceType::cpu;
  if (!reading_is_free && ++updates_ < limit) return;
  updates_ = 0;
  const std::int64_t in_a_row = reading_is_free ? TensorView(counters_).as<std::int64_t>()[1]
                                                : counters_.select(0, 1).item<std::int64_t>();
  if (in_a_row < limit) return;
  const CollapseReport found = report();
  optimizers_.clear();
  if (options_.on_collapse)
    options_.on_collapse(found);
  else
    fail({found.message()});
}

CollapseReport GradScaler::report() const {
  CollapseReport out;
  out.consecutive_skips = static_cast<std::int64_t>(counters_.at(1));
  out.scale = get_scale();
  out.last_good_scale = last_good_.at(0);
  for (std::size_t o = 0; o < optimizers_.size(); ++o) {
    const Tensors params = optimizers_[o].optimizer->params();
    for (std::size_t p = 0; p < params.size(); ++p) {
      if (!params[p].grad()) continue;
      const ValueSummary values = summarize(params[p].grad());
      if (values.finite()) continue;
      out.gradients.push_back(
          {o, p, name_of(params[p]), values.shape, values.positive_infs + values.negative_infs, values.nans});
    }
  }
  if (options_.explain) out.explanation = options_.explain();
  return out;
}

std::string CollapseReport::message() const {
  using binade::to_text;  // amp has one of its own
  std::string text = "GradScaler: " + to_text(consecutive_skips) + " steps in a row were skipped, the loss scale is at " +
                     to_text(scale) + " (" +
                     (last_good_scale > 0 ? to_text(last_good_scale) + " at the last good step" : "no step was good yet") +
                     "): a lower scale does not help. Gradients with inf or NaN: ";
  constexpr std::size_t shown = 5;
  for (std::size_t i = 0; i < std::min(gradients.size(), shown); ++i) {
    const BadGradient& bad = gradients[i];
    text += (i ? ", " : "") + (bad.name.empty() ? "parameter " + to_text(static_cast<std::int64_t>(bad.parameter)) : bad.name) +
            " " + to_text(bad.shape) + " (" + to_text(bad.infs) + " inf, " + to_text(bad.nans) + " NaN)";
  }
  if (gradients.size() > shown) text += " and " + to_text(static_cast<std::int64_t>(gradients.size() - shown)) + " more";
  if (gradients.empty()) text += "none that is left to look at";
  text += ". Usual causes: the loss or an activation overflows by itself (use bf16, or run that layer outside Autocast), "
          "NaN in the data or in the weights, a learning rate that is too high";
  if (!explanation.empty()) text += ".\n" + explanation;
  return text;
}

// ---- reading

double GradScaler::get_scale() const { return options_.enabled ? scale_.at(0) : 1.0; }
bool GradScaler::last_step_skipped() const { return options_.enabled && counters_.at(1) > 0; }
std::int64_t GradScaler::skipped_steps() const {
  return options_.enabled ? static_cast<std::int64_t>(counters_.at(0)) : 0;
}

optim::StateDict GradScaler::state_dict() const {
  if (!options_.enabled) return {};
  optim::StateDict state = options_.policy->state_dict();
  state["scale"] = scale_.select(0, 0).clone();
  state["last_good_scale"] = last_good_.select(0, 0).clone();
  state["skipped_steps"] = counters_.select(0, 0).clone();
  state["consecutive_skips"] = counters_.select(0, 1).clone();
  return state;
}

void GradScaler::load_state_dict(const optim::StateDict& state) {
  if (!options_.enabled) return;
  const auto entry = [&](const char* key) {
    const auto found = state.find(key);
    check(found != state.end() && found->second.defined(), "GradScaler: load_state_dict: missing: ", key);
    check(found->second.numel() == 1, "GradScaler: load_state_dict: ", key, " must have one element, got ",
          found->second.shape());
    return found->second;
  };
  const auto scale = entry("scale").item<float>(), last_good = entry("last_good_scale").item<float>();
  const auto skipped = entry("skipped_steps").item<std::int64_t>(), in_a_row = entry("consecutive_skips").item<std::int64_t>();
  check(scale > 0 && std::isfinite(scale), "GradScaler: load_state_dict: scale must be positive and finite, got ",
        static_cast<double>(scale));
  check(last_good >= 0 && std::isfinite(last_good), "GradScaler: load_state_dict: last_good_scale must be finite and not "
        "negative, got ", static_cast<double>(last_good));
  check(skipped >= 0 && in_a_row >= 0, "GradScaler: load_state_dict: counters must not be negative, got ", skipped,
        " and ", in_a_row);
  options_.policy->load_state_dict(state);
  const Device device = scale_.device();
  scale_ = full({1}, static_cast<double>(scale), {.device = device});
  last_good_ = full({1}, static_cast<double>(last_good), {.device = device});
  counters_ = from_vector(std::vector<std::int64_t>{skipped, in_a_row}, {2}, {.dtype = DType::i64, .device = device});
  optimizers_.clear();
  updates_ = 0;
}

}  // namespace binade::amp
