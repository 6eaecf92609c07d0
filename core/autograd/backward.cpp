// The engine: walks the graph from the result, newest operation first, frees it on the way, and delivers gradients.
// Newest first is a topological order, because an operation is recorded after those that made its inputs. No
// recursion anywhere: a chain of any length differentiates.
#include <algorithm>
#include <atomic>
#include <queue>
#include <unordered_map>
#include <utility>

#include "binade/core/autograd/after_backward.h"
#include "binade/core/autograd/node.h"
#include "binade/core/autograd/observer.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/tensor/grad_mode.h"

namespace binade {

namespace {

bool is_wide(DType dtype) { return dtype == DType::f32 || dtype == DType::f64; }
bool sole_owner(const Tensor& x) { return x.shared_impl().use_count() == 1 && x.impl()->storage.use_count() == 1; }

// sum += gradient, where `sum` may be undefined or shared with others. Returns the gradient in `dtype`.
Tensor add_to_node(Tensor& sum, const Tensor& gradient, DType dtype) {
  const Tensor g = cast_values(gradient, dtype);
  if (!sum) {
    sum = g;
    return g;
  }
  if (!sole_owner(sum) || !sum.is_contiguous()) {
    Tensor fresh = empty(sum.spec(), sum.device());
    kernel::copy(sum, fresh);
    sum = fresh;
  }
  kernel::add_into(g, sum, 1);
  return g;
}

// The leaf's gradient as a place to write: its memory from the last step where there is one.
Gradients::Target leaf_target(TensorImpl& leaf) {
  const bool fresh = !leaf.grad || leaf.grad_stale;
  if (!leaf.grad) {
    const MemoryTagScope tag(MemoryTag::gradients);
    leaf.grad = empty({leaf.shape, leaf.dtype}, leaf.storage->device);
  }
  leaf.grad_stale = false;
  bump_version(leaf.grad);
  return {leaf.grad, !fresh};
}

void add_to_leaf(TensorImpl& leaf, const Tensor& gradient) {
  const auto [grad, accumulate] = leaf_target(leaf);
  if (accumulate) {
    kernel::add_into(gradient, grad, 1);
  } else {
    kernel::copy(gradient, grad);
  }
}

struct LateSum {  // grad += gradient, at the end of the pass
  Tensor grad, gradient;
};

struct PassesInProgress {  // of one thread
  int depth = 0;  // above 1 inside checkpoint's backward
  std::uint64_t count = 0;
  std::vector<std::function<void()>> at_end;
};
PassesInProgress& in_progress() {
  thread_local PassesInProgress passes;
  return passes;
}
class PassScope {
 public:
  PassScope() {
    if (in_progress().depth++ == 0) ++in_progress().count;
  }
  ~PassScope() {
    if (--in_progress().depth == 0) in_progress().at_end.clear();
  }
  PassScope(const PassScope&) = delete;
  PassScope& operator=(const PassScope&) = delete;
  void finish() {
    if (in_progress().depth > 1) return;
    const auto functions = std::exchange(in_progress().at_end, {});
    for (const auto& function : functions) function();
  }
};

struct NewestLast {
  bool operator()(const Node* a, const Node* b) const { return a->sequence < b->sequence; }
};

class Pass {
 public:
  explicit Pass(bool retain) : retain_(retain) {}

  void walk(Node& root, const Tensor& gradient) {
    discover(root);
    add_to_node(root.grad, gradient, root.output.dtype);
    while (!ready_.empty()) {
      const std::shared_ptr<Node> node = keep_.at(ready_.top());
      ready_.pop();
      step(*node);
    }
    add_late();
  }

  // A pass that fails half-way must not leave its sums to the next one.
  void abandon() {
    for (auto& [raw, node] : keep_) node->grad = {};
    for (TensorImpl* leaf : leaves_) leaf->pending_uses = 0;
  }

