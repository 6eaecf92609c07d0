// gather: y[i][j] = x[index[i][j]][j] (dim 0); scatter_add: y = x, then y[index[i][j]][j] += source[i][j];
// index_select: whole slices of x. 16-bit sums run in f32 and are rounded once.
#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"

namespace binade {
namespace {

DType sum_dtype(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

void check_index(std::string_view op, const Tensor& index) {
  check_defined(op, "index", index);
  check(index.dtype() == DType::i64 || index.dtype() == DType::i32, op, ": index must be i64 or i32, got ",
        index.dtype());
}
// index must have x's rank and fit into x beside `dim`.
int check_fits(std::string_view op, std::int64_t dim, const Tensor& x, std::string_view what_outer,
               const Tensor& index) {
  const int d = wrap_dim(dim, std::max(x.dim(), 1), op);
  check(index.dim() == x.dim(), op, ": index and ", what_outer, " must have equally many dimensions: index is ",
        index.shape(), ", ", what_outer, " is ", x.shape());
  for (int i = 0; i < x.dim(); ++i) {
    check(i == d || index.size(i) <= x.size(i), op, ": index is larger than ", what_outer, " in dim ", i, ": index is ",
          index.shape(), ", ", what_outer, " is ", x.shape());
  }
  return d;
}
// Row-major position of `at` in `shape`, with coordinate d replaced.
std::int64_t position(const Shape& shape, const std::vector<std::int64_t>& at, int d, std::int64_t replaced) {
  std::int64_t p = 0;
  for (int i = 0; i < shape.size(); ++i) p = p * shape[i] + (i == d ? replaced : at[static_cast<std::size_t>(i)]);
  return p;
}
std::vector<std::int64_t> coordinates(const Shape& shape, std::int64_t flat) {
  std::vector<std::int64_t> at(static_cast<std::size_t>(shape.size()));
  for (int i = shape.size() - 1; i >= 0; --i) {
    at[static_cast<std::size_t>(i)] = flat % shape[i];
    flat /= shape[i];
  }
  return at;
}

// A tensor of x's shape and dtype that holds one element: what backward needs of an x whose values it does not.
Tensor outline(const Tensor& x) {
  Strides still = x.shape();
  for (std::int64_t& stride : still) stride = 0;
  return alias(empty({{1}, x.dtype()}, x.device()), x.shape(), still, 0);
}

struct Gather : Op {  // inputs x, index
  std::int64_t dim = 0;

  std::string_view name() const override { return "gather"; }
  Precision precision() const override { return Precision::as_is; }
  Spec infer(Inputs in) const override {
    check_defined(name(), "x", in[0]);
    check_index(name(), in[1]);
    check_fits(name(), dim, in[0], "x", in[1]);
    return {in[1].shape(), in[0].dtype()};
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    Tensor y = empty(infer(in), in[0].device());
    const Tensor index = cast_values(in[1], DType::i64);
    kernel::gather(in[0], index, y, wrap_dim(dim, std::max(in[0].dim(), 1), name()));
    saved.save(index);
    saved.save(outline(in[0]));
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor index = saved[0], x = saved[1];
    const Tensor dx = zeros(x.shape(), {.dtype = sum_dtype(x.dtype()), .device = x.device()});
    kernel::scatter_add(dy, index, dx, wrap_dim(dim, std::max(x.dim(), 1), name()));
    out.put(0, dx);
  }
  Tensor reference(Inputs in) const override {
    const Spec spec = infer(in);
    const int d = wrap_dim(dim, std::max(in[0].dim(), 1), name());
    Tensor y = zeros(spec.shape, {.dtype = DType::f64});
    const std::vector<std::int64_t> index = in[1].to_vector<std::int64_t>();
    for (std::int64_t i = 0; i < y.numel(); ++i) {
      const std::int64_t from = index[static_cast<std::size_t>(i)];
      y.set(i, in[0].at(position(in[0].shape(), coordinates(spec.shape, i), d, from)));
    }
    return y;
  }
};

struct ScatterAdd : Op {  // inputs x, index, source
  std::int64_t dim = 0;

  std::string_view name() const override { return "scatter_add"; }
  Precision precision() const override { return Precision::widest; }
  bool promotes(std::size_t input) const override { return input != 1; }
  Spec infer(Inputs in) const override {
    check_float(name(), "x", in[0]);
    check_index(name(), in[1]);
    check_float(name(), "source", in[2]);
    check_same_dtype(name(), "x", in[0], "source", in[2]);
    check_fits(name(), dim, in[0], "x", in[1]);
    check(in[1].shape() == in[2].shape(), name(), ": index and source must have one shape: index is ", in[1].shape(),
          ", source is ", in[2].shape());
    return in[0].spec();
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Spec spec = infer(in);
    const Tensor index = cast_values(in[1], DType::i64);
    Tensor sum = empty({spec.shape, sum_dtype(spec.dtype)}, in[0].device());
    kernel::copy(in[0], sum);
    kernel::scatter_add(in[2], index, sum, wrap_dim(dim, std::max(in[0].dim(), 1), name()));
    saved.save(index);
    return cast_values(sum, spec.dtype);
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (out.wanted(0)) out.put(0, dy);
    if (!out.wanted(2)) return;
    const Tensor index = saved[0];
    Tensor dsource = empty({index.shape(), dy.dtype()}, dy.device());
    kernel::gather(dy, index, dsource, wrap_dim(dim, std::max(dy.dim(), 1), name()));
    out.put(2, dsource);
  }
  Tensor reference(Inputs in) const override {
    const int d = wrap_dim(dim, std::max(in[0].dim(), 1), name());
    Tensor y = zeros(in[0].shape(), {.dtype = DType::f64});
    for (std::int64_t i = 0; i < y.numel(); ++i) y.set(i, in[0].at(i));
    const std::vector<std::int64_t> index = in[1].to_vector<std::int64_t>();
    for (std::int64_t i = 0; i < in[1].numel(); ++i) {
      const std::int64_t to = position(y.shape(), coordinates(in[1].shape(), i), d, index[static_cast<std::size_t>(i)]);
      y.set(to, y.at(to) + in[2].at(i));
    }
    return y;
  }
};

struct IndexSelect : Op {  // inputs x, index [count]
  std::int64_t dim = 0;

  std::string_view name() const override { return "index_select"; }
  Precision precision() const override { return Precision::as_is; }
  int resolved(const Tensor& x) const { return wrap_dim(dim, x.dim(), name()); }
  Spec infer(Inputs in) const override {
    check_defined(name(), "x", in[0]);
    check_index(name(), in[1]);
    check_dims(name(), "index", in[1], 1);
    check(in[0].dim() >= 1, name(), ": x must have at least one dimension");
    Shape shape = in[0].shape();
    shape[resolved(in[0])] = in[1].size(0);
    return {shape, in[0].dtype()};
  }
  // The index of a slice, seen as one for every element of it: what gather and scatter_add take.
  static TensorView spread(const Tensor& index, const Shape& shape, int d) {
    TensorView v = index;
    const std::int64_t stride = index.strides()[0];
    v.shape = v.strides = shape;
    for (int i = 0; i < shape.size(); ++i) v.strides[i] = i == d ? stride : 0;
    return v;
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    Tensor y = empty(infer(in), in[0].device());
    const Tensor index = cast_values(in[1], DType::i64);
    const int d = resolved(in[0]);
    try {
      kernel::gather(in[0], spread(index, y.shape(), d), y, d);
    } catch (const Error& error) {
      fail({"index_select: ", error.what()});
    }
    saved.save(index);
    saved.save(outline(in[0]));
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor index = saved[0], x = saved[1];
    const int d = resolved(x);
    const Tensor dx = zeros(x.shape(), {.dtype = sum_dtype(x.dtype()), .device = x.device()});
    kernel::scatter_add(dy, spread(index, dy.shape(), d), dx, d);
    out.put(0, dx);
  }
  Tensor reference(Inputs in) const override {
    const Spec spec = infer(in);
    const int d = resolved(in[0]);
    Tensor y = zeros(spec.shape, {.dtype = DType::f64});
    const std::vector<std::int64_t> index = in[1].to_vector<std::int64_t>();
    for (std::int64_t i = 0; i < y.numel(); ++i) {
      const std::vector<std::int64_t> at = coordinates(spec.shape, i);
      const std::int64_t from = index[static_cast<std::size_t>(at[static_cast<std::size_t>(d)])];
      y.set(i, in[0].at(position(in[0].shape(), at, d, from)));
    }
    return y;
  }
};

template <class O>
O along(std::int64_t dim) {
  O op;
  op.dim = dim;
  return op;
}

}  // namespace

Tensor gather(const Tensor& x, std::int64_t dim, const Tensor& index) { return run(along<Gather>(dim), {x, index}); }
Tensor scatter_add(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source) {
  return run(along<ScatterAdd>(dim), {x, index, source});
}
Tensor index_select(const Tensor& x, std::int64_t dim, const Tensor& index) {
  return run(along<IndexSelect>(dim), {x, index});
}

namespace families {
std::vector<OpPtr> index_ops() {
  return {std::make_shared<Gather>(), std::make_shared<ScatterAdd>(), std::make_shared<IndexSelect>()};
}
}  // namespace families

}  // namespace binade
