#include "binade/core/amp/numerics_monitor.h"

#include <algorithm>
#include <cmath>

#include "binade/core/autograd/module_path.h"
#include "binade/core/autograd/node.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::amp {

std::string_view name(TensorKind kind) {
  switch (kind) {
    case TensorKind::activation: return "activation";
    case TensorKind::operand: return "operand";
    case TensorKind::weight: return "weight";
    case TensorKind::activation_gradient: return "activation_gradient";
    case TensorKind::weight_gradient: return "weight_gradient";
  }
  return "?";
}

std::string TensorRecord::label() const {
  if (operation.empty()) return name;
  return name.empty() ? operation : name + " " + operation;
}

NumericsMonitor::NumericsMonitor(MonitorOptions options) : options_(std::move(options)) {
  check(options_.every > 0, "NumericsMonitor: every must be positive, got ", options_.every);
}

bool NumericsMonitor::wants(TensorKind kind) const {
  return observing() && options_.kinds.contains(kind);
}

double NumericsMonitor::gradient_factor() const {
  const double scale = options_.loss_scale ? options_.loss_scale() : 1;
  check(scale > 0, "NumericsMonitor: the loss scale must be positive, got ", scale);
  return 1 / scale;
}

TensorRecord& NumericsMonitor::record(TensorKind kind, const std::string& name, std::string_view operation) {
  const auto [at, fresh] = index_.try_emplace({kind, name + "\n" + std::string(operation)}, records_.size());
  if (fresh) {
    TensorRecord& record = records_.emplace_back();
    record.name = name;
    record.operation = operation;
    record.kind = kind;
    const bool gradient = kind == TensorKind::activation_gradient || kind == TensorKind::weight_gradient;
    record.fp8_format = gradient ? DType::f8e5m2 : DType::f8e4m3;
  }
  return records_[at->second];
}

void NumericsMonitor::look(TensorRecord& record, const Tensor& x, double factor, bool replace) {
  const auto index = static_cast<std::size_t>(&record - records_.data());
  Seen seen;
  seen.histogram = exponent_histogram(x, factor);
  if (record.fp8) {
    const Tensor errors = empty({3}, {.dtype = DType::f64, .device = x.device()});
    const auto measure = [&](double amax, Fp8Error& error) {
      if (amax == 0) return;
      kernel::quantization_error(x, largest(record.fp8_format) / amax * factor, record.fp8_format, errors);
      const std::vector<double> found = errors.to_vector<double>();
      error = {found[0] * factor * factor, static_cast<double>(seen.histogram.nonzero() + seen.histogram.zeros),
               static_cast<std::int64_t>(found[1]), static_cast<std::int64_t>(found[2])};
    };
    measure(seen.histogram.amax, seen.current);
    if (const auto last = last_amax_.find(index); last != last_amax_.end()) measure(last->second, seen.delayed);
  }
  const auto [at, first] = present_.try_emplace(index, seen);
  if (first) return;
  if (replace) {
    at->second = seen;
    return;
  }
  at->second.histogram.add(seen.histogram);
  at->second.current.add(seen.current);
  at->second.delayed.add(seen.delayed);
}

bool NumericsMonitor::narrow_in_f16(const ForwardCall& call) const {
  const Precision precision = call.op->precision();
  if (precision == Precision::low) return true;
  if (precision != Precision::as_is && precision != Precision::widest) return false;
  bool some = false;
  for (const Tensor& x : call.given) {
    if (!x || x.dim() == 0 || !is_floating(x.dtype())) continue;
    const auto& producer = x.impl()->producer;  // none: parameters and data, which stay in f32
    const bool narrow = x.dtype() == DType::f16 || (producer && narrow_.contains(producer->op.get()));
    const bool reduced = precision == Precision::as_is && call.output.dim() < x.dim() &&
                         !x.shares_memory_with(call.output);  // a loss, which is f32
    if (reduced || !narrow) return false;
    some = true;
  }
  return some;
}

