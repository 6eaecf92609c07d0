// Matrix products: matmul with PyTorch's rules for vectors and batches, and linear with bias and activation.
#include "binade/core/autograd/op.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/ops/linear_parts.h"
#include "binade/ops/op_checks.h"
#include "binade/ops/ops.h"

namespace binade {

namespace {

Shape batch_dims(const Tensor& x) {
  Shape batch;
  for (int d = 0; d + 2 < x.dim(); ++d) batch.push_back(x.shape()[d]);
  return batch;
}
Shape with_matrix(Shape batch, std::int64_t rows, std::int64_t columns) {
  batch.push_back(rows);
  batch.push_back(columns);
  return batch;
}

struct Matmul : Op {
  std::string_view name() const override { return "matmul"; }
  Precision precision() const override { return Precision::low; }

  // Every operand as a matrix with batch dims: a vector on the left is a row, on the right a column. A contiguous
  // batch times one matrix is a single tall matrix.
  struct Sizes {
    Shape batch;
    std::int64_t m, n, k;
    bool collapsed;
  };
  static Sizes sizes_of(const Tensor& a, const Tensor& b) {
    Sizes s{};
    s.k = a.shape().back();
    s.m = a.dim() == 1 ? 1 : a.size(-2);
    s.n = b.dim() == 1 ? 1 : b.size(-1);
    s.batch = broadcast_shapes(batch_dims(a), batch_dims(b), "matmul");
    s.collapsed = a.dim() > 2 && b.dim() <= 2 && a.is_contiguous();
    if (s.collapsed) {
      s.m *= s.batch.numel();
      s.batch = {};
    }
    return s;
  }
  static TensorView operand(const Tensor& x, const Sizes& s, std::int64_t rows, std::int64_t columns, bool left) {
    if (left && s.collapsed) return reshaped(x, {rows, columns}, {columns, 1});
    Shape strides;
    const int own = std::max(0, x.dim() - 2), total = s.batch.size();
    for (int d = 0; d < total; ++d) {
      const int at = d - (total - own);
      strides.push_back(at < 0 || x.shape()[at] == 1 ? 0 : x.strides()[at]);
    }
    const std::int64_t last = x.strides()[x.dim() - 1];
    strides.push_back(x.dim() == 1 ? (left ? 0 : last) : x.strides()[x.dim() - 2]);
    strides.push_back(x.dim() == 1 && !left ? 0 : last);
    return reshaped(x, with_matrix(s.batch, rows, columns), strides);
  }
  static TensorView result(const Tensor& y, const Sizes& s) {
    const Shape shape = with_matrix(s.batch, s.m, s.n);
    return reshaped(y, shape, contiguous_strides(shape));
  }

  Spec infer(Inputs in) const override {
    const Tensor &a = in[0], &b = in[1];
    check_float("matmul", "a", a);
    check_float("matmul", "b", b);
    check_same_dtype("matmul", "a", a, "b", b);
    check(a.dim() >= 1 && b.dim() >= 1, "matmul: a and b need at least 1 dimension, got ", a.shape(), " and ", b.shape());
    check(a.shape().back() == b.size(b.dim() == 1 ? -1 : -2), "matmul: inner sizes differ: a is ", a.shape(), ", b is ",
          b.shape());
    Shape shape = broadcast_shapes(batch_dims(a), batch_dims(b), "matmul");
    if (a.dim() > 1) shape.push_back(a.size(-2));
    if (b.dim() > 1) shape.push_back(b.size(-1));
    return {shape, a.dtype()};
  }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Tensor &a = in[0], &b = in[1];
    const Tensor y = empty(infer(in), a.device());
    const Sizes s = sizes_of(a, b);
    kernel::matmul(operand(a, s, s.m, s.k, true), operand(b, s, s.k, s.n, false), {}, result(y, s), {});
    saved.save(a);
    saved.save(b);
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor a = saved[0], b = saved[1];
    const Sizes s = sizes_of(a, b);
    const Tensor dy_values = contiguous_values(dy);
    const TensorView view_dy = result(dy_values, s);
    if (out.wanted(0))
      deliver(out, 0, s, a, s.m, s.k, view_dy, transposed(operand(b, s, s.k, s.n, false)));
    if (out.wanted(1))
      deliver(out, 1, s, b, s.k, s.n, transposed(operand(a, s, s.m, s.k, true)), view_dy);
  }
  // gradient of x [.., rows, columns] = left right, summed over the batch dims x was broadcast along
  static void deliver(Gradients& out, std::size_t input, const Sizes& s, const Tensor& x, std::int64_t rows,
                      std::int64_t columns, const TensorView& left, const TensorView& right) {
    Shape own;  // x's batch dims, padded with 1 on the left
    const int missing = s.batch.size() - std::max(0, x.dim() - 2);
    for (int d = 0; d < s.batch.size(); ++d) own.push_back(d < missing ? 1 : x.shape()[d - missing]);
    const auto [target, accumulate] = out.target(input);
    const Shape target_shape = with_matrix(own, rows, columns);
    const TensorView view = reshaped(target, target_shape, contiguous_strides(target_shape));
    if (own == s.batch) {
      kernel::matmul(left, right, {}, view, {.accumulate = accumulate});
      return;
    }
    const DType sums = x.dtype() == DType::f64 ? DType::f64 : DType::f32;  // rounded once, after the sum
    const Tensor whole = empty(Spec{with_matrix(s.batch, rows, columns), sums}, x.device());
    kernel::matmul(left, right, {}, whole, {});
    kernel::sum(whole, view, 1, accumulate);
  }

