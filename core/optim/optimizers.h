// SGD, Adam, AdamW and Muon, with torch.optim's formulas and defaults.
// Each takes either parameters, which form one group with the options' lr and weight_decay, or groups that bring
// theirs. master_weights, stochastic_rounding and state_dtype are StateOptions' (optimizer.h).
#pragma once
#include "binade/core/optim/optimizer.h"

namespace binade::optim {

struct SGDOptions {
  double lr = 1e-3, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false;  // needs momentum > 0 and dampening 0
  bool master_weights = true, stochastic_rounding = false;
  DType state_dtype = DType::f32;
};
// d = grad + weight_decay param; buffer = momentum buffer + (1 - dampening) d; param -= lr buffer
class SGD : public Optimizer {
 public:
  explicit SGD(const Tensors& params, SGDOptions options = {});
  explicit SGD(std::vector<ParamGroup> groups, SGDOptions options = {});
  bool scales_gradients() const override { return true; }

 private:
  void update(const Tensor& skip) override;
  std::vector<std::string> state_names() const override;
  SGDOptions options_;
};

struct AdamOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool master_weights = true, stochastic_rounding = false;
  DType state_dtype = DType::f32;
};
// Kingma and Ba, "Adam", ICLR 2015; weight_decay is added to the gradient (L2).
class Adam : public Optimizer {
 public:
  explicit Adam(const Tensors& params, AdamOptions options = {});
  explicit Adam(std::vector<ParamGroup> groups, AdamOptions options = {});
  bool scales_gradients() const override { return true; }

 protected:
  Adam(std::vector<ParamGroup> groups, AdamOptions options, bool decoupled);

 private:
  void update(const Tensor& skip) override;
  std::vector<std::string> state_names() const override;
  AdamOptions options_;
  bool decoupled_ = false;
};

struct AdamWOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
  bool master_weights = true, stochastic_rounding = false;
  DType state_dtype = DType::f32;
};
// Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019: param *= 1 - lr weight_decay.
class AdamW : public Adam {
 public:
  explicit AdamW(const Tensors& params, AdamWOptions options = {});
  explicit AdamW(std::vector<ParamGroup> groups, AdamWOptions options = {});
};

enum class MuonScale {
  original,         // lr * sqrt(max(1, rows / columns))
  match_rms_adamw,  // lr * 0.2 * sqrt(max(rows, columns)): AdamW's learning rates can be kept
};
struct MuonOptions {
  double lr = 1e-3, weight_decay = 0.1, momentum = 0.95;
  bool nesterov = true;
  double eps = 1e-7;  // smallest norm divided by
  std::int64_t steps = 5;
  MuonScale scale = MuonScale::original;
  bool master_weights = true;
};
// Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024: the momentum, made orthogonal by
// Newton-Schulz steps. For matrices; give embeddings, biases and norms to AdamW.
class Muon : public Optimizer {
 public:
  explicit Muon(const Tensors& params, MuonOptions options = {});
  explicit Muon(std::vector<ParamGroup> groups, MuonOptions options = {});

 private:
  void update(const Tensor& skip) override;
  std::vector<std::string> state_names() const override;
  void update_matrix(const ParamGroup& group, const Tensor& param, State& state, const Tensor& skip) const;
  MuonOptions options_;
};

}  // namespace binade::optim
