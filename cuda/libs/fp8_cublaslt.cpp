// kernel::matmul_fp8. cuBLASLt multiplies FP8 with per-tensor scales where its rules allow; everything else is emulated
// as on the CPU, exactly: FP8 values are exact in bf16, values times block scales are f32, products are summed in f32
// (f64 for an f64 result), and the sum is finished by a kernel of ours.
#include <optional>
#include <utility>

#include "binade/core/backend/fp8_kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/cuda/kernels/fp8.h"
#include "binade/cuda/libs/gemm_cublaslt.h"
#include "binade/cuda/runtime/context.h"

namespace binade::cuda {

namespace {

constexpr std::int64_t unit = 16;     // sizes, leading dimensions and addresses are multiples of it
constexpr int fp8_capability = 89;

struct Buffer {  // a matrix in another dtype or order
  Buffer(const Shape& shape, DType dtype, Device device)
      : memory(static_cast<std::size_t>(shape.numel() * size_of(dtype)), device),
        view{memory.as<std::byte>(), shape, contiguous_strides(shape), dtype, device} {}
  Scratch memory;
  TensorView view;
};

// Whether cuBLASLt can compute c = a b itself; operands that lie otherwise are copied.
bool is_native(const TensorView& a, const TensorView& b, const TensorView& c) {
  const bool sizes = c.size(0) % unit == 0 && c.size(1) % unit == 0 && a.size(1) % unit == 0;
  const bool formats = a.dtype == DType::f8e4m3 || b.dtype == DType::f8e4m3;
  return sizes && formats && c.dtype != DType::f64 && capability_of(c.device) >= fp8_capability;
}

// An operand [rows, k] as cuBLASLt takes it: k contiguous.
class Native {
 public:
  explicit Native(const TensorView& x) : view_(x) {
    const bool fits = x.stride(1) == 1 && x.stride(0) >= x.size(1) && x.stride(0) % unit == 0 &&
                      reinterpret_cast<std::uintptr_t>(x.data) % unit == 0;
    if (fits) return;
    copy_.emplace(x.shape, x.dtype, x.device);
    TensorView codes = x, target = copy_->view;  // moved as bytes
    codes.dtype = target.dtype = DType::u8;
    kernel::copy(codes, target);
    view_ = copy_->view;
  }
  GemmOperand operand(bool is_transposed) const { return {view_.data, view_.dtype, is_transposed, view_.stride(0), 0}; }

 private:
  TensorView view_;
  std::optional<Buffer> copy_;
};

void multiply_natively(const TensorView& a, const TensorView& b, const TensorView& scale_a, const TensorView& scale_b,
                       const TensorView& bias, const TensorView& c, bool accumulate) {
  const Native left(a), right(transposed(b));
  const bool in_epilogue = bias && !accumulate && bias.dtype == c.dtype && c.dtype != DType::f32 && bias.stride(0) == 1 &&
                           reinterpret_cast<std::uintptr_t>(bias.data) % unit == 0;
  const bool aligned = reinterpret_cast<std::uintptr_t>(c.data) % unit == 0;
  const bool direct = aligned && (!bias || in_epilogue);
  std::optional<Buffer> sums;
  if (!direct) sums.emplace(c.shape, DType::f32, c.device);
  const TensorView& result = direct ? c : sums->view;
  run_gemm({.m = c.size(0),
            .n = c.size(1),
            .k = a.size(1),
            .a = left.operand(false),
            .b = right.operand(true),
            .c = {result.data, result.dtype, false, c.size(1), 0},
            .bias = direct ? bias.data : nullptr,
            .accumulate = accumulate && direct,
            .scale_a = scale_a.as<const float>(),
            .scale_b = scale_b.as<const float>()},
           c.device);
  if (!direct) finish_fp8_product(result, {}, {}, bias, c, accumulate);
}

// An operand [rows, k] widened, in the order it lies in.
class Widened {
 public:
  Widened(const TensorView& x, const TensorView& scales, DType dtype)
      : turned_(x.stride(1) != 1 && x.size(1) > 1), buffer_(turned_ ? transposed(x).shape : x.shape, dtype, x.device) {
    check(!turned_ || x.stride(0) == 1 || x.size(0) <= 1, "matmul_fp8: an operand must have contiguous rows or columns");
    check(!turned_ || !scales, "matmul_fp8: operands with block scales must be contiguous along k");
    dequantize_fp8(turned_ ? transposed(x) : x, scales, buffer_.view);
  }
  TensorView view() const { return turned_ ? transposed(buffer_.view) : buffer_.view; }

 private:
  bool turned_;
  Buffer buffer_;
};

void emulate(const TensorView& a, const TensorView& b, const TensorView& scale_a, const TensorView& scale_b,
             const TensorView& bias, const TensorView& c, bool accumulate) {
  const bool blocks = scale_a.dtype == DType::u8;
  const DType sum_dtype = c.dtype == DType::f64 ? DType::f64 : DType::f32;
  const DType dtype = c.dtype == DType::f64 ? DType::f64 : blocks ? DType::f32 : DType::bf16;
  const Widened left(a, blocks ? scale_a : TensorView{}, dtype);
  const Widened right(transposed(b), blocks ? transposed(scale_b) : TensorView{}, dtype);
  const Buffer sums(c.shape, sum_dtype, c.device);
  kernel::matmul(left.view(), transposed(right.view()), {}, sums.view,
                 {.accumulate = false, .precision = MatmulPrecision::highest});
  finish_fp8_product(sums.view, blocks ? TensorView{} : scale_a, blocks ? TensorView{} : scale_b, bias, c, accumulate);
}

void matmul_fp8(TensorView a, TensorView b, TensorView scale_a, TensorView scale_b, TensorView bias, TensorView c,
                kernel::Fp8MatmulOptions options) {
  check((scale_a.dtype == DType::u8) == (scale_b.dtype == DType::u8),
        "matmul_fp8: scales must be both per tensor or both of blocks");
  if (c.numel() == 0) return;
  if (scale_a.dtype != DType::u8 && a.size(1) > 0 && is_native(a, b, c))
    return multiply_natively(a, b, scale_a, scale_b, bias, c, options.accumulate);
  emulate(a, b, scale_a, scale_b, bias, c, options.accumulate);
}

}  // namespace

void provide_fp8_cublaslt();
void provide_fp8_cublaslt() { kernel::matmul_fp8.provide(DeviceType::cuda, matmul_fp8); }

}  // namespace binade::cuda