  Tensor reference(Inputs in) const override {
    const Tensor a = contiguous_values(in[0]), b = contiguous_values(in[1]);
    const Tensor y = empty(infer(in), a.device());
    const Shape batch = broadcast_shapes(batch_dims(a), batch_dims(b), "matmul");
    const std::int64_t k = a.shape().back(), m = a.dim() == 1 ? 1 : a.size(-2), n = b.dim() == 1 ? 1 : b.size(-1);
    const auto xa = a.data<double>(), xb = b.data<double>(), xy = y.data<double>();
    const auto matrix_index = [&](const Tensor& x, std::int64_t item) {  // which matrix of x batch element `item` uses
      std::int64_t index = 0, step = 1;
      const int own = std::max(0, x.dim() - 2);
      for (int d = batch.size() - 1; d >= 0; --d) {
        const int at = d - (batch.size() - own);
        const std::int64_t position = item % batch[d];
        item /= batch[d];
        if (at < 0) continue;
        if (x.shape()[at] != 1) index += position * step;
        step *= x.shape()[at];
      }
      return index;
    };
    for (std::int64_t item = 0; item < (m * n == 0 ? 0 : batch.numel()); ++item) {
      const std::int64_t start_a = matrix_index(a, item) * m * k, start_b = matrix_index(b, item) * k * n;
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < n; ++j) {
          double sum = 0;
          for (std::int64_t l = 0; l < k; ++l)
            sum += xa[static_cast<std::size_t>(start_a + i * k + l)] * xb[static_cast<std::size_t>(start_b + l * n + j)];
          xy[static_cast<std::size_t>((item * m + i) * n + j)] = sum;
        }
    }
    return y;
  }
};

struct Linear : Op {
  Activation activation = Activation::none;
  Linear() = default;
  explicit Linear(Activation chosen) : activation(chosen) {}

  std::string_view name() const override { return "linear"; }
  Precision precision() const override { return Precision::low; }

  Spec infer(Inputs in) const override { return infer_linear(name(), in[0], in[1], in[2]); }
  Tensor forward(Inputs in, Saved& saved) const override {
    const Tensor x = contiguous_values(in[0]);
    const Tensor& weight = in[1];
    const Tensor pre = empty(infer(in), x.device());
    const Tensor y = activation == Activation::none ? pre : empty_like(pre);
    const bool gelu = activation == Activation::gelu_tanh;
    kernel::MatmulEpilogue epilogue;
    if (gelu) epilogue.gelu = matrix_rows(y, weight.size(0));
    kernel::matmul(matrix_rows(x, weight.size(1)), transposed(weight), in[2], matrix_rows(pre, weight.size(0)),
                   {.epilogue = &epilogue});
    if (!gelu || epilogue.gelu) activate(activation, pre, y);
    saved.save(x);
    saved.save(weight);
    if (activation != Activation::none) saved.save(pre);
    return y;
  }
  void backward(const Saved& saved, const Tensor& dy, Gradients& out) const override {
    const Tensor x = saved[0], weight = saved[1];
    const Tensor dpre = activated_backward(activation, saved, 2, contiguous_values(dy));
    const TensorView rows_x = matrix_rows(x, weight.size(1)), rows_dpre = matrix_rows(dpre, weight.size(0));
    if (out.wanted(0)) {
      const auto [dx, accumulate] = out.target(0);
      kernel::matmul(rows_dpre, weight, {}, matrix_rows(dx, weight.size(1)), {.accumulate = accumulate});
    }
    const Gradients::Target dweight = out.wanted(1) ? out.target(1) : Gradients::Target{};
    const Tensor dbias = out.wanted(2) ? out.late_target(2) : Tensor();
    kernel::MatmulEpilogue epilogue{.row_sums = dbias, .gelu = {}};  // overwrites
    if (dweight.tensor) {
      kernel::matmul(transposed(rows_dpre), rows_x, {}, dweight.tensor,
                     {.accumulate = dweight.accumulate, .epilogue = &epilogue});
    }
    if (epilogue.row_sums) sum_linear_bias({dbias, false}, rows_dpre);
  }
  Tensor reference(Inputs in) const override {
    const Tensor x = contiguous_values(in[0]), weight = contiguous_values(in[1]);
    const Tensor y = empty(infer(in), x.device());
    const auto n_in = static_cast<std::size_t>(weight.size(1)), n_out = static_cast<std::size_t>(weight.size(0));
    const auto xs = x.data<double>(), ws = weight.data<double>(), ys = y.data<double>();
    for (std::size_t o = 0; o < ys.size(); ++o) {
      const std::size_t row = o / n_out, column = o % n_out;
      double sum = in[2] ? in[2].at(static_cast<std::int64_t>(column)) : 0.0;
      for (std::size_t l = 0; l < n_in; ++l) sum += xs[row * n_in + l] * ws[column * n_in + l];
      ys[o] = reference_activation(activation, sum);
    }
    return y;
  }
};

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) { return run(Matmul(), {a, b}); }
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation) {
  return run(Linear(activation), {x, weight, bias});
}

namespace families {
std::vector<OpPtr> matmul_ops() { return {std::make_shared<Matmul>(), std::make_shared<Linear>()}; }
}  // namespace families

}  // namespace binade
