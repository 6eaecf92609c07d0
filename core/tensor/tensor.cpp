// Tensor handles: layout and autograd fields. Values are in core/backend/values.cpp, operations in ops/.
#include "binade/core/tensor/tensor.h"

#include "binade/core/tensor/tensor_impl.h"

namespace binade {

namespace {
TensorImpl& required(const Tensor& x, const char* what) {
  check(x.defined(), what, ": the tensor is undefined");
  return *x.impl();
}
}  // namespace

Tensor::operator TensorView() const {
  if (!impl_) return {};
  return {impl_->storage->data + impl_->offset * size_of(impl_->dtype), impl_->shape, impl_->strides, impl_->dtype,
          impl_->storage->device};
}

const Shape& Tensor::shape() const { return required(*this, "shape").shape; }
const Strides& Tensor::strides() const { return required(*this, "strides").strides; }
DType Tensor::dtype() const { return required(*this, "dtype").dtype; }
Device Tensor::device() const { return required(*this, "device").storage->device; }
std::int64_t Tensor::size(std::int64_t d) const { return shape()[wrap_dim(d, dim(), "size")]; }
bool Tensor::is_contiguous() const { return TensorView(*this).is_contiguous(); }
bool Tensor::shares_memory_with(const Tensor& other) const {
  return impl_ && other.impl_ && impl_->storage == other.impl_->storage;
}

bool Tensor::requires_grad() const { return impl_ && impl_->requires_grad; }
bool Tensor::is_leaf() const { return !required(*this, "is_leaf").producer; }

Tensor& Tensor::requires_grad_(bool on) {
  TensorImpl& impl = required(*this, "requires_grad_");
  check(!on || is_arithmetic_float(impl.dtype), "requires_grad_: only f64, f32, f16 and bf16 tensors have gradients, got ",
        impl.dtype);
  check(!impl.producer || on, "requires_grad_: only a leaf can stop requiring gradients; use detach()");
  impl.requires_grad = on;
  return *this;
}

Tensor Tensor::grad() const {
  const TensorImpl& impl = required(*this, "grad");
  return impl.grad_stale ? Tensor() : impl.grad;
}

void Tensor::set_grad(Tensor grad) {
  TensorImpl& impl = required(*this, "set_grad");
  check(!grad || grad.shape() == impl.shape, "set_grad: expected shape ", impl.shape, ", got ",
        grad ? to_text(grad.shape()) : "");
  impl.grad = std::move(grad);
  impl.grad_stale = false;
}

void Tensor::zero_grad() { required(*this, "zero_grad").grad_stale = true; }

Tensor Tensor::detach() const {
  const TensorImpl& impl = required(*this, "detach");
  return alias(*this, impl.shape, impl.strides, 0);
}

Tensor alias(const Tensor& base, const Shape& shape, const Strides& strides, std::int64_t offset_from_base) {
  auto view = std::make_shared<TensorImpl>();
  view->storage = base.impl()->storage;
  view->offset = base.impl()->offset + offset_from_base;
  view->shape = shape;
  view->strides = strides;
  view->dtype = base.impl()->dtype;
  return Tensor(std::move(view));
}

void bump_version(const Tensor& x) { ++x.impl()->storage->version; }

}  // namespace binade
