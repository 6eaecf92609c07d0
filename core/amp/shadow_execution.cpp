#include "binade/core/amp/shadow_execution.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "binade/core/autograd/module_path.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::amp {

namespace {

// Collects the gradients a shadow's backward delivers.
class Collected final : public Gradients {
 public:
  Collected(std::span<const DeliveredGradient> asked, Inputs inputs) : asked_(asked), inputs_(inputs) {
    gradients.resize(inputs.size());
  }
  bool wanted(std::size_t i) const override {
    return std::any_of(asked_.begin(), asked_.end(), [&](const auto& g) { return g.input == i; });
  }
  void put(std::size_t i, const Tensor& gradient) override { gradients.at(i) = gradient; }
  Target target(std::size_t i) override {
    gradients.at(i) = empty(inputs_[i].spec(), inputs_[i].device());
    return {gradients.at(i), false};
  }
  Target sum_target(std::size_t i) override { return target(i); }
  Tensor late_target(std::size_t i) override { return target(i).tensor; }
  Tensors gradients;

 private:
  std::span<const DeliveredGradient> asked_;
  Inputs inputs_;
};

void add(ShadowError& error, const Tensor& got, const Tensor& expected) {
  check(got.shape() == expected.shape(), "ShadowExecution: the reference has shape ", expected.shape(), ", the result ",
        got.shape());
  const std::vector<double> y = got.to_vector<double>(), reference = expected.to_vector<double>();
  for (std::size_t i = 0; i < y.size(); ++i) {
    if (!std::isfinite(reference[i])) continue;
    if (!std::isfinite(y[i])) {
      ++error.not_finite;
      continue;
    }
    error.difference += (y[i] - reference[i]) * (y[i] - reference[i]);
    error.norm += reference[i] * reference[i];
  }
  ++error.calls;
}

void add(ShadowError& sum, const ShadowError& other) {
  sum.difference += other.difference;
  sum.norm += other.norm;
  sum.calls += other.calls;
  sum.skipped += other.skipped;
  sum.not_finite += other.not_finite;
}

void sort_worst_first(std::vector<ShadowEntry>& entries) {
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.worst() > b.worst(); });
}

nlohmann::json error_json(const ShadowError& error) {
  return {{"relative_error", error.relative()},  // JSON has no infinity: it becomes null
          {"calls", error.calls},
          {"skipped", error.skipped},
          {"not_finite", error.not_finite}};
}
nlohmann::json entries_json(const std::vector<ShadowEntry>& entries) {
  auto out = nlohmann::json::array();
  for (const ShadowEntry& entry : entries)
    out.push_back({{"operation", entry.operation},
                   {"module", entry.module},
                   {"dtype", name(entry.dtype)},
                   {"forward", error_json(entry.forward)},
                   {"backward", error_json(entry.backward)}});
  return out;
}

}  // namespace

double ShadowError::relative() const {
  if (not_finite > 0 || (norm == 0 && difference > 0)) return std::numeric_limits<double>::infinity();
  return norm > 0 ? std::sqrt(difference / norm) : 0;
}
double ShadowEntry::worst() const { return std::max(forward.relative(), backward.relative()); }

ShadowExecution::ShadowExecution(ShadowOptions options) : options_(options) {
  check(options.every > 0, "ShadowExecution: every must be positive, got ", options.every);
}

ShadowEntry& ShadowExecution::entry(std::string_view operation) {
  ShadowEntry& entry = entries_[{module_path(), std::string(operation)}];
  entry.operation = operation;
  entry.module = module_path();
  return entry;
}

DType ShadowExecution::wide(Inputs inputs) const {
  if (options_.reference != ShadowReference::f32) return DType::f64;
  const bool f64 = std::any_of(inputs.begin(), inputs.end(), [](const Tensor& x) { return x && x.dtype() == DType::f64; });
  return f64 ? DType::f64 : DType::f32;
}

// Copies, contiguous, even of those that are wide already: nothing an operation does reaches the training's tensors.
Tensors ShadowExecution::widened(Inputs inputs) const {
  const DType dtype = wide(inputs);
  Tensors out;
  for (const Tensor& x : inputs) {
    if (!x) {
      out.emplace_back();
      continue;
    }
    out.push_back(empty({x.shape(), is_floating(x.dtype()) ? dtype : x.dtype()}, x.device()));
    kernel::copy(x, out.back());
  }
  return out;
}

Tensor ShadowExecution::shadow_forward(const Op& op, Inputs inputs) const {
  const bool on_host = std::all_of(inputs.begin(), inputs.end(), [](const Tensor& x) { return !x || x.device().type == DeviceType::cpu; });
  const bool loops = (options_.reference == ShadowReference::loops && on_host) || op.changes_state();
  if (!loops) {
    const Tensors wide_inputs = widened(inputs);
    Saved saved(op.name());
    const Tensor y = op.forward(wide_inputs, saved);
    if (y.dtype() == wide(inputs)) return y;  // else a cast, which rounds whatever it is given
  }
  Tensors wide_inputs = widened(inputs);
  for (Tensor& x : wide_inputs)
    if (x && is_floating(x.dtype())) x = cast_values(x, DType::f64);
  return op.reference(wide_inputs);
}

