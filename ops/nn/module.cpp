#include "binade/ops/nn/module.h"

#include <algorithm>
#include <unordered_set>

#include "binade/core/tensor/grad_mode.h"
#include "binade/core/backend/memory.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::nn {

struct Module::State {
  NamedTensors parameters, buffers;
  std::vector<std::pair<std::string, Module>> children;
  std::shared_ptr<LinearPrecision> linear_precision;
  bool training = true;
  std::shared_ptr<PathName> place = std::make_shared<PathName>();
};

namespace {

NamedTensors unique(const NamedTensors& all) {
  NamedTensors out;
  std::unordered_set<const TensorImpl*> seen;
  for (const auto& item : all) {
    if (seen.insert(item.second.impl()).second) out.push_back(item);
  }
  return out;
}

// Gives `x` the memory and dtype of `y`; every handle on x sees it. The version moves on, so that neither the cast
// cache nor backward takes the new memory for the old.
void take_memory(const Tensor& x, const Tensor& y) {
  TensorImpl& to = *x.impl();
  const TensorImpl& from = *y.impl();
  const std::uint64_t version = to.storage->version;
  to.storage = from.storage;
  to.storage->version = version + 1;
  to.offset = from.offset;
  to.strides = from.strides;
  to.dtype = from.dtype;
  to.grad = Tensor();
  to.grad_stale = false;
}

}  // namespace

Module::Module() : state_(std::make_shared<State>()) {}

void Module::check_name(const std::string& name) const {
  check(!name.empty() && name.find('.') == std::string::npos, "module: a name must not be empty or have dots: \"", name,
        "\"");
  const auto taken = [&](const auto& items) {
    return std::any_of(items.begin(), items.end(), [&](const auto& item) { return item.first == name; });
  };
  check(!taken(state_->parameters) && !taken(state_->buffers) && !taken(state_->children),
        "module: the name is already taken: \"", name, "\"");
}

void Module::add_child(const std::string& name, const Module& module) {
  check_name(name);
  check(module.state_ != state_, "module: cannot be its own child: \"", name, "\"");
  module.state_->place->set(name, state_->place);
  state_->children.emplace_back(name, module);
}

Tensor Module::add_parameter(const std::string& name, Tensor x) {
  check_name(name);
  if (!x) return x;
  check(is_arithmetic_float(x.dtype()), "module: parameter \"", name, "\" must be f64, f32, f16 or bf16, got ",
        x.dtype());
  check(x.is_leaf(), "module: parameter \"", name, "\" is the result of a recorded operation");
  x.requires_grad_();
  if (!x.impl()->name || x.impl()->name->parent.expired()) {
    const auto place = std::make_shared<PathName>();
    place->set(name, state_->place);
    x.impl()->name = place;
  }
  state_->parameters.emplace_back(name, x);
  return x;
}

Tensor Module::add_buffer(const std::string& name, Tensor x) {
  check_name(name);
  if (x) state_->buffers.emplace_back(name, x);
  return x;
}

void Module::collect(Kind kind, const std::string& prefix, NamedTensors& out) const {
  for (const auto& [name, x] : kind == Kind::parameters ? state_->parameters : state_->buffers) {
    out.emplace_back(prefix + name, x);
  }
  for (const auto& [name, child] : state_->children) child.collect(kind, prefix + name + ".", out);
}

void Module::each(const std::function<void(const std::string&, const Module&)>& body) const { each_below("", body); }

void Module::each_below(const std::string& name,
                        const std::function<void(const std::string&, const Module&)>& body) const {
  body(name, *this);
  for (const auto& [child_name, child] : state_->children)
    child.each_below(name.empty() ? child_name : name + "." + child_name, body);
}

const std::shared_ptr<LinearPrecision>& Module::linear_precision() const { return state_->linear_precision; }
void Module::set_linear_precision(std::shared_ptr<LinearPrecision> precision) {
  state_->linear_precision = std::move(precision);
}

NamedTensors Module::named_parameters() const {
  NamedTensors all;
  collect(Kind::parameters, "", all);
  return unique(all);
}

NamedTensors Module::named_buffers() const {
  NamedTensors all;
  collect(Kind::buffers, "", all);
  return unique(all);
}

Tensors Module::parameters() const {
  Tensors out;
  for (const auto& [name, x] : named_parameters()) out.push_back(x);
  return out;
}

std::int64_t Module::parameter_count() const {
  std::int64_t count = 0;
  for (const Tensor& x : parameters()) count += x.numel();
  return count;
}

std::map<std::string, Tensor> Module::state_dict() const {
  NamedTensors all;
  collect(Kind::parameters, "", all);
  collect(Kind::buffers, "", all);
  return {all.begin(), all.end()};
}

void Module::load_state_dict(const std::map<std::string, Tensor>& state) {
  const std::map<std::string, Tensor> own = state_dict();
  std::string problems;
  for (const auto& [name, x] : own) {
    const auto found = state.find(name);
    if (found == state.end() || !found->second) {
      problems += "\n  missing: " + name + " " + to_text(x.shape());
    } else if (!(found->second.shape() == x.shape())) {
      problems += "\n  shape of " + name + ": expected " + to_text(x.shape()) + ", got " +
                  to_text(found->second.shape());
    } else if (is_floating(found->second.dtype()) != is_floating(x.dtype())) {
      problems += "\n  dtype of " + name + ": expected " + to_text(x.dtype()) + ", got " +
                  to_text(found->second.dtype());
    }
  }
  for (const auto& [name, x] : state) {
    if (!own.contains(name)) problems += "\n  unexpected: " + name;
  }
  check(problems.empty(), "load_state_dict: the tensors do not fit the module:", problems);
  const NoGrad guard;
  for (auto& [name, x] : own) {
    Tensor target = x;
    target.copy_(state.at(name).to(x.device()));
  }
}

void Module::train(bool on) {
  state_->training = on;
  for (auto& [name, child] : state_->children) child.train(on);
}

ModuleScope Module::enter() const { return ModuleScope(place()); }
const PathName* Module::place() const { return state_->place.get(); }
std::string Module::path() const { return path_of(state_->place); }

bool Module::training() const { return state_->training; }

void Module::to(Device device) {
  const NoGrad guard;
  const MemoryTagScope tag(MemoryTag::parameters);
  NamedTensors all = named_parameters();
  const NamedTensors buffers = named_buffers();
  all.insert(all.end(), buffers.begin(), buffers.end());
  for (const auto& [name, x] : all) {
    if (!(x.device() == device)) take_memory(x, x.to(device));
  }
}

void Module::to(DType dtype) {
  check(is_arithmetic_float(dtype), "module: to: expected f64, f32, f16 or bf16, got ", dtype);
  const NoGrad guard;
  const MemoryTagScope tag(MemoryTag::parameters);
  for (const auto& [name, x] : named_parameters()) {
    if (x.dtype() != dtype) take_memory(x, x.to(dtype));
  }
}

void Module::zero_grad() {
  for (Tensor x : parameters()) x.zero_grad();
}

}  // namespace binade::nn
