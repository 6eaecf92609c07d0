// Muon: momentum, orthogonalised by five Newton-Schulz steps X <- a X + (b X X^T + c (X X^T)^2) X, whose coefficients
// push every singular value towards 1. Matrix products run in f32 (f64 for f64 parameters).
#include <algorithm>
#include <cmath>
#include <limits>

#include "binade/core/backend/kernels.h"
#include "binade/core/optim/optimizers.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::optim {
namespace {

constexpr double newton_schulz[] = {3.4445, -4.7750, 2.0315};

// y = factor x
void scaled_copy(const TensorView& x, const TensorView& y, double factor) {
  kernel::fill(y, 0);
  kernel::add_into(x, y, factor);
}

// The nearest matrix to x with all singular values about 1, up to a factor each in about [0.7, 1.2].
Tensor orthogonalized(const Tensor& x, double eps, std::int64_t steps) {
  const auto [a, b, c] = newton_schulz;
  const Device device = x.device();
  const bool tall = x.size(0) > x.size(1);  // the Gram matrix of the shorter side
  const TensorView source = tall ? transposed(x) : TensorView(x);
  const std::int64_t m = source.shape[0];
  Tensor current = empty({source.shape, x.dtype()}, device), next = empty(current.spec(), device);
  const Tensor gram = empty({{m, m}, x.dtype()}, device), mix = empty({{m, m}, x.dtype()}, device);
  const Tensor norm = empty({{1}, x.dtype()}, device);
  const kernel::GradItem items[] = {{x}};
  kernel::inspect_gradients(items, {}, norm, {});
  scaled_copy(source, current, 1 / std::max(norm.item<double>(), eps));
  for (std::int64_t i = 0; i < steps; ++i) {
    kernel::matmul(current, transposed(current), {}, gram, {});
    scaled_copy(gram, mix, b / c);
    kernel::matmul(gram, gram, {}, mix, {.accumulate = true});  // (b/c) G + G^2
    scaled_copy(current, next, a / c);
    kernel::matmul(mix, current, {}, next, {.accumulate = true});
    scaled_copy(next, current, c);
  }
  if (!tall) return current;
  Tensor y = empty(x.spec(), device);
  kernel::copy(transposed(current), y);
  return y;
}

}  // namespace

Muon::Muon(const Tensors& params, MuonOptions options)
    : Muon(one_group(params, options.lr, options.weight_decay), options) {}
Muon::Muon(std::vector<ParamGroup> groups, MuonOptions options) : Optimizer(std::move(groups), {.master_weights = options.master_weights}), options_(options) {
  const double unbounded = std::numeric_limits<double>::infinity();
  check_option("lr", options.lr, 0, unbounded);
  check_option("weight_decay", options.weight_decay, 0, unbounded);
  check_option("momentum", options.momentum, 0, unbounded);
  check_option("eps", options.eps, 0, unbounded);
  check(options.steps >= 1 && options.steps < 100, "optim: Muon's steps must be in [1, 99], got ", options.steps);
  const Tensors all = this->params();
  for (std::size_t i = 0; i < all.size(); ++i) {
    check(all[i].dim() == 2, "optim: Muon updates matrices only: parameter ", i, " has shape ", all[i].shape(),
          "; give biases, norms and other parameters that are not matrices to AdamW");
  }
}
std::vector<std::string> Muon::state_names() const { return {"momentum_buffer"}; }
void Muon::update(const Tensor& skip) {
  for_each_grad([&](const ParamGroup& group, const Tensor& param, std::size_t index) {
    update_matrix(group, param, state_of(index, param), skip);
    bump_version(param);
  });
}

// Computed aside, then taken over unless skipped.
void Muon::update_matrix(const ParamGroup& group, const Tensor& param, State& state, const Tensor& skip) const {
  if (param.numel() == 0) return;
  const Tensor grad = param.grad(), &momentum = state.tensors[0];
  const double keep = options_.momentum;
  // momentum += (1 - keep) (grad - momentum), in f32 whatever the parameter's dtype
  const Tensor next = empty(momentum.spec(), momentum.device());
  scaled_copy(momentum, next, keep);
  kernel::add_into(grad, next, 1 - keep);
  Tensor direction = next;
  if (options_.nesterov) {
    direction = empty(momentum.spec(), momentum.device());
    scaled_copy(next, direction, keep);
    kernel::add_into(grad, direction, 1 - keep);
  }
  const double rows = static_cast<double>(param.size(0)), columns = static_cast<double>(param.size(1));
  const double factor = options_.scale == MuonScale::original ? std::sqrt(std::max(1.0, rows / columns))
                                                              : 0.2 * std::sqrt(std::max(rows, columns));
  const Tensor step = orthogonalized(direction, options_.eps, options_.steps);
  if (state.master) kernel::refresh_master(param, state.master);
  const Tensor& weight = state.master ? state.master : param;
  const Tensor moved = empty(momentum.spec(), weight.device());  // rounded once, at the end
  scaled_copy(weight, moved, 1 - group.lr * group.weight_decay);
  kernel::add_into(step, moved, -group.lr * factor);
  kernel::copy_unless(next, momentum, skip);
  kernel::copy_unless(moved, weight, skip);
  if (state.master) kernel::copy_unless(moved, param, skip);
  kernel::count_unless(state.step, skip);
}

}  // namespace binade::optim
