// Module: named parameters, buffers and child modules. A Module is a handle: copies share the same parameters, and
// the train/eval switch, as a Tensor's copies share memory.
//
//   struct Net : nn::Module {
//     nn::Linear a = add("a", nn::Linear(4, 8)), b = add("b", nn::Linear(8, 2));
//     Tensor operator()(const Tensor& x) const { return b(relu(a(x))); }
//   };
#pragma once
#include <concepts>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binade/core/autograd/module_path.h"
#include "binade/core/tensor/tensor.h"

namespace binade::nn {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

struct LinearPrecision;  // ops/nn/fp8.h

class Module {
 public:
  Module();
  Module(const Module&) = default;  // shares the state; moving copies too, so that no module is ever left empty
  Module& operator=(const Module&) = default;
  virtual ~Module() = default;

  Tensors parameters() const;                        // each once, in order of registration
  NamedTensors named_parameters() const;             // "h.0.attn.qkv.weight"; a shared one under its first name
  NamedTensors named_buffers() const;                // state that is not trained, such as running statistics
  std::map<std::string, Tensor> state_dict() const;  // every name of parameters and buffers; handles, not copies
  // Copies values in place, converting dtype and device. One Error lists every missing, unexpected and mis-shaped
  // tensor, and then nothing was changed.
  void load_state_dict(const std::map<std::string, Tensor>& state);
  std::int64_t parameter_count() const;

  void train(bool on = true);  // this module and everything below it
  void eval() { train(false); }
  bool training() const;

  // Operations until the end of the returned scope belong to this module: `const ModuleScope inside = enter();` at the
  // start of operator(). The library's modules do it; without it an operation belongs to the module around.
  [[nodiscard]] ModuleScope enter() const;
  const PathName* place() const;  // what enter() enters, as long as the module lives
  std::string path() const;  // "h.0.attn" within the first module it was added to; empty for a root

  // In place: optimizers made before stay valid. Gradients are dropped.
  void to(Device device);
  void to(DType dtype);  // floating parameters; buffers keep their dtype, running statistics need f32
  void zero_grad();

  // body("h.0.mlp.fc", module) for this module, named "", and all below it, in order of registration.
  void each(const std::function<void(const std::string& name, const Module& module)>& body) const;
  const std::shared_ptr<LinearPrecision>& linear_precision() const;  // null unless this is a Linear

  // Registration: for constructors of modules. Names must be new, not empty, and without dots.
  template <std::derived_from<Module> M>
  M add(const std::string& name, M module) {
    add_child(name, module);
    return module;
  }
  Tensor add_parameter(const std::string& name, Tensor x);  // an undefined tensor is not registered
  Tensor add_buffer(const std::string& name, Tensor x);

 protected:
  void set_linear_precision(std::shared_ptr<LinearPrecision> precision);  // how a Linear lets use_fp8 reach it

 private:
  struct State;
  void add_child(const std::string& name, const Module& module);
  void each_below(const std::string& name,
                  const std::function<void(const std::string& name, const Module& module)>& body) const;
  void check_name(const std::string& name) const;
  enum class Kind { parameters, buffers };
  void collect(Kind kind, const std::string& prefix, NamedTensors& out) const;
  std::shared_ptr<State> state_;
};

}  // namespace binade::nn
