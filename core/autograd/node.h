// Node: one recorded operation, and the edges along which its gradients flow.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "binade/core/autograd/module_path.h"
#include "binade/core/autograd/op.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade {

struct Edge {  // where the gradient of one input goes; neither is set where none is wanted
  std::shared_ptr<Node> node;
  std::shared_ptr<TensorImpl> leaf;
  Spec input;  // as the operation saw it, autocast's cast included
  explicit operator bool() const { return node || leaf; }
};

struct Node {
  OpPtr op;
  PathPtr module;  // that it ran in
  Saved saved;
  std::vector<Edge> edges;
  Spec output;
  Device device;
  std::uint64_t sequence = 0;  // in order of recording: an operation comes after those that made its inputs
  bool freed = false;
  std::uint64_t visited_by = 0;  // the last backward pass that reached it
  Tensor grad;                   // the sum of what its consumers delivered so far
  std::vector<std::function<Tensor(const Tensor&)>> hooks;

  ~Node();  // takes long chains apart without recursion
};

}  // namespace binade
