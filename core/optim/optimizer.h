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

// Names -> tensors (f32, or i64 counters) that hold everything the next step depends on, beside the parameters.
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

  virtual StateDict state_dict() const = 0;  // "state.<index>.<name>", "group.<index>.lr", "step"
  virtual void load_state_dict(const StateDict& state) = 0;

 protected:
  std::vector<ParamGroup> groups_;
};

}  // namespace binade::optim