void NumericsMonitor::on_forward_call(const ForwardCall& call) {
  const bool narrow = narrow_in_f16(call);
  if (narrow) narrow_.insert(call.op.get());
  else narrow_.erase(call.op.get());  // an earlier operation may have lain here
  const auto shared = [&](const Tensor& x) { return x && x.shares_memory_with(call.output); };
  if (std::any_of(call.seen.begin(), call.seen.end(), shared)) {
    views_.emplace(call.op->name());
    return;
  }
  saw_float16_ = saw_float16_ || call.output.dtype() == DType::f16;
  const std::string operation(call.op->name());
  const Precision precision = call.op->precision();
  const bool low = precision == Precision::low || precision == Precision::low_input;
  if (wants(TensorKind::activation) && is_floating(call.output.dtype())) {
    TensorRecord& seen = record(TensorKind::activation, module_path(), operation);
    seen.narrow = narrow;
    look(seen, call.output, 1, false);
  }
  if (!low || !wants(TensorKind::operand)) return;
  for (std::size_t i = 0; i < call.seen.size(); ++i) {
    const Tensor& x = call.seen[i];
    if (!x || !is_floating(x.dtype()) || x.dim() < 2 || !name_of(call.given[i]).empty()) continue;  // parameters: weight
    TensorRecord& seen = record(TensorKind::operand, module_path(), operation + " input " + std::to_string(i));
    seen.narrow = seen.fp8 = true;
    look(seen, x, 1, false);
  }
}

void NumericsMonitor::on_backward(const Op& op, const Tensor& dy) {
  if (!wants(TensorKind::activation_gradient) || views_.contains(op.name())) return;
  TensorRecord& seen = record(TensorKind::activation_gradient, module_path(), op.name());
  seen.narrow = narrow_.contains(&op);
  seen.fp8 = op.precision() == Precision::low;
  look(seen, dy, gradient_factor(), false);
}

void NumericsMonitor::on_leaf_gradient(const Tensor& leaf) {
  const std::string name = name_of(leaf);
  if (name.empty()) return;
  if (wants(TensorKind::weight)) {
    TensorRecord& seen = record(TensorKind::weight, name, "");
    seen.fp8 = leaf.dim() >= 2;
    look(seen, leaf, 1, true);
  }
  if (wants(TensorKind::weight_gradient)) {
    TensorRecord& seen = record(TensorKind::weight_gradient, name, "");
    seen.narrow = options_.f16_weight_gradients || leaf.dtype() == DType::f16;
    look(seen, leaf.grad(), gradient_factor(), true);
  }
}

void NumericsMonitor::close(TensorRecord& record, const Seen& seen) const {
  const ExponentHistogram& h = seen.histogram;
  record.all.add(h);
  if (step_ < options_.early_steps) record.early.add(h);
  ++record.steps;
  record.current.add(seen.current);
  record.delayed.add(seen.delayed);
  const bool all_zero = h.total() > 0 && h.zeros == h.total();
  if (!all_zero) {
    record.zero_run = 0;
    record.zero_since = -1;
  } else {
    if (record.zero_run++ == 0) record.zero_since = step_;
    if (record.zero_run > record.longest_zero_run) {
      record.longest_zero_run = record.zero_run;
      record.longest_zero_since = record.zero_since;
    }
  }
  if (h.amax == 0) return;
  record.amax_low = record.amax_low == 0 ? h.amax : std::min(record.amax_low, h.amax);
  record.amax_high = std::max(record.amax_high, h.amax);
}

void NumericsMonitor::step() {
  if (observing()) {
    for (const auto& [index, seen] : present_) {
      TensorRecord& record = records_[index];
      close(record, seen);
      const double amax = seen.histogram.amax;
      if (amax == 0) continue;
      if (const auto last = last_amax_.find(index); last != last_amax_.end()) {
        const double jump = std::max(amax / last->second, last->second / amax);
        record.largest_jump = std::max(record.largest_jump, jump);
        record.jumps += jump > 2;
        ++record.pairs;
      }
      last_amax_[index] = amax;
    }
    present_.clear();
    narrow_.clear();
    ++observed_;
  }
  ++step_;
}

}  // namespace binade::amp
