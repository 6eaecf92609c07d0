// What a Tensor handle points to: storage, layout and the autograd fields of one tensor.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "binade/core/tensor/tensor.h"

namespace binade {

struct Node;      // core/autograd/node.h
struct PathName;  // core/autograd/module_path.h
struct RoundedCopy;  // core/autograd/rounded_copy.h

struct Storage {  // memory shared by a tensor and its views; returned to its allocator at the end
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  Device device;
  std::uint64_t version = 0;  // counts in-place changes
  std::atomic<bool> exposed = false;  // data() gave out its address: it may change without being counted
  Storage(std::size_t bytes, Device device);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
};

struct TensorImpl {
  std::shared_ptr<Storage> storage;
  std::int64_t offset = 0;  // in elements
  Shape shape;
  Strides strides;
  DType dtype = DType::f32;

  bool requires_grad = false;
  std::shared_ptr<Node> producer;  // the operation that made it; null for leaves
  Tensor grad;                     // leaves only
  bool grad_stale = false;         // zero_grad() was called: the next accumulation overwrites
  std::vector<std::function<Tensor(const Tensor&)>> hooks;
  std::shared_ptr<RoundedCopy> rounded;  // f32 leaves: what autocast computes with
  std::shared_ptr<const PathName> name;  // a parameter's place in its model
  std::int64_t pending_uses = 0;  // backward's count of contributions still to come (leaves)
};

// A tensor over existing storage, outside the graph.
Tensor alias(const Tensor& base, const Shape& shape, const Strides& strides, std::int64_t offset_from_base);
void bump_version(const Tensor& x);  // every in-place change calls it
// `x` itself where it is contiguous, else a contiguous copy; outside the graph. For kernels that demand it.
Tensor contiguous_values(const Tensor& x);
// `x` in another dtype, outside the graph; itself where nothing changes.
Tensor cast_values(const Tensor& x, DType dtype);

namespace detail {
// `x` seen in a larger shape it broadcasts to, by strides of 0.
TensorView broadcast_view(const TensorView& x, const Shape& shape);
}  // namespace detail

}  // namespace binade
