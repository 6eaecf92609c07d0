// kernel::matmul: batches and tiles of one product, shared out over threads. The tiles depend on the shape alone, so
// the bits do not depend on the number of threads.
#include <algorithm>
#include <optional>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/base/scalar.h"
#include "binade/ops/cpu/convert.h"
#include "binade/ops/cpu/matmul_block.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {

namespace {

struct Tiling {
  std::int64_t m, n, k;  // sizes of a tile
};

std::int64_t even_part(std::int64_t size, std::int64_t part, std::int64_t multiple) {
  const std::int64_t parts = std::max<std::int64_t>(1, (size + part / 2) / part);
  const std::int64_t rounded = (size + parts - 1) / parts;
  return std::max<std::int64_t>(1, (rounded + multiple - 1) / multiple * multiple);
}

// Tiles large enough that reading the operands costs little, small enough to occupy several threads. A small result
// with a long sum (a weight gradient) is cut along k instead.
Tiling choose_tiling(std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k) {
  constexpr std::int64_t enough = 8, smallest = 64, enough_work = std::int64_t{1} << 18;
  std::int64_t tile_m = 256, tile_n = 256;
  const auto count = [&] {
    return batch * chunk_count(m, even_part(m, tile_m, 16)) * chunk_count(n, even_part(n, tile_n, 16));
  };
  while (count() < enough && batch * m * n * k > enough_work && std::max(std::min(tile_m, m), std::min(tile_n, n)) > smallest)
    (std::min(tile_m, m) > std::min(tile_n, n) ? tile_m : tile_n) /= 2;
  std::int64_t tile_k = std::max<std::int64_t>(k, 1);
  if (count() < enough && k >= 2048) {
    const std::int64_t pieces = std::min(chunk_count(enough, count()), k / 1024);
    tile_k = even_part(k, chunk_count(k, pieces), 16);
  }
  return {even_part(m, tile_m, 16), even_part(n, tile_n, 16), tile_k};
}

std::int64_t batch_offset(const TensorView& x, std::int64_t index) {
  std::int64_t offset = 0;
  for (int d = x.dim() - 3; d >= 0; --d) {
    offset += index % x.size(d) * x.stride(d);
    index /= x.size(d);
  }
  return offset;
}

MatrixBlock block_at(const TensorView& x, std::int64_t offset) {
  return {x.data + offset * size_of(x.dtype), x.dtype, x.stride(-2), x.stride(-1)};
}

// An operand in the dtype products are computed from, with rows or columns contiguous: itself, or a copy. f32 values
// are rounded to TF32 where the precision says so.
class Operand {
 public:
  Operand(const TensorView& x, DType dtype, MatmulPrecision precision) : view_(x) {
    const bool tf32 = x.dtype == DType::f32 && precision == MatmulPrecision::high;
    if (!tf32 && x.dtype == dtype && is_plain(x.size(-2), x.size(-1), x.stride(-2), x.stride(-1))) return;
    TensorView source = x;  // each batch element once: stride 0 stays stride 0
    for (int d = 0; d < x.dim() - 2; ++d)
      if (x.stride(d) == 0) source.shape[d] = 1;
    const int row = x.dim() - 2, column = x.dim() - 1;
    const bool transposed = x.stride(row) == 1 && x.stride(column) != 1;  // copy in the order it lies in
    if (transposed) exchange(source, row, column);
    TensorView copied = source;
    copied.dtype = dtype;
    copied.strides = contiguous_strides(source.shape);
    memory_.emplace(static_cast<std::size_t>(copied.numel() * size_of(dtype)), Device{});
    copied.data = memory_->as<std::byte>();
    kernel::copy(source, copied);
    if (tf32)
      parallel_for(copied.numel(), elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
        round_to_tf32(copied.as<float>() + begin, copied.as<float>() + begin, end - begin);
      });
    if (transposed) exchange(copied, row, column);
    for (int d = 0; d < x.dim() - 2; ++d)
      if (x.stride(d) == 0) copied.strides[d] = 0;
    copied.shape = x.shape;
    view_ = copied;
  }
  const TensorView& view() const { return view_; }

 private:
  static void exchange(TensorView& x, int a, int b) {
    std::swap(x.shape[a], x.shape[b]);
    std::swap(x.strides[a], x.strides[b]);
  }
  TensorView view_;
  std::optional<Scratch> memory_;
};

// c (+)= sums + bias, rounded once. sums [rows, columns] contiguous, changed on the way.
template <class S>
void store_tile(S* sums, std::int64_t rows, std::int64_t columns, const S* bias, const TensorView& c,
                std::int64_t offset, bool accumulate) {
  TensorView target;
  target.data = c.data + offset * size_of(c.dtype);
  target.shape = {rows, columns};
  target.strides = {c.stride(-2), c.stride(-1)};
  target.dtype = c.dtype;
  TensorView tile = target;
  tile.data = reinterpret_cast<std::byte*>(sums);
  tile.strides = {columns, 1};
  tile.dtype = dtype_of<S>;
  if (bias)
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < columns; ++j) sums[i * columns + j] += bias[j];
  if (accumulate)
    with_float_type(c.dtype, "matmul", [&]<class T> {
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < columns; ++j)
          sums[i * columns + j] += convert<S>(target.as<T>()[i * target.strides[0] + j * target.strides[1]]);
    });
  kernel::copy(tile, target);
}