void ShadowExecution::on_forward_call(const ForwardCall& call) {
  if (step_ % options_.every != 0) return;
  if (call.op->always_recorded() || !is_floating(call.output.dtype())) return;  // checkpoint(): its function is seen
  const NoGrad guard;
  const Inputs inputs = options_.include_casts ? call.given : call.seen;
  ShadowEntry& seen = entry(call.op->name());
  seen.dtype = call.op->precision() == Precision::low_input ? call.seen[0].dtype() : call.output.dtype();
  try {
    add(seen.forward, call.output, shadow_forward(*call.op, inputs));
  } catch (const Error&) {
    ++seen.forward.skipped;
  }
  if (call.sequence == 0) return;
  Recorded& kept = recorded_[call.sequence];
  kept.op = call.op;
  for (const Tensor& x : inputs) kept.inputs.push_back(x ? x.detach() : Tensor());
}

void ShadowExecution::on_gradients(const BackwardCall& call) {
  const auto found = recorded_.find(call.sequence);
  if (found == recorded_.end()) return;
  const Recorded kept = std::move(found->second);
  recorded_.erase(found);
  ShadowError& error = entry(call.op.name()).backward;
  if (call.op.changes_state()) {
    ++error.skipped;
    return;
  }
  try {
    const Tensors inputs = widened(kept.inputs), dy = widened({&call.dy, 1});
    Saved saved(call.op.name());
    {
      const GradMode recording(true);  // some operations save for backward only where it will run
      call.op.forward(inputs, saved);
    }
    Collected collected(call.gradients, inputs);
    call.op.backward(saved, dy[0], collected);
    for (const DeliveredGradient& delivered : call.gradients)
      if (!delivered.accumulated && collected.gradients.at(delivered.input))
        add(error, delivered.gradient, collected.gradients[delivered.input]);
  } catch (const Error&) {
    ++error.skipped;
  }
}

void ShadowExecution::step() {
  ++step_;
  recorded_.clear();
}

std::vector<ShadowEntry> ShadowExecution::entries() const {
  std::vector<ShadowEntry> out;
  for (const auto& [key, entry] : entries_) out.push_back(entry);
  sort_worst_first(out);
  return out;
}

std::vector<ShadowEntry> ShadowExecution::by_operation() const {
  std::map<std::string, ShadowEntry> sums;
  for (const auto& [key, entry] : entries_) {
    ShadowEntry& sum = sums[entry.operation];
    sum.operation = entry.operation;
    sum.dtype = entry.dtype;
    add(sum.forward, entry.forward);
    add(sum.backward, entry.backward);
  }
  std::vector<ShadowEntry> out;
  for (const auto& [operation, entry] : sums) out.push_back(entry);
  sort_worst_first(out);
  return out;
}

std::vector<ShadowEntry> ShadowExecution::keep_in_fp32() const {
  std::vector<ShadowEntry> out;
  for (const ShadowEntry& entry : entries())
    if (size_of(entry.dtype) < 4 && entry.worst() > options_.suspicious * epsilon(entry.dtype) / 2) out.push_back(entry);
  return out;
}

std::string ShadowExecution::table() const {
  std::string text = fmt::format("{:<28} {:<24} {:<6} {:>10} {:>10}\n", "operation", "module", "dtype", "forward", "backward");
  const auto rows = [&](const std::vector<ShadowEntry>& entries) {
    for (const ShadowEntry& entry : entries) {
      const auto number = [](const ShadowError& error) {
        return error.calls > 0 ? fmt::format("{:.2e}", error.relative()) : std::string("-");
      };
      text += fmt::format("{:<28} {:<24} {:<6} {:>10} {:>10}\n", entry.operation, entry.module, name(entry.dtype),
                          number(entry.forward), number(entry.backward));
    }
  };
  rows(entries());
  text += "by operation\n";
  rows(by_operation());
  const std::vector<ShadowEntry> keep = keep_in_fp32();
  text += keep.empty() ? "No operation in 16 bits is far off.\n" : "Keep these in FP32:";
  for (std::size_t i = 0; i < keep.size(); ++i)
    text += fmt::format("{} {}{}", i > 0 ? "," : "", keep[i].operation, keep[i].module.empty() ? "" : " in " + keep[i].module);
  return text + (keep.empty() ? "" : "\n");
}

std::string ShadowExecution::json() const {
  return nlohmann::json{{"steps", step_},
                        {"entries", entries_json(entries())},
                        {"by_operation", entries_json(by_operation())},
                        {"keep_in_fp32", entries_json(keep_in_fp32())}}
      .dump();
}

}  // namespace binade::amp