 private:
  class Delivery final : public Gradients {
   public:
    Delivery(const Node& node, std::vector<LateSum>& late) : node_(node), late_(late) {}
    bool wanted(std::size_t i) const override { return static_cast<bool>(node_.edges.at(i)); }
    void put(std::size_t i, const Tensor& gradient) override {
      const Edge& edge = node_.edges.at(i);
      if (!edge) return;
      check(gradient.shape() == edge.input.shape, "backward: ", node_.op->name(), " delivered a gradient of shape ",
            gradient.shape(), " for input ", i, " of shape ", edge.input.shape);
      if (edge.leaf) {
        add_to_leaf(*edge.leaf, gradient);
        if (observed_) note(i, cast_values(gradient, edge.leaf->dtype), false);
      } else {
        note(i, add_to_node(edge.node->grad, gradient, edge.node->output.dtype), false);
      }
    }
    Target target(std::size_t i) override {
      const Edge& edge = node_.edges.at(i);
      // A kernel writes f32, or its operands' dtype; a 16-bit leaf may be neither.
      if (edge.leaf && is_wide(edge.leaf->dtype)) {
        const Target target = leaf_target(*edge.leaf);
        note(i, target.tensor, target.accumulate);
        return target;
      }
      // A view of a parameter delivers to it: its gradient must not pass through autocast's 16 bits either.
      const bool view_of_leaf = edge.node && edge.node->edges.size() == 1 && edge.node->edges[0].leaf &&
                                edge.node->op->precision() == Precision::as_is;
      Tensor fresh = empty({edge.input.shape, view_of_leaf ? edge.node->output.dtype : edge.input.dtype}, node_.device);
      pending_.emplace_back(i, fresh);
      return {fresh, false};
    }
    Tensor late_target(std::size_t i) override {
      const Edge& edge = node_.edges.at(i);
      const bool adds = edge.leaf && edge.leaf->grad && !edge.leaf->grad_stale && is_wide(edge.leaf->dtype);
      if (!adds) return target(i).tensor;
      const Tensor fresh = empty({edge.input.shape, edge.leaf->dtype}, node_.device);
      if (observed_ || !edge.leaf->hooks.empty()) {
        pending_.emplace_back(i, fresh);
      } else {
        late_.push_back({leaf_target(*edge.leaf).tensor, fresh});
      }
      return fresh;
    }
    Target sum_target(std::size_t i) override {
      const Edge& edge = node_.edges.at(i);
      if (edge.leaf && edge.leaf->dtype == edge.input.dtype) return target(i);
      // The sum of 16-bit gradients would be rounded more often; observers see contributions one by one.
      const bool exact = edge.input.dtype == DType::f32 || edge.input.dtype == DType::f64;
      if (edge.node && edge.node->grad && exact && !observed_) {
        const Tensor& sum = edge.node->grad;
        if (sum.dtype() == edge.input.dtype && sole_owner(sum) && sum.is_contiguous()) return {sum, true};
      }
      pending_.emplace_back(i, empty(edge.input, node_.device));
      return {pending_.back().second, false};
    }
    void finish(const Tensor& dy) {
      for (const auto& [i, gradient] : pending_) put(i, gradient);
      if (observed_) [[unlikely]] tell(dy);
    }

   private:
    void note(std::size_t i, const Tensor& gradient, bool accumulated) {
      if (observed_) [[unlikely]] delivered_.push_back({i, gradient, accumulated});
    }
    void tell(const Tensor& dy) const {
      const BackwardCall call{*node_.op, dy, delivered_, node_.sequence};
      for (Observer* observer : detail::observers()) observer->on_gradients(call);
    }

    const Node& node_;
    std::vector<LateSum>& late_;
    const bool observed_ = !detail::observers().empty();
    std::vector<DeliveredGradient> delivered_;
    std::vector<std::pair<std::size_t, Tensor>> pending_;
  };

  void discover(Node& root) {
    static std::atomic<std::uint64_t> passes{0};
    const std::uint64_t pass = ++passes;
    std::vector<std::shared_ptr<Node>> stack{std::shared_ptr<Node>(std::shared_ptr<Node>(), &root)};
    root.visited_by = pass;
    while (!stack.empty()) {
      const std::shared_ptr<Node> node = std::move(stack.back());
      stack.pop_back();
      check(!node->freed, "backward: the graph through ", node->op->name(),
            " was freed by an earlier backward; pass {.retain_graph = true} to the first one");
      ready_.push(node.get());
      for (const Edge& edge : node->edges) {
        if (edge.leaf) {
          if (edge.leaf->pending_uses++ == 0) leaves_.push_back(edge.leaf.get());
        } else if (edge.node && edge.node->visited_by != pass) {
          edge.node->visited_by = pass;
          stack.push_back(edge.node);
        }
      }
      keep_.emplace(node.get(), node);
    }
  }

