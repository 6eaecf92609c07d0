// SGD, Adam and AdamW: options, and one multi-tensor kernel per group and step count. Muon: muon.cpp.
#include "binade/core/optim/optimizers.h"

#include <limits>

#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::optim {
namespace {

constexpr double unbounded = std::numeric_limits<double>::infinity();
constexpr double below_one = 1 - std::numeric_limits<double>::epsilon() / 2;

// Parameters that one kernel call can update: of one group, of one step count.
using Batch = std::pair<const ParamGroup*, std::int64_t>;
using Batches = std::vector<std::pair<Batch, std::vector<kernel::OptimizerItem>>>;
std::vector<kernel::OptimizerItem>& batch_of(Batches& batches, const ParamGroup& group, std::int64_t step) {
  for (auto& [batch, items] : batches) {
    if (batch == Batch(&group, step)) return items;
  }
  return batches.emplace_back(Batch(&group, step), std::vector<kernel::OptimizerItem>{}).second;
}

}  // namespace

SGD::SGD(const Tensors& params, SGDOptions options)
    : SGD(one_group(params, options.lr, options.weight_decay), options) {}
SGD::SGD(std::vector<ParamGroup> groups, SGDOptions options) : Optimizer(std::move(groups)), options_(options) {
  check_option("lr", options.lr, 0, unbounded);
  check_option("weight_decay", options.weight_decay, 0, unbounded);
  check_option("momentum", options.momentum, 0, unbounded);
  check_option("dampening", options.dampening, -unbounded, unbounded);
  check(!options.nesterov || (options.momentum > 0 && options.dampening == 0),
        "optim: nesterov needs momentum > 0 and dampening 0, got momentum ", options.momentum, ", dampening ",
        options.dampening);
}
std::vector<std::string> SGD::state_names() const {
  if (options_.momentum == 0) return {};
  return {"momentum_buffer"};
}
void SGD::step() {
  Batches batches;
  for_each_grad([&](const ParamGroup& group, const Tensor& param, std::size_t index) {
    const State& state = next_state(index, param);
    const TensorView buffer = state.tensors.empty() ? TensorView{} : TensorView(state.tensors[0]);
    batch_of(batches, group, state.step == 1 ? 1 : 2).push_back({param, param.grad(), buffer, {}});
    bump_version(param);
  });
  for (const auto& [batch, items] : batches) {
    const ParamGroup& group = *batch.first;
    kernel::sgd(items, {.lr = group.lr,
                        .momentum = options_.momentum,
                        .dampening = options_.dampening,
                        .weight_decay = group.weight_decay,
                        .nesterov = options_.nesterov,
                        .first = batch.second == 1});
  }
}

Adam::Adam(std::vector<ParamGroup> groups, AdamOptions options, bool decoupled)
    : Optimizer(std::move(groups)), options_(options), decoupled_(decoupled) {
  check_option("lr", options.lr, 0, unbounded);
  check_option("beta1", options.beta1, 0, below_one);
  check_option("beta2", options.beta2, 0, below_one);
  check_option("eps", options.eps, 0, unbounded);
  check_option("weight_decay", options.weight_decay, 0, unbounded);
}
Adam::Adam(const Tensors& params, AdamOptions options)
    : Adam(one_group(params, options.lr, options.weight_decay), options, false) {}
Adam::Adam(std::vector<ParamGroup> groups, AdamOptions options) : Adam(std::move(groups), options, false) {}
std::vector<std::string> Adam::state_names() const { return {"exp_avg", "exp_avg_sq"}; }
void Adam::step() {
  Batches batches;
  for_each_grad([&](const ParamGroup& group, const Tensor& param, std::size_t index) {
    const State& state = next_state(index, param);
    batch_of(batches, group, state.step).push_back({param, param.grad(), state.tensors[0], state.tensors[1]});
    bump_version(param);
  });
  for (const auto& [batch, items] : batches) {
    const ParamGroup& group = *batch.first;
    kernel::adam(items, {.lr = group.lr,
                         .beta1 = options_.beta1,
                         .beta2 = options_.beta2,
                         .eps = options_.eps,
                         .weight_decay = group.weight_decay,
                         .decoupled = decoupled_,
                         .step = batch.second});
  }
}

static AdamOptions adam_options(const AdamWOptions& o) { return {o.lr, o.beta1, o.beta2, o.eps, o.weight_decay}; }
AdamW::AdamW(const Tensors& params, AdamWOptions options)
    : Adam(one_group(params, options.lr, options.weight_decay), adam_options(options), true) {}
AdamW::AdamW(std::vector<ParamGroup> groups, AdamWOptions options)
    : Adam(std::move(groups), adam_options(options), true) {}

}  // namespace binade::optim
