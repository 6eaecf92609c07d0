#include "binade/core/amp/post_mortem.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "binade/core/autograd/module_path.h"
#include "binade/core/autograd/node.h"
#include "binade/core/backend/statistics_kernels.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::amp {

namespace {

struct CauseText {
  std::string_view name, cure;
};
constexpr std::array<CauseText, 11> causes{{
    {"bad_data", "The data were not finite before the model saw them: check the loader, normalisation and labels."},
    {"bad_parameter",
     "The parameter was broken by an earlier step, or loaded so: see the report of that step, use GradScaler, clip "
     "gradients, or go back to a checkpoint."},
    {"passed_on", "An infinity meant as a mask reached an operation that computes with it: apply the mask last."},
    {"f16_product",
     "The product is larger than FP16's 65504: use BF16, keep this layer in FP32, or make its inputs smaller (norm "
     "before it, smaller initial weights)."},
    {"attention_scores",
     "Scores larger than FP16's 65504: scale q by 1/sqrt(d) before the product, normalise q and k, or use BF16."},
    {"f16_range", "The result is larger than FP16's 65504: use BF16, or compute this operation in FP32."},
    {"singular_point",
     "An argument at or beyond the edge of the domain: add an epsilon, clamp it, or use a stable form such as "
     "log_softmax."},
    {"exp_overflow", "exp of too large an argument (88.7 in FP32 and BF16, 11.0 in FP16): subtract the maximum first, or "
                     "use softmax or logsumexp."},
    {"scaled_gradient",
     "Normal back-off while the loss scale finds its size. Where the scale falls below 1, the gradients do not fit: use "
     "BF16 or keep this layer in FP32."},
    {"gradient",
     "A gradient left its format: lower the learning rate, clip gradients, start more gently; check roots, divisions and "
     "norms near zero."},
    {"divergence", "Values grew out of FP32's range: lower the learning rate, warm up, clip gradients."},
}};

bool one_of(std::string_view op, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), op) != names.end();
}
bool has_singular_points(std::string_view op) {
  return one_of(op, {"log", "sqrt", "rsqrt", "div", "pow", "pow_scalar", "norm"});
}

bool only_masks(const ValueSummary& values) { return values.positive_infs + values.nans == 0; }

std::string origin(const Tensor& x) {
  if (const std::string parameter = name_of(x); !parameter.empty()) return "parameter " + parameter;
  const auto& node = x.impl()->producer;
  if (!node) return "outside of the graph";
  const std::string path = path_of(node->module);
  return std::string(node->op->name()) + (path.empty() ? "" : " in " + path);
}

Cause forward_cause(const Op& op, Inputs given, const Casualty& casualty) {
  bool parameters_involved = false, all_finite = true;
  for (const Tensor& x : given) parameters_involved = parameters_involved || (x && !name_of(x).empty());
  for (const auto& source : casualty.sources) {
    all_finite = all_finite && source.values.finite();
    if (source.values.finite()) continue;
    if (source.from.starts_with("parameter ")) return Cause::bad_parameter;
    if (source.from == "outside of the graph") return Cause::bad_data;
  }
  if (!all_finite) return Cause::passed_on;
  if (one_of(op.name(), {"exp", "expm1"})) return Cause::exp_overflow;
  if (has_singular_points(op.name())) return Cause::singular_point;
  const bool f16_inside = op.precision() == Precision::low_input && casualty.sources[0].values.dtype == DType::f16;
  if (f16_inside) return Cause::f16_product;
  if (casualty.values.dtype != DType::f16) return Cause::divergence;
  if (op.name().find("attention") != std::string_view::npos) return Cause::attention_scores;
  if (op.precision() != Precision::low) return Cause::f16_range;
  return op.name() == "matmul" && !parameters_involved ? Cause::attention_scores : Cause::f16_product;
}

nlohmann::json summary_json(const ValueSummary& v) {
  return {{"dtype", name(v.dtype)},
          {"shape", std::vector<std::int64_t>(v.shape.begin(), v.shape.end())},
          {"positive_infs", v.positive_infs},
          {"negative_infs", v.negative_infs},
          {"nans", v.nans},
          {"largest_finite", v.largest_finite}};
}

nlohmann::json casualty_json(const std::optional<Casualty>& c) {
  if (!c) return nullptr;
  nlohmann::json out = {{"step", c->step},           {"rank", c->rank},     {"backward", c->backward},
                        {"operation", c->operation}, {"module", c->module}, {"tensor", c->tensor},
                        {"loss_scale", c->loss_scale}, {"cause", name(c->cause)}, {"cure", cure(c->cause)},
                        {"values", summary_json(c->values)}, {"sources", nlohmann::json::array()}};
  for (const auto& source : c->sources)
    out["sources"].push_back({{"what", source.what}, {"from", source.from}, {"values", summary_json(source.values)}});
  return out;
}

}  // namespace

std::string_view name(Cause cause) { return causes.at(static_cast<std::size_t>(cause)).name; }
std::string_view cure(Cause cause) { return causes.at(static_cast<std::size_t>(cause)).cure; }

