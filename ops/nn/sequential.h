// Sequential: modules applied one after the other; parameters are named by position, "0.weight".
#pragma once
#include <functional>

#include "binade/ops/nn/module.h"

namespace binade::nn {

template <class M>
concept UnaryModule = std::derived_from<M, Module> && requires(const M& m, const Tensor& x) {
  { m(x) } -> std::convertible_to<Tensor>;
};

class Sequential : public Module {
 public:
  Sequential() = default;
  template <UnaryModule... Ms>
    requires(sizeof...(Ms) > 1 || (!std::same_as<Ms, Sequential> && ...))  // one Sequential is a copy
  explicit Sequential(Ms... modules) {
    (push_back(std::move(modules)), ...);
  }
  template <UnaryModule M>
  void push_back(M module) {
    add(std::to_string(layers_.size()), module);
    layers_.emplace_back([m = std::move(module)](const Tensor& x) { return m(x); });
  }
  std::size_t size() const { return layers_.size(); }
  Tensor operator()(const Tensor& x) const {
    const ModuleScope inside = enter();
    Tensor y = x;
    for (const auto& layer : layers_) y = layer(y);
    return y;
  }

 private:
  std::vector<std::function<Tensor(const Tensor&)>> layers_;
};

}  // namespace binade::nn
