// Tensor: a handle on a strided, typed array. Copying a Tensor copies the handle; views share memory.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "binade/core/base/scalar.h"
#include "binade/core/tensor/view.h"

namespace binade {

struct Spec {  // what a tensor is, without its memory
  Shape shape;
  DType dtype = DType::f32;
};

struct TensorOptions {
  DType dtype = DType::f32;
  Device device = {};
  bool requires_grad = false;
};

class Tensor;
struct TensorImpl;
using Tensors = std::vector<Tensor>;
using Inputs = std::span<const Tensor>;

struct BackwardOptions {
  bool retain_graph = false;  // keep what backward needs, so that it can run again
};

class Tensor {
 public:
  Tensor() = default;  // undefined: no memory, converts to false
  explicit Tensor(std::shared_ptr<TensorImpl> impl) : impl_(std::move(impl)) {}

  explicit operator bool() const { return impl_ != nullptr; }
  bool defined() const { return impl_ != nullptr; }
  operator TensorView() const;  // an absent view for an undefined tensor

  // What it is. All throw for an undefined tensor.
  const Shape& shape() const;
  const Strides& strides() const;
  std::int64_t size(std::int64_t dim) const;  // negative dims count from the end
  int dim() const { return shape().size(); }
  std::int64_t numel() const { return shape().numel(); }
  DType dtype() const;
  Device device() const;
  Spec spec() const { return {shape(), dtype()}; }
  bool is_contiguous() const;
  bool is_same(const Tensor& other) const { return impl_ == other.impl_; }
  bool shares_memory_with(const Tensor& other) const;

  // Values. Reading waits for the device.
  template <class T>
  T item() const;  // the only element, converted to T; throws for more than one element
  template <class T>
  std::vector<T> to_vector() const;  // row-major, converted to T
  template <class T>
  std::span<T> data() const;  // direct access: CPU, contiguous, T must be the element type
  double at(std::int64_t i) const;         // row-major element i as double (slow: for tests and printing)
  void set(std::int64_t i, double value);  // changes the tensor in place

  // Autograd.
  bool requires_grad() const;
  Tensor& requires_grad_(bool on = true);  // leaves only; floating dtypes only
  bool is_leaf() const;
  Tensor grad() const;  // undefined before the first backward and after zero_grad()
  void set_grad(Tensor grad);
  void zero_grad();  // marks the gradient stale: the next backward overwrites it, its memory is kept
  Tensor detach() const;  // the same memory, outside the graph
  void backward(const Tensor& gradient = {}, BackwardOptions options = {}) const;
  // Runs once a leaf's gradient is final in a backward pass, or with the gradient of a non-leaf (which it may replace).
  void register_hook(std::function<Tensor(const Tensor& grad)> hook);

  // In place, outside the graph: allowed for tensors that do not require gradients or under NoGrad; backward
  // reports a saved tensor that was changed this way.
  Tensor& fill_(double value);
  Tensor& zero_() { return fill_(0); }
  Tensor& copy_(const Tensor& source);  // broadcasts, converts dtype, crosses devices
  Tensor& add_(const Tensor& other, double alpha = 1);
  Tensor& mul_(double factor);
  Tensor& uniform_(double low, double high);  // next draw of the random stream
  Tensor& normal_(double mean, double stddev);

  // Conversions and views (differentiable; documented in ops/ops.h).
  Tensor to(DType dtype) const;
  Tensor to(Device device) const;
  Tensor clone() const;
  Tensor contiguous() const;
  Tensor reshape(Shape shape) const;  // one -1 is inferred; a view where strides allow, else a copy
  Tensor view(Shape shape) const;     // a view, or an error
  Tensor flatten(std::int64_t start = 0, std::int64_t end = -1) const;
  Tensor transpose(std::int64_t a, std::int64_t b) const;
  Tensor t() const { return transpose(-2, -1); }
  Tensor permute(const Shape& order) const;
  Tensor narrow(std::int64_t dim, std::int64_t start, std::int64_t length) const;
  Tensor slice(std::int64_t dim, std::int64_t start, std::int64_t end, std::int64_t step = 1) const;
  Tensor select(std::int64_t dim, std::int64_t index) const;
  Tensor expand(Shape shape) const;
  Tensor squeeze(std::optional<std::int64_t> dim = {}) const;
  Tensor unsqueeze(std::int64_t dim) const;

  TensorImpl* impl() const { return impl_.get(); }
  const std::shared_ptr<TensorImpl>& shared_impl() const { return impl_; }

 private:
  std::shared_ptr<TensorImpl> impl_;
};

// Factories.
Tensor empty(Shape shape, TensorOptions options = {});  // uninitialised
Tensor empty(const Spec& spec, Device device);
Tensor zeros(Shape shape, TensorOptions options = {});
Tensor ones(Shape shape, TensorOptions options = {});
Tensor full(Shape shape, double value, TensorOptions options = {});
Tensor empty_like(const Tensor& x);
Tensor zeros_like(const Tensor& x);
Tensor ones_like(const Tensor& x);
Tensor arange(double start, double end, double step = 1, TensorOptions options = {.dtype = DType::i64});
Tensor rand(Shape shape, TensorOptions options = {});   // uniform in [0, 1)
Tensor randn(Shape shape, TensorOptions options = {});  // standard normal
Tensor randint(std::int64_t low, std::int64_t high, Shape shape, TensorOptions options = {.dtype = DType::i64});
Tensor scalar_tensor(double value, TensorOptions options = {});  // zero-dim
template <class T>
Tensor from_vector(const std::vector<T>& values, Shape shape, TensorOptions options = {.dtype = dtype_of<T>});
template <class T>
Tensor from_span(std::span<const T> values, Shape shape, TensorOptions options = {.dtype = dtype_of<T>});

// "tensor [2, 3] f32 cpu" and the values, long ones shortened; for people.
std::string to_string(const Tensor& x);

// How often the host has read values of tensors so far (item, to_vector, at, data), in this process. On a device each
// read waits for all work before it: a training step should make none.
std::uint64_t host_reads();

namespace detail {
void read_values(const Tensor& x, DType as, void* out);          // row-major, converted
Tensor tensor_from(const void* values, DType as, std::size_t count, const Shape& shape, const TensorOptions& options);
void check_data_access(const Tensor& x, DType as);
}  // namespace detail

template <class T>
std::vector<T> Tensor::to_vector() const {
  if constexpr (std::is_same_v<T, bool>) {
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(numel()));
    detail::read_values(*this, DType::u8, bytes.data());
    return {bytes.begin(), bytes.end()};
  } else {
    std::vector<T> values(static_cast<std::size_t>(numel()));
    detail::read_values(*this, dtype_of<T>, values.data());
    return values;
  }
}
template <class T>
T Tensor::item() const {
  check(numel() == 1, "item: expected one element, got shape ", shape());
  T value{};
  detail::read_values(*this, dtype_of<T>, &value);
  return value;
}
template <class T>
std::span<T> Tensor::data() const {
  detail::check_data_access(*this, dtype_of<T>);
  return {TensorView(*this).as<T>(), static_cast<std::size_t>(numel())};
}
template <class T>
Tensor from_span(std::span<const T> values, Shape shape, TensorOptions options) {
  return detail::tensor_from(values.data(), dtype_of<T>, values.size(), shape, options);
}
template <class T>
Tensor from_vector(const std::vector<T>& values, Shape shape, TensorOptions options) {
  return from_span(std::span<const T>(values), shape, options);
}

}  // namespace binade
