#include "binade/core/autograd/checkpoint.h"

#include <utility>

#include "binade/core/autograd/autocast_state.h"
#include "binade/core/autograd/op.h"
#include "binade/core/base/random.h"
#include "binade/core/tensor/grad_mode.h"

namespace binade {

namespace {

struct Checkpoint : Op {
  std::function<Tensor(const Tensors&)> function;
  PhiloxState random;
  bool autocast_on;
  DType autocast_dtype;

  explicit Checkpoint(std::function<Tensor(const Tensors&)> f)
      : function(std::move(f)),
        random(random_state()),
        autocast_on(autocast_state().on),
        autocast_dtype(autocast_state().dtype) {}

  std::string_view name() const override { return "checkpoint"; }
  Precision precision() const override { return Precision::as_is; }
  bool always_recorded() const override { return true; }
  Spec infer(Inputs) const override { fail({"checkpoint: the shape is known only by running the function"}); }

  Tensor forward(Inputs in, Saved& saved) const override {
    const NoGrad guard;
    for (const Tensor& x : in) saved.save(x);
    return function({in.begin(), in.end()}).detach();
  }

  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    Tensors inputs;
    for (std::size_t i = 0; i < saved.size(); ++i) {
      Tensor x = saved[i] ? saved[i].detach() : Tensor();
      if (out.wanted(i)) x.requires_grad_();
      inputs.push_back(x);
    }
    recompute(inputs).backward(dy);
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (out.wanted(i) && inputs[i].grad()) out.put(i, inputs[i].grad());
  }

  Tensor reference(Inputs in) const override {
    const NoGrad guard;
    return function({in.begin(), in.end()});
  }

 private:
  Tensor recompute(const Tensors& inputs) const {
    struct Restore {  // the outer random stream and autocast, its cast cache included, return whatever happens
      PhiloxState random = random_state();
      AutocastState autocast = std::exchange(autocast_state(), {});
      ~Restore() {
        set_random_state(random);
        autocast_state() = std::move(autocast);
      }
    } restore;
    set_random_state(random);
    autocast_state().on = autocast_on;
    autocast_state().dtype = autocast_dtype;
    autocast_state().depth = 1;  // a scope inside the function does not end the recomputation's cache
    const GradMode recording(true);
    return function(inputs);
  }
};

}  // namespace

Tensor checkpoint(std::function<Tensor(const Tensors&)> function, Tensors inputs) {
  check(function != nullptr, "checkpoint: no function given");
  return run(Checkpoint(std::move(function)), std::move(inputs));
}

}  // namespace binade