ValueSummary summarize(const Tensor& x) {
  const Tensor summary = empty({4}, {.dtype = DType::f64, .device = x.device()});
  kernel::finite_summary(x, summary);
  const std::vector<double> v = summary.to_vector<double>();
  const auto count = [&](std::size_t i) { return static_cast<std::int64_t>(v[i]); };
  return {x.dtype(), x.shape(), count(0), count(1), count(2), v[3]};
}

std::string to_text(const ValueSummary& v) {
  std::string text = fmt::format("{} {}, largest finite {:.4g}", binade::to_text(v.shape), name(v.dtype), v.largest_finite);
  if (!v.finite()) text += fmt::format(", {} infinities, {} NaNs", v.positive_infs + v.negative_infs, v.nans);
  return text;
}

std::string Casualty::text() const {
  std::string text = fmt::format("PostMortem: step {}, rank {}, {}: {}{}: the first value that is not finite is in the {}: {}\n",
                                 step, rank, backward ? "backward" : "forward", operation,
                                 module.empty() ? "" : " in " + module, tensor, to_text(values));
  for (const Source& source : sources)
    text += fmt::format("  from {}: {} ({})\n", source.what, to_text(source.values), source.from);
  if (loss_scale != 1) text += fmt::format("  loss scale {:g}\n", loss_scale);
  return text + fmt::format("  {}: {}\n", name(cause), cure(cause));
}

Casualty PostMortem::begin(std::string operation, std::string tensor, const ValueSummary& values, bool backward) const {
  Casualty casualty;
  casualty.step = step_;
  casualty.rank = options_.rank;
  casualty.backward = backward;
  casualty.operation = std::move(operation);
  casualty.module = module_path();
  casualty.tensor = std::move(tensor);
  casualty.values = values;
  casualty.loss_scale = options_.loss_scale ? options_.loss_scale() : 1;
  if (backward) casualty.cause = casualty.loss_scale > 1 ? Cause::scaled_gradient : Cause::gradient;
  return casualty;
}

void PostMortem::report(Casualty casualty) {
  found_ = true;
  last_ = std::move(casualty);
  if (last_->cause == Cause::scaled_gradient && !options_.report_backoff) return;
  ++count_;
  if (!first_) first_ = last_;
  check(!options_.stop, last_->text());
}

void PostMortem::step() {
  ++step_;
  found_ = false;
}

void PostMortem::on_forward_call(const ForwardCall& call) {
  if (found_ || !is_floating(call.output.dtype())) return;
  const ValueSummary values = summarize(call.output);
  if (values.finite()) return;
  Casualty casualty = begin(std::string(call.op->name()), "output", values, false);
  bool masked = false;  // an input holds -inf as a mask does
  for (std::size_t i = 0; i < call.seen.size(); ++i) {
    const Tensor& x = call.seen[i];
    if (!x || !is_floating(x.dtype())) continue;
    casualty.sources.push_back({"input " + std::to_string(i), origin(call.given[i]), summarize(x)});
    const ValueSummary& input = casualty.sources.back().values;
    masked = masked || (!input.finite() && only_masks(input));
  }
  if (masked && only_masks(values)) return;
  casualty.cause = forward_cause(*call.op, call.given, casualty);
  report(std::move(casualty));
}

void PostMortem::on_backward(const Op& op, const Tensor& dy) {
  if (found_) return;
  // Finite contributions whose sum is not, or a start that is not.
  if (const ValueSummary values = summarize(dy); !values.finite())
    report(begin(std::string(op.name()), "gradient of the output", values, true));
}

void PostMortem::on_gradients(const BackwardCall& call) {
  if (found_) return;
  for (const DeliveredGradient& delivered : call.gradients) {
    const ValueSummary values = summarize(delivered.gradient);
    if (values.finite()) continue;
    const std::string tensor = "gradient of input " + std::to_string(delivered.input);
    Casualty casualty = begin(std::string(call.op.name()), tensor, values, true);
    casualty.sources.push_back({"gradient of the output", "the operations after it", summarize(call.dy)});
    if (has_singular_points(call.op.name()) && values.dtype != DType::f16) casualty.cause = Cause::singular_point;
    report(std::move(casualty));
    return;
  }
}

void PostMortem::on_leaf_gradient(const Tensor& leaf) {
  if (found_) return;
  const ValueSummary values = summarize(leaf.grad());
  if (values.finite()) return;
  const std::string parameter = name_of(leaf);
  report(begin("accumulation", "gradient of " + (parameter.empty() ? "a leaf without a name" : parameter), values, true));
}

std::string PostMortem::explain() const {
  return last_ ? last_->text() : "PostMortem: every value was finite in " + std::to_string(step_) + " steps\n";
}

std::string PostMortem::json() const {
  return nlohmann::json{{"steps", step_},
                        {"steps_with_casualties", count_},
                        {"first", casualty_json(first_)},
                        {"last", casualty_json(last_)}}
      .dump();
}

}  // namespace binade::amp
