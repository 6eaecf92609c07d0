// softmax(x)_i = exp(x_i) / sum_j exp(x_j) over one dim, and log_softmax.
#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"
#include "binade/ops/view_as.h"

namespace binade {
namespace {

// The view with dim d exchanged with the last one.
TensorView exchange_last(TensorView x, int d) {
  if (x.dim() == 0) return x;
  std::swap(x.shape[d], x.shape.back());
  std::swap(x.strides[d], x.strides.back());
  return x;
}

struct Softmax : Op {
  explicit Softmax(bool log_of_it, std::int64_t over = -1) : log(log_of_it), dim(over) {}
  bool log;
  std::int64_t dim;

  std::string_view name() const override { return log ? "log_softmax" : "softmax"; }
  Precision precision() const override { return Precision::full; }
  Spec infer(Inputs in) const override {
    check_float(name(), "x", in[0]);
    resolved(in[0]);
    return in[0].spec();
  }
  int resolved(const Tensor& x) const { return wrap_dim(dim, std::max(x.dim(), 1), name()); }

  // A contiguous copy of x whose rows run along `d`.
  static Tensor rows_along(const Tensor& x, int d) {
    if (d >= x.dim() - 1) return contiguous_values(x);
    const TensorView exchanged = exchange_last(x, d);
    Tensor y = empty({exchanged.shape, x.dtype()}, x.device());
    kernel::copy(exchanged, y);
    return y;
  }
  static Tensor back_from_rows(const Tensor& y, int d) {
    return rows_along(y, d);  // exchanging two dims twice restores them
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Tensor& x = in[0];
    infer(in);
    const int d = resolved(x);
    const Tensor rows = rows_along(x, d);
    Tensor y = empty(rows.spec(), x.device());
    const std::int64_t n = x.dim() == 0 ? 1 : x.size(d);
    kernel::softmax(as_rows(rows, n), as_rows(y, n), log);
    saved.save(y);
    return back_from_rows(y, d);
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    if (!out.wanted(0)) return;
    const Tensor y = saved[0];
    const int d = resolved(y);
    const Tensor grad = rows_along(dy, d);
    Tensor dx = empty(y.spec(), y.device());
    const std::int64_t n = y.dim() == 0 ? 1 : y.size(-1);
    kernel::softmax_backward(as_rows(y, n), as_rows(grad, n), as_rows(dx, n), log);
    out.put(0, back_from_rows(dx, d));
  }
  Tensor reference(Inputs in) const override {
    const Tensor& x = in[0];
    const int d = resolved(x);
    Tensor y = zeros(x.shape(), {.dtype = DType::f64});
    const auto from = x.data<double>();
    const auto to = y.data<double>();
    const std::size_t n = x.dim() == 0 ? 1 : static_cast<std::size_t>(x.size(d));
    std::size_t inner = 1;
    for (int i = d + 1; i < x.dim(); ++i) inner *= static_cast<std::size_t>(x.size(i));
    for (std::size_t start = 0; start < from.size(); ++start) {
      if (start / inner % n != 0) continue;  // the first element of each line
      double largest = from[start];
      for (std::size_t i = 1; i < n; ++i) largest = std::max(largest, from[start + i * inner]);
      double sum = 0;
      for (std::size_t i = 0; i < n; ++i) sum += std::exp(from[start + i * inner] - largest);
      for (std::size_t i = 0; i < n; ++i) {
        const double shifted = from[start + i * inner] - largest;
        to[start + i * inner] = log ? shifted - std::log(sum) : std::exp(shifted) / sum;
      }
    }
    return y;
  }
};

}  // namespace

Tensor softmax(const Tensor& x, std::int64_t dim) { return run(Softmax(false, dim), {x}); }
Tensor log_softmax(const Tensor& x, std::int64_t dim) { return run(Softmax(true, dim), {x}); }

namespace families {
std::vector<OpPtr> softmax_ops() { return {std::make_shared<Softmax>(false), std::make_shared<Softmax>(true)}; }
}  // namespace families

}  // namespace binade
