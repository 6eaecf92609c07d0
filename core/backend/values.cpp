// Tensors' values: factories, reading, writing in place, printing. Everything here is outside the graph.
#include <atomic>
#include <cmath>

#include "binade/core/tensor/grad_mode.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/transfer.h"
#include "binade/core/tensor/tensor_impl.h"

namespace binade {

namespace {

std::atomic<std::uint64_t> reads{0};
void count_host_read() { reads.fetch_add(1, std::memory_order_relaxed); }

void check_in_place(const Tensor& x, const char* what) {
  check(x.defined(), what, ": the tensor is undefined");
  check(!x.requires_grad() || !grad_enabled(), what,
        ": a tensor that requires gradients can only be changed in place under NoGrad");
}

// Row-major element i as a zero-dim view.
TensorView element_view(TensorView view, std::int64_t i) {
  std::int64_t offset = 0;
  for (int d = view.dim() - 1; d >= 0; --d) {
    offset += i % view.shape[d] * view.strides[d];
    i /= view.shape[d];
  }
  view.data += offset * size_of(view.dtype);
  view.shape = view.strides = {};
  return view;
}

// The caller's memory, contiguous, as kernels of the CPU see it.
TensorView host_view(void* values, DType dtype, const Shape& shape) {
  return {static_cast<std::byte*>(values), shape, contiguous_strides(shape), dtype, Device{}};
}

Tensor with_values(Tensor x, const TensorOptions& options) { return x.requires_grad_(options.requires_grad); }

}  // namespace

Tensor empty(Shape shape, TensorOptions options) {
  std::int64_t bytes = size_of(options.dtype);
  for (const std::int64_t d : shape) {
    check(d >= 0, "empty: negative size in shape ", shape);
    check(!__builtin_mul_overflow(bytes, std::max<std::int64_t>(d, 1), &bytes), "empty: shape ", shape, " is too large");
  }
  auto impl = std::make_shared<TensorImpl>();
  impl->storage = std::make_shared<Storage>(
      static_cast<std::size_t>(shape.numel() * size_of(options.dtype)), options.device);
  impl->strides = contiguous_strides(shape);
  impl->shape = shape;
  impl->dtype = options.dtype;
  return with_values(Tensor(std::move(impl)), options);
}
Tensor empty(const Spec& spec, Device device) { return empty(spec.shape, {.dtype = spec.dtype, .device = device}); }

Tensor full(Shape shape, double value, TensorOptions options) {
  Tensor x = empty(shape, options);
  kernel::fill(x, value);
  return x;
}
Tensor zeros(Shape shape, TensorOptions options) { return full(shape, 0, options); }
Tensor ones(Shape shape, TensorOptions options) { return full(shape, 1, options); }
Tensor empty_like(const Tensor& x) { return empty(x.spec(), x.device()); }
Tensor zeros_like(const Tensor& x) { return zeros(x.shape(), {.dtype = x.dtype(), .device = x.device()}); }
Tensor ones_like(const Tensor& x) { return ones(x.shape(), {.dtype = x.dtype(), .device = x.device()}); }
Tensor scalar_tensor(double value, TensorOptions options) { return full({}, value, options); }

Tensor arange(double start, double end, double step, TensorOptions options) {
  check(step != 0 && std::isfinite(step) && std::isfinite(start) && std::isfinite(end) && (end - start) / step >= 0,
        "arange: step ", step, " does not lead from ", start, " to ", end);
  Tensor x = empty({static_cast<std::int64_t>(std::ceil((end - start) / step))}, options);
  kernel::arange(x, start, step);
  return x;
}

Tensor rand(Shape shape, TensorOptions options) {
  Tensor x = empty(shape, options);
  kernel::uniform(x, next_draw(), 0, 1);
  return x;
}
Tensor randn(Shape shape, TensorOptions options) {
  Tensor x = empty(shape, options);
  kernel::normal(x, next_draw(), 0, 1);
  return x;
}
Tensor randint(std::int64_t low, std::int64_t high, Shape shape, TensorOptions options) {
  check(low < high, "randint: expected low < high, got ", low, " and ", high);
  Tensor x = empty(shape, options);
  kernel::randint(x, next_draw(), low, high);
  return x;
}

Tensor& Tensor::fill_(double value) {
  check_in_place(*this, "fill_");
  kernel::fill(*this, value);
  bump_version(*this);
  return *this;
}

Tensor& Tensor::copy_(const Tensor& source) {
  check_in_place(*this, "copy_");
  check(source.defined(), "copy_: the source is undefined");
  check(broadcast_shapes(shape(), source.shape(), "copy_") == shape(), "copy_: source ", source.shape(),
        " does not broadcast to ", shape());
  transfer(detail::broadcast_view(source, shape()), *this);
  bump_version(*this);
  return *this;
}

Tensor& Tensor::add_(const Tensor& other, double alpha) {
  check_in_place(*this, "add_");
  check(other.defined(), "add_: the other tensor is undefined");
  check(broadcast_shapes(shape(), other.shape(), "add_") == shape(), "add_: ", other.shape(),
        " does not broadcast to ", shape());
  kernel::add_into(detail::broadcast_view(other, shape()), *this, alpha);
  bump_version(*this);
  return *this;
}

Tensor& Tensor::mul_(double factor) {
  check_in_place(*this, "mul_");
  kernel::sum(*this, *this, factor, false);  // over no dim: each element times the factor, rounded once
  bump_version(*this);
  return *this;
}

Tensor& Tensor::uniform_(double low, double high) {
  check_in_place(*this, "uniform_");
  kernel::uniform(*this, next_draw(), low, high);
  bump_version(*this);
  return *this;
}

Tensor& Tensor::normal_(double mean, double stddev) {
  check_in_place(*this, "normal_");
  check(stddev >= 0, "normal_: expected a standard deviation >= 0, got ", stddev);
  kernel::normal(*this, next_draw(), mean, stddev);
  bump_version(*this);
  return *this;
}

double Tensor::at(std::int64_t i) const {
  check(i >= 0 && i < numel(), "at: element ", i, " of ", numel());
  count_host_read();
  const TensorView element = element_view(*this, i);
  double value = 0;
  if (element.device.type != DeviceType::cpu) {
    transfer(element, host_view(&value, DType::f64, {}));
    return value;
  }
  return with_type(element.dtype, [&]<class T>() { return convert<double>(*element.as<T>()); });
}

void Tensor::set(std::int64_t i, double value) {
  check_in_place(*this, "set");
  check(i >= 0 && i < numel(), "set: element ", i, " of ", numel());
  const TensorView element = element_view(*this, i);
  if (element.device.type != DeviceType::cpu) {
    kernel::fill(element, value);
  } else {
    with_type(element.dtype, [&]<class T>() { *element.as<T>() = convert<T>(value); });
  }
  bump_version(*this);
}

Tensor cast_values(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  Tensor y = empty({x.shape(), dtype}, x.device());
  kernel::copy(x, y);
  return y;
}

Tensor contiguous_values(const Tensor& x) {
  if (x.is_contiguous()) return x;
  Tensor y = empty_like(x);
  kernel::copy(x, y);
  return y;
}

std::uint64_t host_reads() { return reads.load(std::memory_order_relaxed); }

namespace detail {

TensorView broadcast_view(const TensorView& x, const Shape& shape) {
  TensorView view = x;
  view.shape = shape;
  view.strides = shape;
  const int shift = shape.size() - x.dim();
  for (int d = 0; d < shape.size(); ++d)
    view.strides[d] = d < shift || (x.shape[d - shift] == 1 && shape[d] != 1) ? 0 : x.strides[d - shift];
  return view;
}

void read_values(const Tensor& x, DType as, void* out) {
  check(x.defined(), "read: the tensor is undefined");
  count_host_read();
  transfer(x, host_view(out, as, x.shape()));
}

Tensor tensor_from(const void* values, DType as, std::size_t count, const Shape& shape, const TensorOptions& options) {
  check(static_cast<std::int64_t>(count) == shape.numel(), "from_vector: ", count, " values do not fill shape ", shape);
  Tensor x = empty(shape, {.dtype = options.dtype, .device = options.device});
  // Transfers read only; views have no const variant.
  transfer(host_view(const_cast<void*>(values), as, shape), x);
  return with_values(x, options);
}

void check_data_access(const Tensor& x, DType as) {
  count_host_read();
  check(x.dtype() == as, "data: the tensor holds ", x.dtype(), ", asked for ", as);
  check(x.device().type == DeviceType::cpu, "data: direct access needs a CPU tensor, got ", to_text(x.device()));
  check(x.is_contiguous(), "data: direct access needs a contiguous tensor; call contiguous() first");
  x.impl()->storage->exposed = true;
}

}  // namespace detail

}  // namespace binade
