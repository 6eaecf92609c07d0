// kernel::matmul: views of any strides become products cuBLASLt can do. What cannot be used as it lies (strides,
// 16-byte alignment, FP8) is copied first; FP8 values are exact in bf16. Epilogues add a bias, and write row sums (bias
// gradients) or GELU where the library's rules allow.
#include <optional>
#include <utility>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/backend/trace.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/cuda/libs/gemm_cublaslt.h"

namespace binade::cuda {

namespace {

bool aligned(const std::byte* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; }

// The matrix of the last two dims as one operand; false where neither rows nor columns are contiguous.
bool describe(const TensorView& x, GemmOperand& operand) {
  const std::int64_t rows = x.size(-2), columns = x.size(-1), row = x.stride(-2), column = x.stride(-1);
  operand = {x.data, x.dtype, false, 1, 0};
  if ((column == 1 || columns == 1) && (row >= columns || rows == 1)) {
    operand.lead = rows == 1 ? columns : row;
    return true;
  }
  operand.transposed = true;
  operand.lead = columns == 1 ? rows : column;
  return (row == 1 || rows == 1) && (column >= rows || columns == 1);
}

// The batch dims as one: their common stride, or nothing where they do not run on.
std::optional<std::int64_t> batch_stride(const TensorView& x) {
  std::int64_t stride = 0, count = 1;
  for (int d = x.dim() - 3; d >= 0; --d) {
    if (x.size(d) == 1) continue;
    if (count == 1) {
      stride = x.stride(d);
    } else if (x.stride(d) != stride * count) {
      return {};
    }
    count *= x.size(d);
  }
  return stride;
}

// An operand as products can use it: itself, or a contiguous copy that lives as long as this.
class Prepared {
 public:
  Prepared(const TensorView& x, DType dtype) : view_(x) {
    GemmOperand unused;
    const bool one_stride = batch_stride(x).has_value();
    if (x.dtype == dtype && aligned(x.data) && one_stride && describe(x, unused)) return;
    // A matrix that every product of the batch shares is copied once; stride 0 stays stride 0.
    const bool shared = one_stride && *batch_stride(x) == 0;
    TensorView source = x;
    for (int d = 0; d < x.dim() - 2 && shared; ++d) source.shape[d] = 1;
    view_ = source;
    view_.dtype = dtype;
    view_.strides = contiguous_strides(source.shape);
    memory_.emplace(static_cast<std::size_t>(source.numel() * size_of(dtype)), x.device);
    view_.data = memory_->as<std::byte>();
    kernel::copy(source, view_);
    for (int d = 0; d < x.dim() - 2 && shared; ++d) view_.strides[d] = 0;
    view_.shape = x.shape;
  }
  const TensorView& view() const { return view_; }

