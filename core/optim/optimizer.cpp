// Parameter groups, their checks, and saving and loading of an optimizer's state.
#include "binade/core/optim/optimizer.h"

#include <cmath>
#include <limits>
#include <set>

#include "binade/core/backend/graphed_step.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"

namespace binade::optim {

void check_option(const char* name, double value, double low, double high) {
  const bool bounded = high < std::numeric_limits<double>::infinity();
  check(std::isfinite(value) && value >= low && value <= high, "optim: ", name, " must be finite and ",
        bounded ? "in [" + to_text(low) + ", " + to_text(high) + "]" : "at least " + to_text(low), ", got ", value);
}

std::vector<ParamGroup> Optimizer::one_group(const Tensors& params, double lr, double weight_decay) {
  return {ParamGroup{params, lr, weight_decay}};
}

void Optimizer::check_group(const ParamGroup& group) {
  check_option("lr", group.lr, 0, std::numeric_limits<double>::infinity());
  check_option("weight_decay", group.weight_decay, 0, std::numeric_limits<double>::infinity());
}

void Optimizer::check_grad(const Tensor& param, const Tensor& grad) {
  check(grad.shape() == param.shape(), "optim: a gradient must have its parameter's shape ", param.shape(), ", got ",
        grad.shape());
  check(grad.device() == param.device(), "optim: a gradient must lie on its parameter's device ",
        to_text(param.device()), ", got ", to_text(grad.device()));
  check(grad.is_contiguous(), "optim: gradients must be contiguous, got one of shape ", grad.shape(), " that is not");
}

Optimizer::Optimizer(std::vector<ParamGroup> groups, StateOptions state) : groups_(std::move(groups)), options_(state) {
  check(state.state_dtype == DType::f32 || state.state_dtype == DType::bf16,
        "optim: state_dtype must be f32 or bf16, got ", state.state_dtype);
  std::set<const TensorImpl*> seen;
  for (const ParamGroup& group : groups_) {
    check_group(group);
    for (const Tensor& param : group.params) {
      const std::string which = "parameter " + std::to_string(states_.size());
      check(param.defined(), "optim: ", which, " is undefined");
      check(is_arithmetic_float(param.dtype()), "optim: parameters must be f64, f32, f16 or bf16: ", which, " is ",
            param.dtype());
      check(param.is_leaf(), "optim: parameters must be leaves: ", which, " of shape ", param.shape(),
            " is the result of an operation");
      check(param.is_contiguous(), "optim: parameters must be contiguous: ", which, " of shape ", param.shape(),
            " is not");
      check(seen.insert(param.impl()).second, "optim: a parameter may be given once: ", which, " of shape ",
            param.shape(), " came before");
      states_.emplace_back();
    }
  }
  check(!states_.empty(), "optim: no parameters given");
}

void Optimizer::zero_grad() {
  for (const ParamGroup& group : groups_) {
    for (Tensor param : group.params) param.zero_grad();
  }
}

Tensors Optimizer::params() const {
  Tensors all;
  for (const ParamGroup& group : groups_) all.insert(all.end(), group.params.begin(), group.params.end());
  return all;
}

void Optimizer::step(const Tensor& skip, const Tensor& grad_scale) {
  check(!skip || (skip.dtype() == DType::f32 && skip.numel() == 1), "optim: step: skip must be f32 with one element");
  check(!grad_scale || (grad_scale.dtype() == DType::f64 && grad_scale.numel() == 1),
        "optim: step: grad_scale must be f64 with one element");
  check(!grad_scale || scales_gradients(),
        "optim: step: this optimizer does not take a grad_scale (scales_gradients()): multiply the gradients first");
  struct Given {
    Tensor& place;
    ~Given() { place = {}; }
  } const given{grad_scale_ = grad_scale};
  update(skip);
}

void Optimizer::inspect_gradients(const Tensor& scale, const Tensor& norm, const Tensor& found_inf) const {
  std::vector<kernel::GradItem> items;
  for (const Tensor& param : params()) {
    const Tensor grad = param.grad();
    if (!grad) continue;
    check_grad(param, grad);
    items.push_back({grad});
  }
  if (!items.empty()) return kernel::inspect_gradients(items, scale, norm, found_inf);
  if (norm) kernel::fill(norm, 0);
  if (found_inf) kernel::fill(found_inf, 0);
}

void Optimizer::before_replays(std::function<void()> work) const {
  const std::weak_ptr<const bool> alive = alive_;
  cuda::at_each_replay({.before = [alive, work = std::move(work)] {
    if (!alive.expired()) work();
  }});
}

Tensor Optimizer::recorded_numbers(const ParamGroup& group) {
  const Device device = group.params.front().device();
  if (device.type == DeviceType::cpu) return {};
  const auto index = static_cast<std::size_t>(&group - groups_.data());
  if (numbers_.size() <= index) numbers_.resize(index + 1);
  GroupNumbers& numbers = numbers_[index];
  const bool exist = numbers.memory && numbers.memory.device() == device;
  if (!cuda::recording_here()) {
    // Made by eager steps: what is allocated while recording shares its memory with what came before in the step.
    const MemoryTagScope tag(MemoryTag::optimizer);
    if (!exist) numbers = {.memory = empty({2}, {.dtype = DType::f64, .device = device})};
    return {};
  }
  check(exist, "GraphedStep: an optimizer's first step must not be a recorded one: it belongs to the warm-up");
  before_replays([this, index] {
    const ParamGroup& now = groups_[index];
    check_group(now);
    GroupNumbers& there = numbers_[index];
    const double wanted[] = {now.lr, now.weight_decay};
    for (std::size_t i = 0; i < there.written.size(); ++i) {
      if (there.written[i] == wanted[i]) continue;
      kernel::fill(there.memory.select(0, static_cast<std::int64_t>(i)), wanted[i]);
      there.written[i] = wanted[i];
    }
  });
  return numbers.memory;
}

bool Optimizer::has_master(const Tensor& param) const {
  const bool narrow = param.dtype() == DType::f16 || param.dtype() == DType::bf16;
  return narrow && options_.master_weights && !options_.stochastic_rounding;
}

Optimizer::State Optimizer::make_state(const Tensor& param) const {
  const MemoryTagScope tag(MemoryTag::optimizer);
  State state;
  state.step = zeros({}, {.dtype = DType::i64, .device = param.device()});
  if (has_master(param)) {
    state.master = empty(param.shape(), {.device = param.device()});
    state.master.copy_(param.detach());
  }
  const DType dtype = param.dtype() == DType::f64 ? DType::f64 : options_.state_dtype;
  for (std::size_t i = 0; i < state_names().size(); ++i)
    state.tensors.push_back(zeros(param.shape(), {.dtype = dtype, .device = param.device()}));
  return state;
}

Optimizer::State& Optimizer::state_of(std::size_t index, const Tensor& param) {
  State& state = states_[index];
  if (!state) state = make_state(param);
  return state;
}

static Tensor copy_of(const Tensor& x) {
  Tensor y = empty(x.spec(), x.device());
  y.copy_(x);
  return y;
}

StateDict Optimizer::state_dict() const {
  StateDict dict;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const std::string prefix = "group." + std::to_string(g) + ".";
    dict[prefix + "lr"] = scalar_tensor(groups_[g].lr, {.dtype = DType::f64});
    dict[prefix + "weight_decay"] = scalar_tensor(groups_[g].weight_decay, {.dtype = DType::f64});
  }
  const std::vector<std::string> names = state_names();
  for (std::size_t i = 0; i < states_.size(); ++i) {
    if (!states_[i]) continue;
    const std::string prefix = "state." + std::to_string(i) + ".";
    dict[prefix + "step"] = copy_of(states_[i].step);
    if (states_[i].master) dict[prefix + "master"] = copy_of(states_[i].master);
    for (std::size_t k = 0; k < names.size(); ++k) dict[prefix + names[k]] = copy_of(states_[i].tensors[k]);
  }
  return dict;
}

