// residual + dropout(branch) and the norm of that sum in one pass. A row belongs to one block, which writes the sum and
// keeps it in shared memory for the norm. Every value, and the order of every sum, is that of the kernels one by one.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <cmath>

#include "binade/core/backend/kernels.h"
#include "binade/cuda/kernels/draw.h"
#include "binade/cuda/kernels/norm.h"

namespace binade::cuda {
namespace {

// Dropout of single elements, each with the bits dropout's kernel stores.
struct Dropping {
  Draw draw;
  unsigned threshold = 0;  // an element is kept where its word's upper 24 bits are at least this; 0: all are, no draw
  double scale = 1;
  float narrow_scale = 1;
};
class Dropper {
 public:
  __device__ __forceinline__ Dropper(const Dropping& how, DType dtype) : how_(how), dtype_(dtype) {
    if (how.threshold > 0) state_ = how.draw.state();
  }
  // x is element i of the tensor.
  template <class C>
  __device__ __forceinline__ C operator()(std::uint64_t i, C x) {
    if (how_.threshold == 0) return x;
    if (i / 4 != block_) {  // mostly four elements in a row
      block_ = i / 4;
      words_ = philox(state_, block_);
    }
    const bool odd = i % 2 != 0;
    const std::uint32_t low = odd ? words_.x[1] : words_.x[0], high = odd ? words_.x[3] : words_.x[2];
    if ((i % 4 < 2 ? low : high) >> 8 < how_.threshold) return C(0);
    if (dtype_ == DType::f64) return static_cast<C>(static_cast<double>(x) * how_.scale);
    const float y = static_cast<float>(x) * how_.narrow_scale;
    if (dtype_ == DType::f16) return static_cast<C>(__half2float(__float2half_rn(y)));
    return static_cast<C>(dtype_ == DType::bf16 ? __bfloat162float(__float2bfloat16_rn(y)) : y);
  }

 private:
  const Dropping& how_;
  DType dtype_;
  PhiloxState state_;
  std::uint64_t block_ = ~std::uint64_t{0};
  Philox4 words_{};
};

// rows: in residual and branch, out the sum, whose row is kept in shared memory for the norm unless it is too long.
template <class C>
__global__ void add_norm_kernel(Rows<2, 1> rows, Rows<1, 1> of_norm, Norm<C> norm, Dropping dropping, bool keep) {
  SHARED(double, shared, max_warps);
  DYN_SHARED(std::byte, memory);
  const Rows<2, 1> row = rows.of_block();
  const Span sum = row.out.of[0], kept{keep ? memory : nullptr, sum.dtype};
  const Rows<2, 2> both{{row.in.of[0], row.in.of[1]}, {sum, kept}, rows.rows, rows.n, rows.lead, rows.vectors};
  const auto first = static_cast<std::uint64_t>(blockIdx.x) * static_cast<std::uint64_t>(rows.n);
  Dropper dropped(dropping, row.in.of[1].dtype);
  both.for_each<C>([&](std::int64_t j, const C* x, C* y) {
    y[0] = y[1] = x[0] + dropped(first + static_cast<std::uint64_t>(j), x[1]);
  });
  __syncthreads();
  Rows<1, 1> last = of_norm.of_block();
  if (keep) last.in.of[0] = kept;
  norm.of_row(last, shared);
}

Dropping dropping_of(const kernel::AddNormOptions& options, Device device) {
  Dropping how;
  if (options.dropout == 0) return how;
  how.draw = draw_of(options.state, device);
  how.threshold = static_cast<unsigned>(std::ceil(options.dropout * 0x1p24));  // exact, as the numbers drawn are
  how.scale = options.dropout < 1 ? 1 / (1 - options.dropout) : 0;
  how.narrow_scale = static_cast<float>(how.scale);
  return how;
}

void add_norm(TensorView residual, TensorView branch, TensorView weight, TensorView bias, TensorView sum, TensorView y,
              TensorView mean, TensorView rstd, kernel::AddNormOptions options) {
  if (sum.numel() == 0) return;
  with_row_type(sum.dtype, "add_norm", [&]<class C>() {
    const Norm<C> norm{span_of(weight), span_of(bias), mean.as<C>(),
                       rstd.as<C>(),    options.eps,   static_cast<bool>(mean)};
    const auto rows = make_rows<C, 2, 1>(sum, {residual, branch}, {sum});
    const auto of_norm = rows_of_norm(sum, y, norm);
    LaunchConfig config = of_norm.config(sum.device);
    const auto row_bytes = static_cast<std::size_t>(sum.size(1) * size_of(sum.dtype));
    const bool keep = row_bytes <= most_shared;
    if (keep) config.shared_bytes = row_bytes;
    launch(config, add_norm_kernel<C>, rows, of_norm, norm, dropping_of(options, sum.device), keep);
  });
}

}  // namespace

void provide_add_norm();
void provide_add_norm() { kernel::add_norm.provide(DeviceType::cuda, add_norm); }

}  // namespace binade::cuda