template <class S>  // S: what is summed in
void multiply(const TensorView& a, const TensorView& b, const S* bias, const TensorView& c, bool accumulate) {
  const std::int64_t m = c.size(-2), n = c.size(-1), k = a.size(-1);
  if (c.numel() == 0) return;
  const std::int64_t batch = c.numel() / (m * n);
  const Tiling tile = choose_tiling(batch, m, n, k);
  const std::int64_t tiles_m = chunk_count(m, tile.m), tiles_n = chunk_count(n, tile.n);
  const std::int64_t pieces = std::max<std::int64_t>(1, chunk_count(k, tile.k));
  const bool rows_plain = (c.stride(-1) == 1 || n == 1) && (c.stride(-2) >= n || m == 1);
  const bool direct = pieces == 1 && rows_plain && (c.dtype == dtype_of<S> || c.dtype == a.dtype);
  std::optional<Scratch> partial;  // [pieces, batch, m, n] when k is cut
  if (pieces > 1) partial.emplace(static_cast<std::size_t>(pieces * batch * m * n) * sizeof(S), Device{});
  parallel_for(batch * tiles_m * tiles_n * pieces, 1, [&](std::int64_t task, std::int64_t) {
    const std::int64_t piece = task % pieces, column = task / pieces % tiles_n * tile.n;
    const std::int64_t row = task / pieces / tiles_n % tiles_m * tile.m, item = task / pieces / tiles_n / tiles_m;
    const std::int64_t rows = std::min(tile.m, m - row), columns = std::min(tile.n, n - column);
    const std::int64_t start = piece * tile.k, depth = std::min(tile.k, k - start);
    const MatrixBlock block_a =
        block_at(a, batch_offset(a, item) + row * a.stride(-2) + start * a.stride(-1));
    const MatrixBlock block_b =
        block_at(b, batch_offset(b, item) + start * b.stride(-2) + column * b.stride(-1));
    const std::int64_t c_offset = batch_offset(c, item) + row * c.stride(-2) + column * c.stride(-1);
    const S* tile_bias = bias ? bias + column : nullptr;
    if (direct) {
      MatrixBlock block_c = block_at(c, c_offset);
      block_c.column_stride = 1;
      if (m == 1) block_c.row_stride = n;
      multiply_block(rows, columns, depth, block_a, block_b, tile_bias, block_c, accumulate);
    } else if (pieces > 1) {
      S* sums = partial->as<S>() + ((piece * batch + item) * m + row) * n + column;
      multiply_block(rows, columns, depth, block_a, block_b, nullptr, {sums, dtype_of<S>, n, 1}, false);
    } else {
      const Scratch sums(static_cast<std::size_t>(rows * columns) * sizeof(S), Device{});
      multiply_block(rows, columns, depth, block_a, block_b, nullptr, {sums.as<S>(), dtype_of<S>, columns, 1}, false);
      store_tile(sums.as<S>(), rows, columns, tile_bias, c, c_offset, accumulate);
    }
  });
  if (pieces == 1) return;
  const std::int64_t grain = std::max<std::int64_t>(1, elementwise_grain / n);
  parallel_for(batch * m, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      S* sums = partial->as<S>() + i * n;
      for (std::int64_t piece = 1; piece < pieces; ++piece) {
        const S* more = sums + piece * batch * m * n;
        for (std::int64_t j = 0; j < n; ++j) sums[j] += more[j];
      }
      store_tile(sums, 1, n, bias, c, batch_offset(c, i / m) + i % m * c.stride(-2), accumulate);
    }
  });
}

void matmul(TensorView a, TensorView b, TensorView bias, TensorView c, kernel::MatmulOptions options) {
  const DType product = product_dtype(a.dtype);
  const Operand left(a, product, options.precision), right(b, product, options.precision);
  std::optional<Scratch> memory;
  TensorView sum_bias = bias;
  if (bias && (bias.dtype != sum_dtype(product) || !bias.is_contiguous())) {
    sum_bias.dtype = sum_dtype(product);
    sum_bias.strides = contiguous_strides(bias.shape);
    memory.emplace(static_cast<std::size_t>(bias.numel() * size_of(sum_bias.dtype)), Device{});
    sum_bias.data = memory->as<std::byte>();
    kernel::copy(bias, sum_bias);
  }
  if (product == DType::f64)
    multiply(left.view(), right.view(), sum_bias.as<const double>(), c, options.accumulate);
  else
    multiply(left.view(), right.view(), sum_bias.as<const float>(), c, options.accumulate);
}

}  // namespace

void provide_matmul() { kernel::matmul.provide(DeviceType::cpu, matmul); }

}  // namespace binade::cpu
