// Conversions: between dtypes (rounding to nearest even) and between devices; clones and contiguous copies.
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/transfer.h"
#include "binade/ops/all_ops.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"

namespace binade {

namespace {

// y = x in another dtype, always fresh memory. The gradient returns in x's dtype.
struct Cast : Op {
  DType to = DType::f32;
  explicit Cast(DType dtype = DType::f32) : to(dtype) {}
  std::string_view name() const override { return "cast"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    check_defined("cast", "x", in[0]);
    return {in[0].shape(), to};
  }
  Tensor forward(Inputs in, Saved&) const override {
    Tensor y = empty(infer(in), in[0].device());
    kernel::copy(in[0], y);
    return y;
  }
  void backward(const Saved&, const Tensor& dy, Gradients& out) const override { out.put(0, dy); }
  Tensor reference(Inputs in) const override {
    Tensor y = empty(in[0].shape(), {.dtype = DType::f64});
    for (std::int64_t i = 0; i < y.numel(); ++i) y.set(i, in[0].at(i));
    return y;
  }
};

// y = x on another device. The gradient returns to x's.
struct ToDevice : Op {
  Device from, to;
  ToDevice(Device source, Device target) : from(source), to(target) {}
  std::string_view name() const override { return "to_device"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    check_defined("to", "x", in[0]);
    return in[0].spec();
  }
  Tensor forward(Inputs in, Saved&) const override {
    Tensor y = empty(infer(in), to);
    transfer(in[0], y);
    return y;
  }
  void backward(const Saved&, const Tensor& dy, Gradients& out) const override {
    Tensor dx = empty(dy.spec(), from);
    transfer(dy, dx);
    out.put(0, dx);
  }
  Tensor reference(Inputs in) const override { return Cast(DType::f64).reference(in); }
};

}  // namespace

Tensor cast(const Tensor& x, DType dtype) {
  check_defined("cast", "x", x);
  return x.dtype() == dtype ? x : run(Cast(dtype), {x});
}

Tensor Tensor::to(DType dtype) const { return cast(*this, dtype); }

Tensor Tensor::to(Device target) const {
  return target == device() ? *this : run(ToDevice(device(), target), {*this});
}

Tensor Tensor::clone() const { return run(Cast(dtype()), {*this}); }
Tensor Tensor::contiguous() const { return is_contiguous() ? *this : clone(); }

namespace families {
std::vector<OpPtr> cast_ops() { return {std::make_shared<const Cast>()}; }
}  // namespace families

}  // namespace binade
