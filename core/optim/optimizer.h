// Optimizer: parameter groups, multi-tensor steps, state that can be saved.
#pragma once
#include <array>
#include <functional>
#include <limits>
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

// How an optimizer keeps 16-bit parameters and its state. Parameters in f32 and f64 are their own master weights.
struct StateOptions {
  bool master_weights = true;        // 16-bit parameters: the f32 copy that is updated; the parameter is its rounding
  bool stochastic_rounding = false;  // 16-bit parameters: no copy, updates rounded stochastically (core/base/stochastic.h)
  DType state_dtype = DType::f32;    // of momentum and moments: f32 or bf16 (f64 for f64 parameters)
};

class Optimizer {
 public:
  explicit Optimizer(std::vector<ParamGroup> groups, StateOptions state = {});
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // Updates every parameter that has a gradient. Both are read on the parameters' device, which nothing waits for:
  // `skip`, f32 [1], makes it do nothing, not even count the step, where it is not 0; `grad_scale`, f64 [1], multiplies
  // the gradients as they are read, where scales_gradients(). GradScaler and clipped_step give them.
  void step(const Tensor& skip = {}, const Tensor& grad_scale = {});
  virtual bool scales_gradients() const { return false; }
  // One pass that reads the gradients and writes nothing else: norm, f32 or f64 [1], is that of the gradients divided by
  // *scale, f32 [1]; found_inf, f32 [1], is 1 where one of them is not finite, else 0. Each may be undefined.
  virtual void inspect_gradients(const Tensor& scale, const Tensor& norm, const Tensor& found_inf) const;
  virtual void zero_grad();  // marks the gradients stale; their memory is reused
  std::vector<ParamGroup>& param_groups() { return groups_; }
  const std::vector<ParamGroup>& param_groups() const { return groups_; }
  Tensors params() const;  // of all groups, in order

  // "group.<index>.lr", "group.<index>.weight_decay", and for each parameter that was stepped, counted through all
  // groups: "state.<index>.step" and "state.<index>.<name>", the names being PyTorch's (exp_avg, momentum_buffer), and
  // "state.<index>.master" where there is a master copy.
  virtual StateDict state_dict() const;
  // Takes such a state over, or throws one Error that lists every name that is missing, unknown or of another shape.
  virtual void load_state_dict(const StateDict& state);

 protected:
  // The update itself. An optimizer that is not made of kernels that honour `skip` reads it:
  //   if (skip && skip.item<float>() != 0) return;
  virtual void update(const Tensor& skip) = 0;
  // During update(): what step() was given. An optimizer whose kernels honour it overrides scales_gradients().
  const Tensor& grad_scale() const { return grad_scale_; }
  // While a step is recorded: f64 [2], lr and weight_decay of the group as each replay finds them. Otherwise undefined.
  Tensor recorded_numbers(const ParamGroup& group);
  // While a step is recorded: what the host does before each replay, as long as this optimizer lives.
  void before_replays(std::function<void()> work) const;

  // What one parameter carries from step to step, made at its first step.
  struct State {
    Tensor step;     // i64, zero-dim, on the parameter's device: updates done
    Tensor master;   // f32, or undefined
    Tensors tensors;  // as state_names(), starting as 0
    explicit operator bool() const { return step.defined(); }
  };
  virtual std::vector<std::string> state_names() const = 0;
  State& state_of(std::size_t index, const Tensor& param);
  bool has_master(const Tensor& param) const;
  const StateOptions& state_options() const { return options_; }
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
  static constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
  State make_state(const Tensor& param) const;
  StateOptions options_;
  Tensor grad_scale_;
  struct GroupNumbers {
    Tensor memory;  // as recorded_numbers()
    std::array<double, 2> written{not_a_number, not_a_number};
  };
  std::vector<GroupNumbers> numbers_;  // on devices that record steps
  std::shared_ptr<const bool> alive_ = std::make_shared<const bool>(true);
  static void check_group(const ParamGroup& group);
  static void check_grad(const Tensor& param, const Tensor& grad);
};

// An option of an optimizer or schedule must be finite and in [low, high]; the error names it and its value.
void check_option(const char* name, double value, double low, double high);

}  // namespace binade::optim
