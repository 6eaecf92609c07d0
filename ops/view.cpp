// Views: the same memory seen in another shape. Only reshape may have to copy.
#include <optional>

#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/all_ops.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"

namespace binade {

namespace {

// The strides with which `x` can be seen as `shape` without a copy, if there are any.
std::optional<Strides> view_strides(const TensorView& x, const Shape& shape) {
  Strides out = shape;
  if (x.numel() == 0) return contiguous_strides(shape);
  // Walk both from the back; each group of x's dims that is contiguous within itself feeds a group of new dims.
  int j = shape.size() - 1;
  std::int64_t group_size = 1, group_stride = x.dim() ? x.strides[x.dim() - 1] : 1;
  for (int i = x.dim() - 1; i >= 0; --i) {
    group_size *= x.shape[i];
    const bool group_ends = i == 0 || (x.shape[i - 1] != 1 && x.strides[i - 1] != group_size * group_stride);
    if (!group_ends) continue;
    std::int64_t filled = 1;
    while (j >= 0 && (filled < group_size || shape[j] == 1)) {
      out[j] = filled * group_stride;
      filled *= shape[j--];
    }
    if (filled != group_size) return {};
    if (i > 0) {
      group_size = 1;
      group_stride = x.strides[i - 1];
    }
  }
  for (; j >= 0; --j) out[j] = 1;  // leading ones of a zero-dim tensor
  return out;
}

Tensor fresh_copy(const Tensor& x) {
  Tensor y = empty_like(x);
  kernel::copy(x, y);
  return y;
}

struct Reshape : Op {
  Shape shape;
  explicit Reshape(const Shape& s = {}) : shape(s) {}
  std::string_view name() const override { return "reshape"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    check_defined("reshape", "x", in[0]);
    Shape to = shape;
    int inferred = -1;
    std::int64_t known = 1;
    for (int d = 0; d < to.size(); ++d) {
      check(to[d] >= -1, "reshape: negative size in ", to);
      check(to[d] != -1 || inferred < 0, "reshape: only one dimension can be -1, got ", to);
      if (to[d] == -1) {
        inferred = d;
      } else {
        known *= to[d];
      }
    }
    const std::int64_t count = in[0].numel();
    if (inferred >= 0 && known > 0 && count % known == 0) to[inferred] = count / known;
    check((inferred < 0 || known > 0) && to.numel() == count, "reshape: ", in[0].shape(), " has ", count,
          " elements, which do not fit ", shape);
    return {to, in[0].dtype()};
  }
  Tensor forward(Inputs in, Saved&) const override {
    const Shape to = infer(in).shape;
    if (const auto strides = view_strides(in[0], to)) return alias(in[0], to, *strides, 0);
    return alias(fresh_copy(in[0]), to, contiguous_strides(to), 0);
  }
  void backward(const Saved&, const Tensor& dy, Gradients& out) const override {
    const Tensor flat = contiguous_values(dy);
    out.put(0, alias(flat, input_shape, contiguous_strides(input_shape), 0));
  }
  Tensor reference(Inputs in) const override {
    Tensor y = empty(infer(in).shape, {.dtype = DType::f64});
    for (std::int64_t i = 0; i < y.numel(); ++i) y.set(i, in[0].at(i));
    return y;
  }
  Shape input_shape;
};

struct Permute : Op {
  Shape order;
  explicit Permute(const Shape& o = {}) : order(o) {}
  std::string_view name() const override { return "permute"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    check_defined("permute", "x", in[0]);
    check(order.size() == in[0].dim(), "permute: order ", order, " for shape ", in[0].shape());
    Shape shape = order;
    std::uint32_t seen = 0;
    for (int d = 0; d < order.size(); ++d) {
      const int from = wrap_dim(order[d], order.size(), "permute");
      check(!(seen & (1U << from)), "permute: dim ", from, " appears twice in ", order);
      seen |= 1U << from;
      shape[d] = in[0].shape()[from];
    }
    return {shape, in[0].dtype()};
  }
  Tensor forward(Inputs in, Saved&) const override {
    const Shape shape = infer(in).shape;
    Strides strides = shape;
    for (int d = 0; d < shape.size(); ++d) strides[d] = in[0].strides()[wrap_dim(order[d], shape.size(), "permute")];
    return alias(in[0], shape, strides, 0);
  }
  void backward(const Saved&, const Tensor& dy, Gradients& out) const override {
    Shape shape = dy.shape();
    Strides strides = shape;
    for (int d = 0; d < shape.size(); ++d) {
      const int from = wrap_dim(order[d], shape.size(), "permute");
      shape[from] = dy.shape()[d];
      strides[from] = dy.strides()[d];
    }
    out.put(0, alias(dy, shape, strides, 0));
  }
  Tensor reference(Inputs in) const override {
    const Shape shape = infer(in).shape;
    const Strides from = contiguous_strides(in[0].shape());
    Tensor y = empty(shape, {.dtype = DType::f64});
    for (std::int64_t i = 0; i < y.numel(); ++i) {
      std::int64_t rest = i, source = 0;
      for (int d = shape.size() - 1; d >= 0; --d) {
        source += rest % shape[d] * from[wrap_dim(order[d], shape.size(), "permute")];
        rest /= shape[d];
      }
      y.set(i, in[0].at(source));
    }
    return y;
  }
};

struct Expand : Op {
  Shape shape;
  explicit Expand(const Shape& s = {}) : shape(s) {}
  std::string_view name() const override { return "expand"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    check_defined("expand", "x", in[0]);
    const Shape& from = in[0].shape();
    check(shape.size() >= from.size(), "expand: ", from, " cannot be expanded to ", shape);
    Shape to = shape;
    const int shift = shape.size() - from.size();
    for (int d = 0; d < from.size(); ++d) {
      if (to[d + shift] == -1) to[d + shift] = from[d];  // -1 keeps a size
      check(from[d] == 1 || from[d] == to[d + shift], "expand: ", from, " cannot be expanded to ", shape);
    }
    for (const std::int64_t d : to) check(d >= 0, "expand: negative size in ", shape);
    return {to, in[0].dtype()};
  }
  Tensor forward(Inputs in, Saved&) const override {
    const TensorView view = detail::broadcast_view(in[0], infer(in).shape);
    return alias(in[0], view.shape, view.strides, 0);
  }
  void backward(const Saved&, const Tensor& dy, Gradients& out) const override {
    // The gradient of a repeated element is the sum over its repetitions.
    Shape kept = dy.shape();
    const int shift = kept.size() - input_shape.size();
    for (int d = 0; d < kept.size(); ++d) kept[d] = d < shift ? 1 : input_shape[d - shift];
    Tensor dx = empty({input_shape, dy.dtype()}, dy.device());
    kernel::sum(dy, alias(dx, kept, contiguous_strides(kept), 0), 1, false);
    out.put(0, dx);
  }
  Tensor reference(Inputs in) const override {
    const Shape to = infer(in).shape;
    const Shape& from = in[0].shape();
    const Strides strides = contiguous_strides(from);
    Tensor y = empty(to, {.dtype = DType::f64});
    for (std::int64_t i = 0; i < y.numel(); ++i) {
      std::int64_t rest = i, source = 0;
      for (int d = to.size() - 1, s = from.size() - 1; d >= 0; --d, --s) {
        if (s >= 0 && from[s] != 1) source += rest % to[d] * strides[s];
        rest /= to[d];
      }
      y.set(i, in[0].at(source));
    }
    return y;
  }
  Shape input_shape;
};

// Elements start, start + step, ... of one dim.
struct Slice : Op {
  int dim = 0;
  std::int64_t start = 0, count = 0, step = 1;
  std::string_view name() const override { return "slice"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    Shape shape = in[0].shape();
    shape[dim] = count;
    return {shape, in[0].dtype()};
  }
  Tensor forward(Inputs in, Saved&) const override {
    Strides strides = in[0].strides();
    const std::int64_t offset = start * strides[dim];
    strides[dim] *= step;
    return alias(in[0], infer(in).shape, strides, offset);
  }
  void backward(const Saved&, const Tensor& dy, Gradients& out) const override {
    Tensor dx = zeros(input_shape, {.dtype = dy.dtype(), .device = dy.device()});
    Strides strides = dx.strides();
    const std::int64_t offset = start * strides[dim];
    strides[dim] *= step;
    if (dy.numel() > 0) kernel::copy(dy, alias(dx, dy.shape(), strides, offset));
    out.put(0, dx);
  }
  Tensor reference(Inputs in) const override {
    const Shape shape = infer(in).shape;
    Tensor y = empty(shape, {.dtype = DType::f64});
    std::int64_t inner = 1;
    for (int d = dim + 1; d < shape.size(); ++d) inner *= shape[d];
    for (std::int64_t i = 0; i < y.numel(); ++i) {
      const std::int64_t within = i % inner, at = i / inner % count, outer = i / inner / count;
      y.set(i, in[0].at((outer * in[0].shape()[dim] + start + at * step) * inner + within));
    }
    return y;
  }
  Shape input_shape;
};

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  Reshape op(shape);
  check_defined("reshape", "x", x);
  op.input_shape = x.shape();
  return run(std::move(op), {x});
}

Tensor permute(const Tensor& x, const Shape& order) { return run(Permute(order), {x}); }

Tensor transpose(const Tensor& x, std::int64_t a, std::int64_t b) {
  check_defined("transpose", "x", x);
  Shape order;
  for (int d = 0; d < x.dim(); ++d) order.push_back(d);
  if (x.dim() > 0) std::swap(order[wrap_dim(a, x.dim(), "transpose")], order[wrap_dim(b, x.dim(), "transpose")]);
  return permute(x, order);
}

Tensor expand(const Tensor& x, const Shape& shape) {
  Expand op(shape);
  check_defined("expand", "x", x);
  op.input_shape = x.shape();
  return run(std::move(op), {x});
}

// As in Python: negative positions count from the end, both ends are clamped.
Tensor slice(const Tensor& x, std::int64_t dim, std::int64_t start, std::int64_t end, std::int64_t step) {
  check_defined("slice", "x", x);
  check(x.dim() > 0, "slice: a zero-dim tensor has no dimension to slice");
  check(step >= 1, "slice: expected step >= 1, got ", step);
  Slice op;
  op.dim = wrap_dim(dim, x.dim(), "slice");
  const std::int64_t size = x.shape()[op.dim];
  const auto clamped = [size](std::int64_t i) { return std::clamp<std::int64_t>(i < 0 ? i + size : i, 0, size); };
  op.start = clamped(start);
  op.count = std::max<std::int64_t>(0, (clamped(end) - op.start + step - 1) / step);
  op.step = step;
  op.input_shape = x.shape();
  return run(std::move(op), {x});
}

Tensor narrow(const Tensor& x, std::int64_t dim, std::int64_t start, std::int64_t length) {
  check_defined("narrow", "x", x);
  const std::int64_t size = x.size(wrap_dim(dim, x.dim(), "narrow"));
  check(x.dim() > 0 && start >= 0 && length >= 0 && start + length <= size, "narrow: ", start, " + ", length,
        " is out of range for dim ", dim, " of ", x.shape());
  return slice(x, dim, start, start + length);
}

Tensor select(const Tensor& x, std::int64_t dim, std::int64_t index) {
  check_defined("select", "x", x);
  const int d = wrap_dim(dim, x.dim(), "select");
  const std::int64_t size = x.size(d);
  check(x.dim() > 0 && index >= -size && index < size, "select: index ", index, " is out of range for dim ", dim, " of ",
        x.shape());
  return squeeze(narrow(x, d, index < 0 ? index + size : index, 1), d);
}

Tensor squeeze(const Tensor& x, std::optional<std::int64_t> dim) {
  check_defined("squeeze", "x", x);
  const int only = dim ? wrap_dim(*dim, x.dim(), "squeeze") : -1;
  Shape shape;
  for (int d = 0; d < x.dim(); ++d)
    if (x.shape()[d] != 1 || (dim && d != only)) shape.push_back(x.shape()[d]);
  return reshape(x, shape);
}

Tensor unsqueeze(const Tensor& x, std::int64_t dim) {
  check_defined("unsqueeze", "x", x);
  Shape shape = x.shape();
  shape.insert(wrap_dim(dim, x.dim() + 1, "unsqueeze"), 1);
  return reshape(x, shape);
}

Tensors split(const Tensor& x, std::int64_t size, std::int64_t dim) {
  check(size > 0, "split: expected a positive size, got ", size);
  Tensors parts;
  check_defined("split", "x", x);
  const std::int64_t total = x.size(wrap_dim(dim, x.dim(), "split"));
  for (std::int64_t at = 0; at < total; at += size) parts.push_back(narrow(x, dim, at, std::min(size, total - at)));
  return parts;
}

Tensors chunk(const Tensor& x, std::int64_t chunks, std::int64_t dim) {
  check_defined("chunk", "x", x);
  dim = wrap_dim(dim, x.dim(), "chunk");
  check(chunks > 0, "chunk: expected a positive number of chunks, got ", chunks);
  return split(x, std::max<std::int64_t>(1, (x.size(dim) + chunks - 1) / chunks), dim);
}

Tensor Tensor::reshape(Shape to) const { return binade::reshape(*this, to); }
Tensor Tensor::view(Shape to) const {
  const Tensor y = binade::reshape(*this, to);
  check(y.shares_memory_with(*this), "view: ", shape(), " with strides ", strides(), " cannot be seen as ", to,
        " without a copy; use reshape");
  return y;
}
Tensor Tensor::flatten(std::int64_t start, std::int64_t end) const {
  const int first = wrap_dim(start, dim(), "flatten"), last = wrap_dim(end, dim(), "flatten");
  check(first <= last, "flatten: start ", start, " comes after end ", end);
  Shape to;
  std::int64_t merged = 1;
  for (int d = 0; d < dim(); ++d) {
    if (d < first || d > last) {
      to.push_back(shape()[d]);
    } else {
      merged *= shape()[d];
      if (d == last) to.push_back(merged);
    }
  }
  if (dim() == 0) to.push_back(1);
  return binade::reshape(*this, to);
}
Tensor Tensor::transpose(std::int64_t a, std::int64_t b) const { return binade::transpose(*this, a, b); }
Tensor Tensor::permute(const Shape& order) const { return binade::permute(*this, order); }
Tensor Tensor::narrow(std::int64_t d, std::int64_t start, std::int64_t length) const {
  return binade::narrow(*this, d, start, length);
}
Tensor Tensor::slice(std::int64_t d, std::int64_t start, std::int64_t end, std::int64_t step) const {
  return binade::slice(*this, d, start, end, step);
}
Tensor Tensor::select(std::int64_t d, std::int64_t index) const { return binade::select(*this, d, index); }
Tensor Tensor::expand(Shape to) const { return binade::expand(*this, to); }
Tensor Tensor::squeeze(std::optional<std::int64_t> d) const { return binade::squeeze(*this, d); }
Tensor Tensor::unsqueeze(std::int64_t d) const { return binade::unsqueeze(*this, d); }

namespace families {
std::vector<OpPtr> view_ops() {
  return {std::make_shared<const Reshape>(), std::make_shared<const Permute>(), std::make_shared<const Expand>(),
          std::make_shared<const Slice>()};
}
}  // namespace families

}  // namespace binade
