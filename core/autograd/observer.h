// Observers of the door: tests, profiling and the precision tools watch every operation from here. Inside a call,
// module_path() (core/autograd/module_path.h) names the module the operation belongs to, in backward too.
// Without an observer the door pays one branch per operation.
#pragma once
#include <cstdint>

#include "binade/core/autograd/op.h"

namespace binade {

struct ForwardCall {
  const OpPtr& op;
  Inputs given;            // as the caller gave them
  Inputs seen;             // as the operation saw them: autocast's and promotion's casts done
  const Tensor& output;
  std::uint64_t sequence;  // which recording; 0 where the operation was not recorded
};

struct DeliveredGradient {
  std::size_t input;
  Tensor gradient;   // as it was kept: in the dtype of the tensor it belongs to
  bool accumulated;  // written straight into a leaf's gradient that held earlier contributions, which it includes
};
struct BackwardCall {
  const Op& op;
  const Tensor& dy;
  std::span<const DeliveredGradient> gradients;
  std::uint64_t sequence;  // that of the ForwardCall
};

class Observer {
 public:
  virtual ~Observer() = default;
  // After the forward of an operation; inputs as the operation saw them (casts done). A function under checkpoint()
  // is seen twice: in forward, not recorded, and again in backward.
  virtual void on_forward(const OpPtr& /*op*/, Inputs /*inputs*/, const Tensor& /*output*/) {}
  virtual void on_forward_call(const ForwardCall& call) { on_forward(call.op, call.seen, call.output); }  // the same
  // Before the backward of an operation, with the gradient of its output.
  virtual void on_backward(const Op& /*op*/, const Tensor& /*dy*/) {}
  // After it, with the gradients it delivered, before other operations' contributions are added (see `accumulated`).
  virtual void on_gradients(const BackwardCall& /*call*/) {}
  // A leaf's gradient, leaf.grad(), is final in this backward pass; its hooks have run.
  virtual void on_leaf_gradient(const Tensor& /*leaf*/) {}
};

class ObserverScope {  // the observer watches this thread's operations until the end of the scope
 public:
  explicit ObserverScope(Observer& observer);
  ~ObserverScope();
  ObserverScope(const ObserverScope&) = delete;
  ObserverScope& operator=(const ObserverScope&) = delete;
};

namespace detail {
const std::vector<Observer*>& observers();  // of this thread
}

}  // namespace binade