 private:
  TensorView view_;
  std::optional<Scratch> memory_;
};

// c (+)= a b + bias: a, b prepared; c usable_result(); bias: c's dtype, or absent.
Gemm described(const TensorView& a, const TensorView& b, const TensorView& bias, const TensorView& c, bool accumulate,
               bool tf32) {
  const std::int64_t m = c.size(-2), n = c.size(-1);
  Gemm gemm{.m = m,
            .n = n,
            .k = a.size(-1),
            .batch = c.numel() / (m * n),
            .a = {},
            .b = {},
            .c = {},
            .bias = bias.data,
            .accumulate = accumulate,
            .tf32 = tf32};
  for (const auto& [view, operand] : {std::pair{&a, &gemm.a}, {&b, &gemm.b}, {&c, &gemm.c}}) {
    describe(*view, *operand);
    operand->batch_stride = *batch_stride(*view);
  }
  return gemm;
}

// Why the product cannot write this in its epilogue, or null.
const char* obstacle(const Gemm& g, const TensorView& extra) {
  if (g.a.dtype == DType::f64) return "f64";
  if (extra.dtype != g.c.dtype) return "not of the product's dtype";
  if (!extra.is_contiguous() || !aligned(extra.data)) return "not aligned to 16 bytes";
  return g.batch == 1 ? nullptr : "a batch of products";
}
const char* row_sums_obstacle(const Gemm& g, const TensorView& sums) {
  if (const char* reason = obstacle(g, sums)) return reason;
  if (g.bias) return "a bias is added";
  if (g.k == 1) return "a sum of one element";  // not in every release of the library
  return g.a.transposed ? nullptr : "the operand does not lie transposed";
}
const char* gelu_obstacle(const Gemm& g, const TensorView& y) {
  if (const char* reason = obstacle(g, y)) return reason;
  if (size_of(y.dtype) > 2 && !g.tf32) return "f32, for which the library promises no accuracy";
  if (g.accumulate) return "the product is accumulated";
  return g.n % 8 == 0 && g.c.lead == g.n ? nullptr : "rows are not multiples of 8 elements";
}

// The product and, in its epilogue, what is wanted beside it; false, with nothing computed, where that cannot be.
// obstructed: why not, if the caller knows already.
bool run_with_epilogue(Gemm g, kernel::MatmulEpilogue& wanted, const char* obstructed, Device device) {
  const bool sums = static_cast<bool>(wanted.row_sums);
  TensorView& extra = sums ? wanted.row_sums : wanted.gelu;
  if (!extra) return false;
  const char* reason = obstructed ? obstructed : sums ? row_sums_obstacle(g, extra) : gelu_obstacle(g, extra);
  if (!reason) {
    (sums ? g.row_sums : g.pre) = sums ? extra.data : g.c.data;
    if (!sums) g.c.data = extra.data;
    if (!run_gemm(g, device)) reason = "cuBLASLt has no algorithm";
  }
  if (traces("dispatch")) {
    trace("dispatch", {"matmul on ", to_text(device), sums ? ": row sums: " : ": gelu: ",
                       reason ? "own kernel: " : "cuBLASLt's epilogue", reason ? reason : ""});
  }
  if (!reason) extra = {};
  return !reason;
}

bool usable_result(const TensorView& c, DType product) {
  GemmOperand operand;
  const bool dtype_fits = c.dtype == product || (c.dtype == DType::f32 && size_of(product) == 2);
  if (!dtype_fits || !aligned(c.data) || !describe(c, operand) || operand.transposed) return false;
  return batch_stride(c).has_value();
}

void matmul(TensorView a, TensorView b, TensorView bias, TensorView c, kernel::MatmulOptions options) {
  if (c.numel() == 0) return;
  check(is_floating(a.dtype) && a.dtype == b.dtype, "matmul: a and b must have one floating dtype, got ", a.dtype,
        " and ", b.dtype);
  if (a.size(-1) == 0) {  // a sum of nothing
    if (!options.accumulate) kernel::fill(c, 0);
    if (bias) kernel::add_into(detail::broadcast_view(bias, c.shape), c, 1);
    return;
  }
  const DType product = size_of(a.dtype) == 1 ? DType::bf16 : a.dtype;
  TensorView result = c;
  std::optional<Scratch> memory;
  // 16 bits take a bias only in the epilogue, and of their own dtype: otherwise it would be rounded before it is added.
  const bool bias_fits = !bias || size_of(c.dtype) > 2 || (bias.dtype == c.dtype && !options.accumulate);
  const bool direct = usable_result(c, product) && bias_fits;
  if (!direct) {  // summed elsewhere, in f32 (f64), and rounded once
    result.dtype = product == DType::f64 ? DType::f64 : DType::f32;
    result.strides = contiguous_strides(c.shape);
    memory.emplace(static_cast<std::size_t>(c.numel() * size_of(result.dtype)), c.device);
    result.data = memory->as<std::byte>();
  }
  bool accumulate = options.accumulate && direct;
  // The library adds a bias only to an overwritten result, and not in f64; there the result starts from it.
  std::optional<Prepared> vector;
  TensorView given;
  if (bias && product != DType::f64 && !accumulate) {
    TensorView row = bias;
    row.shape = {1, bias.size(-1)};
    row.strides = {bias.size(-1), bias.stride(-1)};
    vector.emplace(row, result.dtype);
    given = vector->view();
  } else if (bias) {
    const TensorView spread = detail::broadcast_view(bias, result.shape);
    accumulate ? kernel::add_into(spread, result, 1) : kernel::copy(spread, result);
    accumulate = true;
  }
  const Prepared left(a, product), right(b, product);
  const bool tf32 = product == DType::f32 && options.precision == MatmulPrecision::high;
  const Gemm gemm = described(left.view(), right.view(), given, result, accumulate, tf32);
  const char* obstructed = direct ? nullptr : "the result is not one that cuBLASLt writes";
  if (!options.epilogue || !run_with_epilogue(gemm, *options.epilogue, obstructed, c.device)) run_gemm(gemm, c.device);
  if (direct) return;
  options.accumulate ? kernel::add_into(result, c, 1) : kernel::copy(result, c);
}

}  // namespace

void provide_matmul_cublaslt();
void provide_matmul_cublaslt() { kernel::matmul.provide(DeviceType::cuda, matmul); }

}  // namespace binade::cuda
