#include "binade/distributed/sharded_optimizer.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "binade/core/backend/graphed_step.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/optim/clip.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::dist {

// ---- layout

void ShardedOptimizer::move_into_flat_memory(const Reducer& reducer, Layout& layout) {
  const MemoryTagScope tag(MemoryTag::parameters);
  for (const Reducer::Bucket& bucket : reducer.buckets()) {
    const Tensor flat = zeros(bucket.gradients.shape(), {.dtype = bucket.gradients.dtype(), .device = bucket.gradients.device()});
    for (const std::size_t i : bucket.members) {
      const Reducer::Parameter& parameter = reducer.parameters()[i];
      TensorImpl& impl = *parameter.tensor.impl();
      const Tensor place = alias(flat, impl.shape, contiguous_strides(impl.shape), parameter.offset);
      kernel::copy(parameter.tensor, place);
      flat.impl()->storage->version = std::max(flat.impl()->storage->version, impl.storage->version) + 1;  // caches see it
      impl.storage = flat.impl()->storage;
      impl.offset = parameter.offset;
      impl.strides = contiguous_strides(impl.shape);
    }
    layout.flat.push_back(flat);
  }
}

ShardedOptimizer::Layout ShardedOptimizer::lay_out(Reducer& reducer, const std::vector<optim::ParamGroup>& groups) {
  const NoGrad guard;
  reducer.shard();
  Layout layout;
  move_into_flat_memory(reducer, layout);
  const std::int64_t rank = reducer.group().rank(), ranks = reducer.group().size();
  std::size_t given = 0;
  for (const optim::ParamGroup& group : groups) {
    optim::ParamGroup& mine = layout.groups.emplace_back(optim::ParamGroup{{}, group.lr, group.weight_decay});
    for (const Tensor& x : group.params) {
      const auto& all = reducer.parameters();
      const auto found = std::ranges::find_if(all, [&](const auto& p) { return p.tensor.is_same(x); });
      check(found != all.end(), "ShardedOptimizer: a parameter of shape ", x.shape(), " does not belong to the DataParallel model");
      ++given;
      const Tensor& flat = layout.flat[found->bucket];
      const std::int64_t each = flat.numel() / ranks, first = std::max(each * rank, found->offset),
                         last = std::min(each * (rank + 1), found->offset + x.numel());
      if (first >= last) continue;
      layout.pieces.push_back({static_cast<std::size_t>(found - all.begin()), found->bucket, first - found->offset,
                               last - first, first, alias(flat, {last - first}, {1}, first)});
      mine.params.push_back(layout.pieces.back().values);
    }
  }
  check(given == reducer.parameters().size(), "ShardedOptimizer: the groups hold ", given, " parameters, the model has ",
        reducer.parameters().size(), ": each must be given once");
  check(!layout.pieces.empty(), "ShardedOptimizer: there are fewer parameters than ranks: rank ", rank, " of ", ranks,
        " would have none");
  return layout;
}

ShardedOptimizer::ShardedOptimizer(const DataParallel& parallel, std::vector<optim::ParamGroup> groups, const Make& make)
    : ShardedOptimizer(parallel.reducer(), lay_out(*parallel.reducer(), groups), make) {}

ShardedOptimizer::ShardedOptimizer(std::shared_ptr<Reducer> reducer, Layout layout, const Make& make)
    : Optimizer(layout.groups), reducer_(std::move(reducer)), layout_(std::move(layout)), inner_(make(layout_.groups)) {
  check(inner_ != nullptr, "ShardedOptimizer: no optimizer was made");
  reducer_->on_reduced([this] { take_gradients(); });
}

ShardedOptimizer::~ShardedOptimizer() { reducer_->on_reduced({}); }

// ---- a step

// The pieces have their gradients; the parameters have none: beyond this rank's part they are not reduced.
void ShardedOptimizer::take_gradients() {
  for (Piece& piece : layout_.pieces)
    piece.values.set_grad(alias(reducer_->buckets()[piece.bucket].gradients, {piece.size}, {1}, piece.at));
  for (const Reducer::Parameter& parameter : reducer_->parameters()) Tensor(parameter.tensor).zero_grad();
}

void ShardedOptimizer::zero_grad() {
  Optimizer::zero_grad();
  for (const Reducer::Parameter& parameter : reducer_->parameters()) Tensor(parameter.tensor).zero_grad();
}

void ShardedOptimizer::take_numbers() {  // as a schedule has set them
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    inner_->param_groups()[g].lr = groups_[g].lr;
    inner_->param_groups()[g].weight_decay = groups_[g].weight_decay;
  }
}

void ShardedOptimizer::update(const Tensor& skip) {
  const NoGrad guard;
  ProcessGroup& ranks = reducer_->group();
  if (skip) ranks.all_reduce(skip, ReduceOp::max).wait();
  take_numbers();
  if (cuda::recording_here()) before_replays([this] { take_numbers(); });  // before the inner optimizer looks at them
  inner_->step(skip, grad_scale());
  std::vector<Work> gathers;
  for (const Tensor& flat : layout_.flat) gathers.push_back(ranks.all_gather(flat, reducer_->part(flat)));
  for (const Work& work : gathers) work.wait();
}

