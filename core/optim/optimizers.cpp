// SGD, Adam and AdamW: options, and one multi-tensor kernel per group. Muon: muon.cpp.
#include "binade/core/optim/optimizers.h"

#include <limits>

#include "binade/core/autograd/rounded_copy.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/base/random.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::optim {
namespace {

constexpr double unbounded = std::numeric_limits<double>::infinity();
constexpr double below_one = 1 - std::numeric_limits<double>::epsilon() / 2;

template <class Options>
StateOptions state_options(const Options& o) {
  return {o.master_weights, o.stochastic_rounding, o.state_dtype};
}

// One kernel call per group: its parameters, and the draw their roundings share.
struct Batch {
  const ParamGroup* group;
  std::vector<kernel::OptimizerItem> items;
};
Batch& batch_of(std::vector<Batch>& batches, const ParamGroup& group) {
  if (batches.empty() || batches.back().group != &group) batches.push_back({&group, {}});
  return batches.back();
}
kernel::Rounding next_rounding(const StateOptions& o) {
  return {o.stochastic_rounding, o.stochastic_rounding ? next_draw() : PhiloxState{}};
}

}  // namespace

SGD::SGD(const Tensors& params, SGDOptions options)
    : SGD(one_group(params, options.lr, options.weight_decay), options) {}
SGD::SGD(std::vector<ParamGroup> groups, SGDOptions options) : Optimizer(std::move(groups), binade::optim::state_options(options)), options_(options) {
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
void SGD::update(const Tensor& skip) {
  const kernel::Rounding rounding = next_rounding(state_options());
  std::vector<Batch> batches;
  std::uint64_t word = 0;
  for_each_grad([&](const ParamGroup& group, const Tensor& param, std::size_t index) {
    const State& state = state_of(index, param);
    const Tensor buffer = state.tensors.empty() ? Tensor() : state.tensors[0];
    const Tensor rounded = rounded_copy_to_update(param);
    batch_of(batches, group).items.push_back({param, param.grad(), buffer, {}, state.master, state.step, word, rounded});
    word += static_cast<std::uint64_t>(param.numel());
    bump_version(param);
  });
  for (const Batch& batch : batches)
    kernel::sgd(batch.items,
                {.lr = batch.group->lr,
                 .momentum = options_.momentum,
                 .dampening = options_.dampening,
                 .weight_decay = batch.group->weight_decay,
                 .nesterov = options_.nesterov,
                 .rounding = rounding},
                {skip, grad_scale(), recorded_numbers(*batch.group)});
  for_each_grad([](const ParamGroup&, const Tensor& param, std::size_t) { rounded_copy_updated(param); });
}

Adam::Adam(std::vector<ParamGroup> groups, AdamOptions options, bool decoupled)
    : Optimizer(std::move(groups), binade::optim::state_options(options)), options_(options), decoupled_(decoupled) {
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
void Adam::update(const Tensor& skip) {
  const kernel::Rounding rounding = next_rounding(state_options());
  std::vector<Batch> batches;
  std::uint64_t word = 0;
  for_each_grad([&](const ParamGroup& group, const Tensor& param, std::size_t index) {
    const State& state = state_of(index, param);
    const Tensor rounded = rounded_copy_to_update(param);
    batch_of(batches, group)
        .items.push_back({param, param.grad(), state.tensors[0], state.tensors[1], state.master, state.step, word, rounded});
    word += static_cast<std::uint64_t>(param.numel());
    bump_version(param);
  });
  for (const Batch& batch : batches)
    kernel::adam(batch.items,
                 {.lr = batch.group->lr,
                  .beta1 = options_.beta1,
                  .beta2 = options_.beta2,
                  .eps = options_.eps,
                  .weight_decay = batch.group->weight_decay,
                  .decoupled = decoupled_,
                  .rounding = rounding},
                 {skip, grad_scale(), recorded_numbers(*batch.group)});
  for_each_grad([](const ParamGroup&, const Tensor& param, std::size_t) { rounded_copy_updated(param); });
}

static AdamOptions adam_options(const AdamWOptions& o) {
  return {o.lr, o.beta1, o.beta2, o.eps, o.weight_decay, o.master_weights, o.stochastic_rounding, o.state_dtype};
}
AdamW::AdamW(const Tensors& params, AdamWOptions options)
    : Adam(one_group(params, options.lr, options.weight_decay), adam_options(options), true) {}
AdamW::AdamW(std::vector<ParamGroup> groups, AdamWOptions options)
    : Adam(std::move(groups), adam_options(options), true) {}

}  // namespace binade::optim
