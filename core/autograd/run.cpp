// The one door: autocast, promotion, device agreement, forward, recording, observers.
#include <atomic>
#include <optional>

#include "binade/core/autograd/autocast_state.h"
#include "binade/core/autograd/node.h"
#include "binade/core/autograd/observer.h"
#include "binade/core/autograd/op.h"
#include "binade/core/autograd/rounded_copy.h"
#include "binade/core/tensor/grad_mode.h"

namespace binade {

namespace {

thread_local std::vector<Observer*> observer_list;
std::atomic<std::uint64_t> next_sequence{1};

void check_devices(const Op& op, Inputs in) {
  const Tensor* first = nullptr;
  for (const Tensor& x : in) {
    if (!x) continue;
    if (!first) first = &x;
    check(x.device() == first->device(), op.name(), ": inputs are on different devices: ", to_text(first->device()),
          " and ", to_text(x.device()));
  }
}

bool autocast_touches(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

// The dtype the precision class asks for, if any; per input because f64, integers and options are left alone.
std::optional<DType> wanted_dtype(const Op& op, Inputs in) {
  const AutocastState& autocast = autocast_state();
  switch (op.precision()) {
    case Precision::as_is: return {};
    case Precision::low:
    case Precision::low_input: return autocast.on ? std::optional(autocast.dtype) : std::nullopt;
    case Precision::full:
    case Precision::full_output: return autocast.on ? std::optional(DType::f32) : std::nullopt;
    case Precision::widest: break;
  }
  std::optional<DType> with_dims, zero_dim;  // promoted among themselves first, as torch.result_type does
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (!in[i] || !op.promotes(i)) continue;
    std::optional<DType>& group = in[i].dim() == 0 ? zero_dim : with_dims;
    group = group ? promote_types(*group, in[i].dtype()) : in[i].dtype();
  }
  if (with_dims && zero_dim) return result_type(*with_dims, false, *zero_dim, true);
  return with_dims ? with_dims : zero_dim;
}

// An FP32 leaf is cast once and its copy kept while it stays what it is; where that cannot be known, it is cast once in
// an autocast region.
Tensor cast_through_cache(const Tensor& x, DType dtype) {
  AutocastState& autocast = autocast_state();
  if (!autocast.on || dtype != autocast.dtype || !x.requires_grad() || !x.is_leaf() || x.dtype() != DType::f32)
    return cast_values(x, dtype);
  if (const Tensor kept = rounded_copy(x, dtype)) return kept;
  AutocastState::CachedCast& entry = autocast.cache[x.impl()];
  const std::uint64_t version = x.impl()->storage->version;
  if (!entry.cast || entry.version != version || entry.cast.dtype() != dtype)
    entry = {x.shared_impl(), version, cast_values(x, dtype)};
  return entry.cast;
}

void cast_inputs(const Op& op, Tensors& in) {
  const std::optional<DType> dtype = wanted_dtype(op, in);
  if (!dtype) return;
  const bool promoting = op.precision() == Precision::widest;
  const auto fits = [&](DType x) { return is_arithmetic_float(x) && promote_types(x, *dtype) == *dtype; };
  for (std::size_t i = 0; i < in.size(); ++i) {
    Tensor& x = in[i];
    if (!x || x.dtype() == *dtype || (promoting ? !op.promotes(i) : !autocast_touches(x.dtype()))) continue;
    if (promoting && op.widens(i) && fits(x.dtype())) continue;
    x = cast_through_cache(x, *dtype);
  }
}

// The edge goes to the tensor the caller gave: gradients pass autocast's cast by converting on delivery.
std::vector<Edge> make_edges(Inputs given, Inputs seen) {
  std::vector<Edge> edges(given.size());
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (!given[i].requires_grad()) continue;
    edges[i].input = seen[i].spec();
    if (given[i].is_leaf()) {
      edges[i].leaf = given[i].shared_impl();
    } else {
      edges[i].node = given[i].impl()->producer;
    }
  }
  return edges;
}

}  // namespace

Tensor run(OpPtr op, Tensors given) {
  check_devices(*op, given);
  bool record = op->always_recorded();
  for (const Tensor& x : given) record = record || x.requires_grad();
  record = record && grad_enabled();

  Tensors seen = given;
  cast_inputs(*op, seen);
  Saved saved(op->name());
  Tensor out = op->forward(seen, saved);
  std::uint64_t sequence = 0;
  if (record && is_arithmetic_float(out.dtype())) {
    auto node = std::make_shared<Node>();
    node->saved = std::move(saved);
    node->edges = make_edges(given, seen);
    node->output = out.spec();
    node->device = out.device();
    node->sequence = sequence = next_sequence.fetch_add(1, std::memory_order_relaxed);
    node->op = op;
    node->module = current_module();
    out.impl()->producer = std::move(node);
    out.impl()->requires_grad = true;
  }
  if (!observer_list.empty()) [[unlikely]] {
    const ForwardCall call{op, given, seen, out, sequence};
    for (Observer* observer : observer_list) observer->on_forward_call(call);
  }
  return out;
}

AutocastState& autocast_state() {
  thread_local AutocastState state;
  return state;
}

ObserverScope::ObserverScope(Observer& observer) { observer_list.push_back(&observer); }
ObserverScope::~ObserverScope() { observer_list.pop_back(); }
const std::vector<Observer*>& detail::observers() { return observer_list; }

std::string_view name(Precision precision) {
  switch (precision) {
    case Precision::low: return "low";
    case Precision::low_input: return "low_input";
    case Precision::full: return "full";
    case Precision::full_output: return "full_output";
    case Precision::widest: return "widest";
    case Precision::as_is: return "as_is";
  }
  return "?";
}

void Saved::save(const Tensor& x) {
  items_.push_back(x ? Item{x.detach(), x.impl()->storage->version} : Item{});
}

Tensor Saved::operator[](std::size_t i) const {
  const Item& item = items_.at(i);
  if (item.tensor) {
    const std::uint64_t version = item.tensor.impl()->storage->version;
    check(version == item.version, "backward: ", owner_, " saved a tensor of shape ", item.tensor.shape(),
          " that was changed in place afterwards (version ", item.version, " when saved, ", version,
          " now); clone it before changing it");
  }
  return item.tensor;
}

Tensor Saved::place_for_gradient(std::size_t i) const {
  const Tensor x = (*this)[i];
  // save() made a handle of its own: one owner of the memory means that nobody else can see it.
  if (!last_use_ || x.impl()->storage.use_count() != 1 || !x.is_contiguous()) return empty(x.spec(), x.device());
  bump_version(x);  // if this pass fails now, the next one must not take the gradient for the value
  return x;
}

}  // namespace binade
