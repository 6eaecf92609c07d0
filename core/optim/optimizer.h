// Optimizer: parameter groups, multi-tensor steps, state that can be saved.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "binade/core/tensor/tensor.h"

namespace binade::optim {

struct ParamGroup {
  Tensors params;
  double lr = 1e-3;
  double weight_decay = 0;
};

// Names -> tensors (state in the parameter's precision, i64 counters, f64 hyperparameters): everything the next step
// depends on, beside the parameters. The tensors are copies.
using StateDict = std::map<std::string, Tensor>;

class Optimizer {
 public:
  explicit Optimizer(std::vector<ParamGroup> groups);
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  virtual void step() = 0;  // updates every parameter that has a gradient
  void zero_grad();         // marks the gradients stale; their memory is reused
  std::vector<ParamGroup>& param_groups() { return groups_; }
  const std::vector<ParamGroup>& param_groups() const { return groups_; }
  Tensors params() const;  // of all groups, in order

  // "group.<index>.lr", "group.<index>.weight_decay", and for each parameter that was stepped, counted through all
  // groups: "state.<index>.step" and "state.<index>.<name>", the names being PyTorch's (exp_avg, momentum_buffer).
  virtual StateDict state_dict() const;
  // Takes such a state over, or throws one Error that lists every name that is missing, unknown or of another shape.
  virtual void load_state_dict(const StateDict& state);

 protected:
  // What one parameter carries from step to step. Tensors are made at its first step.
  struct State {
    std::int64_t step = 0;
    Tensors tensors;  // as state_names()
  };
  virtual std::vector<std::string> state_names() const = 0;
  // The parameter's state with its step counted; makes the tensors, zero, the first time.
  State& next_state(std::size_t index, const Tensor& param);
  // body(group, parameter, its index) for every parameter that has a gradient.
  template <class Body>
  void for_each_grad(const Body& body) {
    std::size_t index = 0;
    for (const ParamGroup& group : groups_) {
      check_group(group);
      for (const Tensor& param : group.params) {
        if (const Tensor grad = param.grad()) {
          check_grad(param, grad);
          body(group, param, index);
        }
        ++index;
      }
    }
  }
  // The groups with lr and weight_decay from an optimizer's options.
  static std::vector<ParamGroup> one_group(const Tensors& params, double lr, double weight_decay);

  std::vector<ParamGroup> groups_;
  std::vector<State> states_;  // one per parameter

 private:
  static void check_group(const ParamGroup& group);
  static void check_grad(const Tensor& param, const Tensor& grad);
};

// An option of an optimizer or schedule must be finite and in [low, high]; the error names it and its value.
void check_option(const char* name, double value, double low, double high);

}  // namespace binade::optim
