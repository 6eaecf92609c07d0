// Checks of a collective's arguments, and the group of one process.
#include "binade/distributed/process_group.h"

#include <utility>

#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/distributed/work_state.h"

namespace binade::dist {

std::string_view name(ReduceOp op) {
  constexpr std::string_view names[] = {"sum", "avg", "max", "min"};
  return names[static_cast<int>(op)];
}
std::string_view name(CollectiveKind kind) {
  constexpr std::string_view names[] = {"broadcast", "all_reduce", "reduce_scatter", "all_gather", "all_to_all", "barrier"};
  return names[static_cast<int>(kind)];
}

std::string Collective::text() const {
  std::string text = std::string(name(kind)) + " #" + std::to_string(sequence);
  if (kind == CollectiveKind::barrier) return text;
  const bool reduces = kind == CollectiveKind::all_reduce || kind == CollectiveKind::reduce_scatter;
  return text + " (" + (reduces ? std::string(name(op)) + " of " : "") + to_text(spec.dtype) + " " + to_text(spec.shape) +
         (kind == CollectiveKind::broadcast ? " from rank " + std::to_string(root) : "") + ")";
}

void Work::wait() const {
  if (state_) state_->wait();
}
bool Work::done() const { return !state_ || state_->done(); }

void HostWork::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_; });
  if (error_) std::rethrow_exception(error_);
}

bool HostWork::done() {
  const std::lock_guard lock(mutex_);
  return done_;
}

void HostWork::finish(std::exception_ptr failure) {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
    error_ = std::move(failure);
  }
  changed_.notify_all();
}

Work ProcessGroup::launch(CollectiveKind kind, ReduceOp op, int root, const Tensor& out, const Tensor& in) {
  const auto what = name(kind);
  if (kind != CollectiveKind::barrier) {
    check(in.defined() && out.defined(), what, ": a tensor is undefined");
    check(in.is_contiguous() && out.is_contiguous(), what, ": tensors must be contiguous");
    check(in.dtype() == out.dtype(), what, ": the tensors' dtypes differ: ", in.dtype(), " and ", out.dtype());
    check(in.device() == out.device(), what, ": the tensors are on ", in.device(), " and ", out.device());
    check(root >= 0 && root < size_, what, ": root must be a rank below ", size_, ", got ", root);
    const std::int64_t from = kind == CollectiveKind::all_gather ? in.numel() * size_ : in.numel();
    const std::int64_t to = kind == CollectiveKind::reduce_scatter ? out.numel() * size_ : out.numel();
    check(from == to, what, ": with ", size_, " ranks, ", in.shape(), " does not fit ", out.shape());
    check(kind != CollectiveKind::all_to_all || in.numel() % size_ == 0, what, ": ", in.shape(),
          " cannot be cut into ", size_, " parts");
    if (kind == CollectiveKind::all_reduce || kind == CollectiveKind::reduce_scatter) {
      check(op != ReduceOp::avg || is_floating(in.dtype()), what, ": avg needs a floating dtype, got ", in.dtype());
      check(op != ReduceOp::sum || in.dtype() != DType::boolean, what, ": sum needs numbers, got bool");
    }
    bump_version(out);
  }
  return start({.kind = kind, .op = op, .root = root, .sequence = ++sequence_, .spec = in ? in.spec() : Spec{}, .in = in, .out = out});
}

Work ProcessGroup::broadcast(const Tensor& x, int root) {
  return launch(CollectiveKind::broadcast, ReduceOp::sum, root, x, x);
}
Work ProcessGroup::all_reduce(const Tensor& x, ReduceOp op) { return launch(CollectiveKind::all_reduce, op, 0, x, x); }
Work ProcessGroup::reduce_scatter(const Tensor& out, const Tensor& in, ReduceOp op) {
  return launch(CollectiveKind::reduce_scatter, op, 0, out, in);
}
Work ProcessGroup::all_gather(const Tensor& out, const Tensor& in) {
  return launch(CollectiveKind::all_gather, ReduceOp::sum, 0, out, in);
}
Work ProcessGroup::all_to_all(const Tensor& out, const Tensor& in) {
  return launch(CollectiveKind::all_to_all, ReduceOp::sum, 0, out, in);
}
Work ProcessGroup::barrier() { return launch(CollectiveKind::barrier, ReduceOp::sum, 0, {}, {}); }

namespace {

class SingleGroup final : public ProcessGroup {
 public:
  explicit SingleGroup(GroupOptions options)
      : ProcessGroup(0, 1, options.device.value_or(default_device())), options_(std::move(options)) {}
  std::string_view backend() const override { return "single"; }

 private:
  Work start(Collective c) override {
    if (options_.trace) options_.trace({TraceEvent::When::started, c});
    if (c.in && TensorView(c.in).data != TensorView(c.out).data)
      kernel::copy(c.in, alias(c.out, c.in.shape(), contiguous_strides(c.in.shape()), 0));
    if (options_.trace) options_.trace({TraceEvent::When::finished, c});
    return Work();
  }
  GroupOptions options_;
};

}  // namespace

std::shared_ptr<ProcessGroup> single_group(GroupOptions options) {
  return std::make_shared<SingleGroup>(std::move(options));
}

double mean_over_ranks(ProcessGroup& group, double value) {
  const Tensor x = from_vector(std::vector<double>{value}, {1});
  group.all_reduce(x, ReduceOp::avg).wait();
  return x.item<double>();
}

std::function<void(const Tensor&)> agree_on_overflow(std::shared_ptr<ProcessGroup> group) {
  return [group = std::move(group)](const Tensor& found_inf) { group->all_reduce(found_inf, ReduceOp::max).wait(); };
}

}  // namespace binade::dist
