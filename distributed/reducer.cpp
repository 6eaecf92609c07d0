#include "binade/distributed/reducer.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "binade/core/autograd/after_backward.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade::dist {

Reducer::Reducer(NamedTensors parameters, NamedTensors buffers, DataParallelOptions options)
    : options_(std::move(options)), buffers_(std::move(buffers)) {
  const DataParallelOptions& o = options_;
  check(o.group != nullptr, "DataParallel: options.group is not set: use dist::init()");
  check(o.first_bucket_bytes > 0 && o.bucket_bytes > 0, "DataParallel: bucket sizes must be positive, got ",
        o.first_bucket_bytes, " and ", o.bucket_bytes);
  check(o.communication == DType::f32 || o.communication == DType::bf16,
        "DataParallel: communication must be f32 or bf16, got ", o.communication);
  if (deterministic()) {
    check(std::has_single_bit(static_cast<std::uint64_t>(o.micro_batches)) && o.micro_batches % group().size() == 0,
          "DataParallel: micro_batches must be a power of two and a multiple of the number of ranks, got ",
          o.micro_batches, " for ", group().size(), " ranks");
    check(o.communication == DType::f32 && !o.find_unused_parameters,
          "DataParallel: micro_batches goes neither with bf16 communication nor with find_unused_parameters");
    check(group().sums_in_fixed_tree(), "DataParallel: micro_batches needs sums in a fixed tree: do not set library_sums");
  }
  check(o.micro_batches >= 0, "DataParallel: micro_batches must not be negative, got ", o.micro_batches);
  for (auto& [name, x] : parameters)
    if (x.requires_grad()) parameters_.push_back({.name = name, .tensor = x});
  check(!parameters_.empty(), "DataParallel: no parameter requires gradients");
}

void Reducer::watch() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].tensor.register_hook([weak = weak_from_this(), i](const Tensor&) {
      if (const auto reducer = weak.lock()) reducer->on_gradient(i);
      return Tensor();
    });
  }
}

Tensor Reducer::part(const Tensor& flat) const {
  const std::int64_t each = flat.numel() / group().size();
  return alias(flat, {each}, {1}, each * group().rank());
}

void Reducer::shard() {
  check(buckets_.empty(), "ShardedOptimizer: make it before the first backward");
  check(!options_.find_unused_parameters, "ShardedOptimizer: does not go with find_unused_parameters");
  begin_pass();
  pass_ = 0;
  sharded_ = rebuilt_ = true;
}

// ---- buckets

void Reducer::build(const std::vector<std::size_t>& order) {
  buckets_.clear();
  std::vector<Bucket> open;  // one per dtype
  std::vector<std::int64_t> bytes;
  std::vector<DType> dtypes;
  for (const std::size_t i : order) {
    const Tensor& x = parameters_[i].tensor;
    const auto at = static_cast<std::size_t>(std::ranges::find(dtypes, x.dtype()) - dtypes.begin());
    if (at == dtypes.size()) {
      dtypes.push_back(x.dtype());
      open.emplace_back();
      bytes.push_back(0);
    }
    open[at].members.push_back(i);
    bytes[at] += x.numel() * size_of(x.dtype());
    if (bytes[at] < (buckets_.empty() ? options_.first_bucket_bytes : options_.bucket_bytes)) continue;
    close(std::exchange(open[at], {}));
    bytes[at] = 0;
  }
  for (Bucket& bucket : open)
    if (!bucket.members.empty()) close(std::move(bucket));
  for (std::size_t i = 0; i < parameters_.size(); ++i) attach(i);
}

void Reducer::close(Bucket bucket) {
  std::int64_t elements = 0;
  for (const std::size_t i : bucket.members) {
    parameters_[i].bucket = buckets_.size();
    parameters_[i].offset = elements;
    elements += parameters_[i].tensor.numel();
  }
  const std::int64_t ranks = group().size();
  const Tensor& first = parameters_[bucket.members.front()].tensor;
  const MemoryTagScope tag(MemoryTag::gradients);
  bucket.gradients = zeros({(elements + ranks - 1) / ranks * ranks}, {.dtype = first.dtype(), .device = first.device()});
  buckets_.push_back(std::move(bucket));
}

// Makes the parameter's gradient a view into its bucket. Does nothing where it is one already.
void Reducer::attach(std::size_t index) {
  const Parameter& parameter = parameters_[index];
  TensorImpl& impl = *parameter.tensor.impl();
  const Tensor& flat = buckets_[parameter.bucket].gradients;
  check(flat.dtype() == impl.dtype && flat.device() == parameter.tensor.device(), "DataParallel: ", parameter.name, " is ",
        impl.dtype, " on ", parameter.tensor.device(), ", and was ", flat.dtype(), " on ", flat.device(),
        " at the first backward: convert or move a model before it is trained");
  const Tensor old = impl.grad;
  if (old && old.shares_memory_with(flat)) return;
  impl.grad = alias(flat, impl.shape, contiguous_strides(impl.shape), parameter.offset);
  if (old && !impl.grad_stale) kernel::copy(old, impl.grad);
  else impl.grad_stale = true;  // the next gradient overwrites what is there
}