void Optimizer::load_state_dict(const StateDict& dict) {
  // Check everything before anything changes.
  std::string problems;
  std::set<std::string> known;
  const auto expect = [&](const std::string& name, const Shape& shape) {
    known.insert(name);
    const auto found = dict.find(name);
    if (found == dict.end() || !found->second) {
      problems += "\n  missing: " + name;
    } else if (found->second.shape() != shape) {
      problems += "\n  shape: " + name + " is " + to_text(found->second.shape()) + ", expected " + to_text(shape);
    }
  };
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const std::string prefix = "group." + std::to_string(g) + ".";
    expect(prefix + "lr", {});
    expect(prefix + "weight_decay", {});
  }
  const std::vector<std::string> names = state_names();
  const Tensors all = params();
  std::vector<bool> stepped(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::string prefix = "state." + std::to_string(i) + ".";
    const auto first = dict.lower_bound(prefix);
    stepped[i] = first != dict.end() && first->first.starts_with(prefix);  // else it was never stepped
    if (!stepped[i]) continue;
    expect(prefix + "step", {});
    if (has_master(all[i])) expect(prefix + "master", all[i].shape());
    for (const std::string& name : names) expect(prefix + name, all[i].shape());
  }
  for (const auto& [name, tensor] : dict) {
    if (!known.contains(name)) problems += "\n  unknown: " + name;
  }
  check(problems.empty(), "load_state_dict: the state does not fit this optimizer:", problems);

  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const std::string prefix = "group." + std::to_string(g) + ".";
    groups_[g].lr = dict.at(prefix + "lr").item<double>();
    groups_[g].weight_decay = dict.at(prefix + "weight_decay").item<double>();
    check_group(groups_[g]);
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    State& state = states_[i];
    if (!stepped[i]) {
      state = {};
      continue;
    }
    const std::string prefix = "state." + std::to_string(i) + ".";
    if (!state) state = make_state(all[i]);
    const auto take = [&](Tensor& x, const std::string& name) { x.copy_(dict.at(prefix + name).to(x.device())); };
    take(state.step, "step");
    if (state.master) take(state.master, "master");
    for (std::size_t k = 0; k < names.size(); ++k) take(state.tensors[k], names[k]);
  }
}

}  // namespace binade::optim