  void step(Node& node) {
    const ModuleScope inside(node.module.get());
    Tensor dy = std::move(node.grad);
    node.grad = {};
    if (dy) {
      for (const auto& hook : node.hooks)
        if (Tensor replaced = hook(dy)) dy = replaced;
      for (Observer* observer : detail::observers()) observer->on_backward(*node.op, dy);
      Delivery delivery(node, late_);
      node.saved.set_last_use(!retain_);
      node.op->backward(node.saved, dy, delivery);
      delivery.finish(dy);
    }
    for (const Edge& edge : node.edges)
      if (edge.leaf && --edge.leaf->pending_uses == 0) leaf_done(edge.leaf);
    if (!retain_) {
      node.freed = true;
      node.saved.clear();
      node.edges.clear();  // keep_ holds what is still to be walked
    }
  }

  // Short gradients of leaves that nobody watches, all at once.
  void add_late() {
    std::vector<kernel::SumItem> items;
    const auto add = [&] {
      if (!items.empty()) kernel::add_all(items);
      items.clear();
    };
    for (const LateSum& sum : late_) {
      const kernel::SumItem next{sum.gradient, sum.grad};
      // One call is for one device, and adds to each target once.
      const bool apart = std::ranges::any_of(items, [&](const kernel::SumItem& item) {
        return item.y.device != next.y.device || item.y.data == next.y.data;
      });
      if (apart) add();
      items.push_back(next);
    }
    add();
  }

  static void leaf_done(const std::shared_ptr<TensorImpl>& leaf) {
    if (!leaf->grad || leaf->grad_stale) return;
    for (const auto& hook : leaf->hooks)
      if (Tensor replaced = hook(leaf->grad)) leaf->grad = replaced;
    if (leaf->grad_stale) return;  // a hook took the gradient away
    for (Observer* observer : detail::observers()) observer->on_leaf_gradient(Tensor(leaf));
  }

  bool retain_;
  std::vector<LateSum> late_;
  std::priority_queue<Node*, std::vector<Node*>, NewestLast> ready_;
  std::unordered_map<Node*, std::shared_ptr<Node>> keep_;
  std::vector<TensorImpl*> leaves_;
};

}  // namespace

Node::~Node() {
  // Whatever this node alone keeps alive is moved to a list, so that destruction is a loop, not a recursion.
  std::vector<std::shared_ptr<Node>> doomed;
  const auto take = [&](Node& node) {
    for (Edge& edge : node.edges)
      if (edge.node && edge.node.use_count() == 1) doomed.push_back(std::move(edge.node));
  };
  take(*this);
  while (!doomed.empty()) {
    const std::shared_ptr<Node> node = std::move(doomed.back());
    doomed.pop_back();
    take(*node);
  }
}

void Tensor::backward(const Tensor& gradient, BackwardOptions options) const {
  check(defined(), "backward: the tensor is undefined");
  check(requires_grad(), "backward: the tensor does not require gradients, and no operation that made it does");
  Tensor start = gradient;
  if (!start) {
    check(numel() == 1, "backward: a gradient must be given for a result that is not a scalar, got shape ", shape());
    start = ones_like(*this);
  }
  check(start.shape() == shape(), "backward: the gradient has shape ", start.shape(), ", the result ", shape());
  const NoGrad guard;
  if (is_leaf()) {
    add_to_leaf(*impl(), start);
    return;
  }
  const std::shared_ptr<Node> root = impl()->producer;
  PassScope scope;
  Pass pass(options.retain_graph);
  try {
    pass.walk(*root, start);
  } catch (...) {
    pass.abandon();
    throw;
  }
  scope.finish();
}

void after_backward(std::function<void()> function) {
  check(in_progress().depth > 0, "after_backward: no backward pass is in progress on this thread");
  in_progress().at_end.push_back(std::move(function));
}

std::uint64_t backward_pass() { return in_progress().depth > 0 ? in_progress().count : 0; }

void Tensor::register_hook(std::function<Tensor(const Tensor&)> hook) {
  check(requires_grad(), "register_hook: the tensor does not require gradients");
  (is_leaf() ? impl()->hooks : impl()->producer->hooks).push_back(std::move(hook));
}

}  // namespace binade