// After the first step: buckets fill in the order in which backward really reaches the parameters, rank 0's order.
void Reducer::rebuild_in_order_of_use() {
  rebuilt_ = true;
  const std::vector<std::int64_t> own(order_.begin(), order_.end());
  const Tensor order = from_vector(own, {static_cast<std::int64_t>(own.size())});
  group().broadcast(order).wait();
  std::vector<std::size_t> agreed;
  for (const std::int64_t i : order.to_vector<std::int64_t>()) agreed.push_back(static_cast<std::size_t>(i));
  build(agreed);
}

// ---- a backward pass

void Reducer::begin_pass() {
  if (buckets_.empty()) {
    std::vector<std::size_t> order(parameters_.size());
    std::iota(order.rbegin(), order.rend(), std::size_t{0});  // backward reaches the last layers first
    build(order);
  }
  pass_ = backward_pass();
  launched_ = 0;
  order_.clear();
  for (Parameter& parameter : parameters_) parameter.ready = false;
  for (Bucket& bucket : buckets_) bucket.waiting = bucket.members.size();
}

void Reducer::on_gradient(std::size_t index) {
  const NoGrad guard;
  if (pass_ != backward_pass()) {
    begin_pass();
    after_backward([self = shared_from_this()] { self->finish_pass(); });
  }
  Parameter& parameter = parameters_[index];
  attach(index);
  check(!parameter.ready, "DataParallel: ", parameter.name, " got its gradient twice in one backward: it is used in "
        "several checkpointed functions");
  if (!synchronizing_ && !deterministic()) return;
  parameter.ready = true;
  order_.push_back(index);
  if (deterministic() && !parameter.sum.add(parameter.tensor.grad(), micro_batch_, passes())) {
    parameter.tensor.zero_grad();  // the next part's gradient overwrites this one's
    return;
  }
  if (--buckets_[parameter.bucket].waiting == 0) launch_ready();
}

void Reducer::launch_ready() {
  for (; launched_ < buckets_.size() && buckets_[launched_].waiting == 0; ++launched_) {
    Bucket& bucket = buckets_[launched_];
    const bool narrowed = options_.communication == DType::bf16 && bucket.gradients.dtype() == DType::f32;
    bucket.wire = narrowed ? cast_values(bucket.gradients, DType::bf16) : bucket.gradients;
    const ReduceOp op = deterministic() ? ReduceOp::sum : ReduceOp::avg;
    bucket.work = sharded_ ? group().reduce_scatter(part(bucket.wire), bucket.wire, op) : group().all_reduce(bucket.wire, op);
  }
}

void Reducer::finish_pass() {
  const NoGrad guard;
  pass_ = 0;
  if (!synchronizing_ && !deterministic()) return;
  std::vector<std::size_t> unused;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    if (!parameters_[i].ready) unused.push_back(i);
  check(unused.empty() || options_.find_unused_parameters,
        "DataParallel: backward gave no gradient to ", names_of(unused), ": use them in every step, freeze them, or set "
        "find_unused_parameters");
  if (deterministic()) {
    micro_batch_ = (micro_batch_ + 1) % passes();
    if (micro_batch_ != 0) return;
  }
  if (options_.find_unused_parameters) finish_unused(unused);
  else finish_buckets();
  if (options_.broadcast_buffers && group().size() > 1) {
    for (const auto& [name, buffer] : buffers_) group().broadcast(buffer).wait();
  }
  if (!rebuilt_) rebuild_in_order_of_use();
  if (on_reduced_) on_reduced_();
}

void Reducer::finish_buckets() {
  for (Bucket& bucket : buckets_) {
    bucket.work.wait();
    bucket.work = {};
    const Tensor wire = sharded_ ? part(bucket.wire) : bucket.wire;
    Tensor mine = sharded_ ? part(bucket.gradients) : bucket.gradients;
    if (wire.dtype() != mine.dtype()) kernel::copy(wire, mine);
    bucket.wire = {};
    if (deterministic()) mine.mul_(1.0 / static_cast<double>(options_.micro_batches));  // a power of two
    bump_version(bucket.gradients);
  }
}

// A parameter that this rank did not use adds nothing to the mean; one that no rank used stays without a gradient.
void Reducer::finish_unused(const std::vector<std::size_t>& unused) {
  std::vector<std::uint8_t> used(parameters_.size(), 1);
  for (const std::size_t i : unused) {
    TensorImpl& impl = *parameters_[i].tensor.impl();
    attach(i);
    const bool accumulated = !impl.grad_stale;  // under no_sync, before
    if (!accumulated) impl.grad.zero_();
    used[i] = accumulated;
    impl.grad_stale = false;
    order_.push_back(i);
    --buckets_[parameters_[i].bucket].waiting;
  }
  launch_ready();
  const Tensor mask = from_vector(used, {static_cast<std::int64_t>(used.size())});
  const Work agreed = group().all_reduce(mask, ReduceOp::max);
  finish_buckets();
  agreed.wait();
  used = mask.to_vector<std::uint8_t>();
  for (std::size_t i = 0; i < used.size(); ++i)
    if (!used[i]) parameters_[i].tensor.zero_grad();
}

std::string Reducer::names_of(const std::vector<std::size_t>& indices) const {
  constexpr std::size_t shown = 8;
  std::string text;
  for (std::size_t k = 0; k < std::min(indices.size(), shown); ++k) text += (k ? ", " : "") + parameters_[indices[k]].name;
  return indices.size() > shown ? text + " and " + std::to_string(indices.size() - shown) + " more" : text;
}

}  // namespace binade::dist