void ShardedOptimizer::inspect_gradients(const Tensor& scale, const Tensor& norm, const Tensor& found_inf) const {
  if (!norm) return Optimizer::inspect_gradients(scale, norm, found_inf);
  const Device device = layout_.flat.front().device();
  ProcessGroup& ranks = reducer_->group();
  const Tensor norms = empty({{ranks.size()}, DType::f64}, device), own = reducer_->part(norms);
  Optimizer::inspect_gradients(scale, own, found_inf);
  ranks.all_gather(norms, own).wait();
  const Tensor total = empty({{1}, DType::f64}, device);
  kernel::norm(norms, total);
  kernel::copy(total, norm);
}

Tensor ShardedOptimizer::clip_grad_norm_(double max_norm) { return optim::clip_grad_norm_(*this, max_norm); }

// ---- state

std::string ShardedOptimizer::key_of(const Piece& piece) const {
  return "state." + std::to_string(piece.parameter) + "." + std::to_string(piece.begin) + ".";
}

optim::StateDict ShardedOptimizer::state_dict() const {
  optim::StateDict out;
  for (const auto& [name, x] : inner_->state_dict()) {
    if (!name.starts_with("state.")) {
      out[name] = x;
      continue;
    }
    const std::size_t dot = name.find('.', 6);
    const Piece& piece = layout_.pieces[std::stoul(name.substr(6, dot - 6))];
    out[key_of(piece) + name.substr(dot + 1)] = x;
  }
  for (std::size_t g = 0; g < groups_.size(); ++g) {  // this optimizer's: a schedule may have changed them since the step
    out["group." + std::to_string(g) + ".lr"] = scalar_tensor(groups_[g].lr, {.dtype = DType::f64});
    out["group." + std::to_string(g) + ".weight_decay"] = scalar_tensor(groups_[g].weight_decay, {.dtype = DType::f64});
  }
  return out;
}

namespace {

struct Saved {  // "state.<parameter>.<offset>.<name>"
  std::int64_t offset;
  std::string name;
  Tensor values;
};

std::vector<Saved> saved_of(const optim::StateDict& state, std::size_t parameter) {
  std::vector<Saved> out;
  const std::string prefix = "state." + std::to_string(parameter) + ".";
  for (auto at = state.lower_bound(prefix); at != state.end() && at->first.starts_with(prefix); ++at) {
    const std::string rest = at->first.substr(prefix.size());
    const std::size_t dot = rest.find('.');
    check(dot != std::string::npos && dot > 0 && rest.find_first_not_of("0123456789") == dot, "ShardedOptimizer: load: ",
          at->first, " is not \"state.<parameter>.<offset>.<name>\"");
    out.push_back({std::stoll(rest.substr(0, dot)), rest.substr(dot + 1), at->second});
  }
  return out;
}

}  // namespace

void ShardedOptimizer::load_state_dict(const optim::StateDict& state) {
  optim::StateDict mine;
  for (const auto& [name, x] : state)
    if (name.starts_with("group.")) mine[name] = x;
  for (std::size_t p = 0; p < layout_.pieces.size(); ++p) {
    const Piece& piece = layout_.pieces[p];
    const std::string key = "state." + std::to_string(p) + ".";
    std::map<std::string, std::int64_t> covered;
    for (const Saved& saved : saved_of(state, piece.parameter)) {
      const Tensor& values = saved.values;
      if (saved.name == "step") {
        mine[key + "step"] = values;
        continue;
      }
      check(values.dim() == 1, "ShardedOptimizer: load: pieces are 1-d, got ", saved.name, " of shape ", values.shape());
      const std::int64_t first = std::max(piece.begin, saved.offset),
                         last = std::min(piece.begin + piece.size, saved.offset + values.numel());
      Tensor& whole = mine[key + saved.name];
      if (!whole) whole = empty({piece.size}, {.dtype = values.dtype(), .device = values.device()});
      if (first >= last) continue;
      whole.narrow(0, first - piece.begin, last - first).copy_(values.narrow(0, first - saved.offset, last - first));
      covered[saved.name] += last - first;
    }
    for (const auto& [name, count] : covered)
      check(count == piece.size, "ShardedOptimizer: load: ", name, " of ", reducer_->parameters()[piece.parameter].name,
            ": elements ", piece.begin, " to ", piece.begin + piece.size, " are wanted, ", count, " of them are there");
  }
  inner_->load_state_dict(mine);
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    groups_[g].lr = inner_->param_groups()[g].lr;
    groups_[g].weight_decay = inner_->param_groups()[g].weight_decay;
  }
}

}  // namespace binade::dist
