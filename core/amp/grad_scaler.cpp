#include "binade/core/amp/grad_scaler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::amp {

namespace {

DType scaled_dtype(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// y = x * factor. Its result is f32 also for 16-bit losses, whose range the scale would leave.
struct Scale : Op {
  double factor = 1;
  std::string_view name() const override { return "scale"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    check(in[0].defined(), "GradScaler: scale: the loss is undefined");
    check(is_arithmetic_float(in[0].dtype()), "GradScaler: scale: the loss must be f64, f32, f16 or bf16, got ",
          in[0].dtype());
    return {in[0].shape(), scaled_dtype(in[0].dtype())};
  }
  Tensor times(const Tensor& x) const {
    Tensor y = empty({x.shape(), scaled_dtype(x.dtype())}, x.device());
    kernel::fill(y, 0);
    kernel::add_into(x, y, factor);
    return y;
  }
  Tensor forward(Inputs in, Saved&) const override {
    check(in[0].defined(), "GradScaler: scale: the loss is undefined");
    return times(in[0]);
  }
  void backward(const Saved&, const Tensor& dy, Gradients& out) const override {
    if (out.wanted(0)) out.put(0, times(dy));
  }
  Tensor reference(Inputs in) const override {
    const Tensor y = empty({in[0].shape(), DType::f64}, Device{});
    const auto x = in[0].data<double>();
    std::transform(x.begin(), x.end(), y.data<double>().begin(), [this](double v) { return v * factor; });
    return y;
  }
};

}  // namespace

GradScaler::GradScaler(GradScalerOptions options)
    : options_(options), scale_(static_cast<float>(options.init_scale)) {
  if (!options.enabled) return;
  check(scale_ > 0 && std::isfinite(scale_), "GradScaler: init_scale must be positive and finite in f32, got ",
        options.init_scale);
  check(options.growth_factor > 1 && std::isfinite(options.growth_factor),
        "GradScaler: growth_factor must be above 1, got ", options.growth_factor);
  check(options.backoff_factor > 0 && options.backoff_factor < 1,
        "GradScaler: backoff_factor must be between 0 and 1, got ", options.backoff_factor);
  check(options.growth_interval > 0, "GradScaler: growth_interval must be positive, got ", options.growth_interval);
}

Tensor GradScaler::scale(const Tensor& loss) const {
  if (!options_.enabled) return loss;
  Scale op;
  op.factor = static_cast<double>(scale_);
  return run(op, {loss});
}

void GradScaler::unscale_(optim::Optimizer& optimizer) {
  if (!options_.enabled) return;
  OptimizerState& state = optimizers_[&optimizer];
  check(state.stage != Stage::unscaled, "GradScaler: unscale_ was already called for this optimizer since update()");
  check(state.stage != Stage::stepped, "GradScaler: unscale_ is called after step() of the same optimizer");

  std::vector<Device> devices;
  std::vector<std::vector<kernel::GradItem>> items;  // by device
  std::vector<Tensor> gradients;
  for (const Tensor& param : optimizer.params()) {
    const Tensor grad = param.grad();
    if (!grad) continue;
    check(grad.dtype() == DType::f32 || grad.dtype() == DType::bf16 || grad.dtype() == DType::f64,
          "GradScaler: unscale_: gradients in ", grad.dtype(),
          " would underflow when they are unscaled: keep the parameters in f32 and use Autocast");
    check(grad.is_contiguous(), "GradScaler: unscale_: a gradient of shape ", grad.shape(), " is not contiguous");
    if (std::any_of(gradients.begin(), gradients.end(), [&](const Tensor& g) { return g.is_same(grad); })) continue;
    gradients.push_back(grad);
    if (grad.numel() == 0) continue;
    const auto at = static_cast<std::size_t>(std::find(devices.begin(), devices.end(), grad.device()) -
                                             devices.begin());
    if (at == devices.size()) {
      devices.push_back(grad.device());
      items.emplace_back();
    }
    items[at].push_back({grad});
  }
  // In double, so that the only rounding is the one to f32.
  const auto inverse = static_cast<double>(static_cast<float>(1.0 / static_cast<double>(scale_)));
  for (std::size_t d = 0; d < devices.size(); ++d) {
    const Tensor inverse_scale = scalar_tensor(inverse, {.dtype = DType::f32, .device = devices[d]});
    const Tensor found_inf = scalar_tensor(0, {.dtype = DType::f32, .device = devices[d]});
    kernel::unscale(std::span<const kernel::GradItem>(items[d]), inverse_scale, found_inf);
    state.found_inf.push_back(found_inf);
  }
  for (const Tensor& grad : gradients) bump_version(grad);
  state.stage = Stage::unscaled;
}

bool GradScaler::any_inf(const OptimizerState& state) {
  return std::any_of(state.found_inf.begin(), state.found_inf.end(),
                     [](const Tensor& found) { return found.item<float>() != 0; });
}

void GradScaler::step(optim::Optimizer& optimizer) {
  if (!options_.enabled) {
    optimizer.step();
    return;
  }
  check(optimizers_[&optimizer].stage != Stage::stepped,
        "GradScaler: step() was already called for this optimizer since update()");
  if (optimizers_[&optimizer].stage == Stage::ready) unscale_(optimizer);
  OptimizerState& state = optimizers_[&optimizer];
  check(!state.found_inf.empty(), "GradScaler: step: no parameter of this optimizer has a gradient");
  if (!any_inf(state)) optimizer.step();
  state.stage = Stage::stepped;
}

void GradScaler::update() {
  if (!options_.enabled) return;
  bool checked = false, found = false;
  for (const auto& [optimizer, state] : optimizers_) {
    checked = checked || !state.found_inf.empty();
    found = found || any_inf(state);
  }
  check(checked, "GradScaler: update: no gradients were checked since the last update()");
  if (found) {
    // Below the normal numbers the reciprocal would overflow: the scale stays there.
    const double lower = static_cast<double>(scale_) * options_.backoff_factor;
    scale_ = std::max(static_cast<float>(lower), std::min(scale_, std::numeric_limits<float>::min()));
    growth_tracker_ = 0;
    ++skipped_;
  } else if (++growth_tracker_ >= options_.growth_interval) {
    const double higher = static_cast<double>(scale_) * options_.growth_factor;
    if (higher <= static_cast<double>(std::numeric_limits<float>::max())) scale_ = static_cast<float>(higher);
    growth_tracker_ = 0;
  }
  last_skipped_ = found;
  optimizers_.clear();
}

optim::StateDict GradScaler::state_dict() const {
  if (!options_.enabled) return {};
  return {{"scale", scalar_tensor(static_cast<double>(scale_))},
          {"growth_tracker", scalar_tensor(static_cast<double>(growth_tracker_), {.dtype = DType::i64})},
          {"skipped_steps", scalar_tensor(static_cast<double>(skipped_), {.dtype = DType::i64})}};
}

void GradScaler::load_state_dict(const optim::StateDict& state) {
  if (!options_.enabled) return;
  for (const char* key : {"scale", "growth_tracker", "skipped_steps"}) {
    const auto found = state.find(key);
    check(found != state.end() && found->second.defined(), "GradScaler: load_state_dict: missing: ", key);
    check(found->second.numel() == 1, "GradScaler: load_state_dict: ", key, " must have one element, got ",
          found->second.shape());
  }
  const auto scale = state.at("scale").item<float>();
  const auto tracker = state.at("growth_tracker").item<std::int64_t>();
  const auto skipped = state.at("skipped_steps").item<std::int64_t>();
  check(scale > 0 && std::isfinite(scale), "GradScaler: load_state_dict: scale must be positive and finite, got ",
        static_cast<double>(scale));
  check(tracker >= 0 && skipped >= 0, "GradScaler: load_state_dict: counters must not be negative, got ", tracker,
        " and ", skipped);
  scale_ = scale;
  growth_tracker_ = tracker;
  skipped_ = skipped;
  last_skipped_ = false;
  optimizers_.clear();
}

}  // namespace binade::amp
