// Observers of the door: tests, profiling and the precision tools watch every operation from here.
#pragma once
#include "binade/core/autograd/op.h"

namespace binade {

class Observer {
 public:
  virtual ~Observer() = default;
  // After the forward of an operation; inputs as the operation saw them (casts done).
  virtual void on_forward(const OpPtr& /*op*/, Inputs /*inputs*/, const Tensor& /*output*/) {}
  // Before the backward of an operation, with the gradient of its output.
  virtual void on_backward(const Op& /*op*/, const Tensor& /*dy*/) {}
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
