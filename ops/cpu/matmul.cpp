// scaled_matmul: batches and tiles of one product, shared out over threads. The tiles depend on the shape and the
// machine, so the bits do not depend on the number of threads.
#include <algorithm>
#include <optional>
#include <vector>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/core/base/scalar.h"
#include "binade/ops/cpu/convert.h"
#include "binade/ops/cpu/matmul.h"
#include "binade/ops/cpu/matmul_block.h"
#include "binade/ops/cpu/matmul_tiling.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {

namespace {

std::int64_t batch_offset(const TensorView& x, std::int64_t index) {
  std::int64_t offset = 0;
  for (int d = x.dim() - 3; d >= 0; --d) {
    offset += index % x.size(d) * x.stride(d);
    index /= x.size(d);
  }
  return offset;
}

// How many products of the batch read the same matrix of x.
std::int64_t repeats(const TensorView& x, std::int64_t batch) {
  std::int64_t matrices = 1;
  for (int d = 0; d < x.dim() - 2; ++d)
    if (x.stride(d) != 0) matrices *= x.size(d);
  return batch / matrices;
}

// An operand in the dtype products are computed from, with rows or columns contiguous: as it lies, or a copy. f32 values
// are rounded to TF32 where the precision says so.
class Operand {
 public:
  // terms: the dimension that is summed over. packed: the library packs what it reads. readers: tiles that read an
  // element; while they are few each copies its part, which stays in cache.
  Operand(const TensorView& x, DType dtype, MatmulPrecision precision, int terms, bool packed, std::int64_t readers)
      : view_(x), dtype_(dtype) {
    const int row = std::max(0, x.dim() - 2), column = row + 1;
    transposed_ = x.stride(row) == 1 && x.stride(column) != 1;  // copied in the order it lies in
    const bool plain = is_plain(x.size(row), x.size(column), x.stride(row), x.stride(column));
    const bool tf32 = x.dtype == DType::f32 && precision == MatmulPrecision::high;
    const bool as_it_lies = !tf32 && x.dtype == dtype && plain;
    const bool strided_terms = terms == (transposed_ ? column : row);
    const std::int64_t apart = as_it_lies ? x.stride(terms) : x.size(transposed_ ? row : column);
    const bool spread = !packed && strided_terms && collide(x.size(terms), apart * size_of(dtype));
    if (as_it_lies && !spread) return;
    by_tile_ = plain && !tf32 && dtype == DType::f32 && readers <= 2;
    if (!by_tile_) copy(tf32, spread ? 64 / size_of(dtype) : 0);
  }

  // The block from (row, column) of the matrix at `offset`; `room` holds it if it has to be copied.
  MatrixBlock block(std::int64_t offset, std::int64_t row, std::int64_t column, std::int64_t rows, std::int64_t columns,
                    std::optional<Scratch>& room) const {
    const std::int64_t down = view_.stride(-2), across = view_.stride(-1);
    const std::byte* start = view_.data + (offset + row * down + column * across) * size_of(view_.dtype);
    if (!by_tile_) return {start, dtype_, down, across};
    const std::int64_t lines = transposed_ ? columns : rows, length = transposed_ ? rows : columns;
    const std::int64_t apart = (length + 15) / 16 * 16 + 16;  // so that they do not collide
    room.emplace(static_cast<std::size_t>(lines * apart) * sizeof(float), Device{});
    const std::int64_t line = (transposed_ ? across : down) * size_of(view_.dtype), step = transposed_ ? down : across;
    for (std::int64_t i = 0; i < lines; ++i)
      read_run(start + i * line, view_.dtype, step, length, room->as<float>() + i * apart);
    return {room->as<float>(), dtype_, transposed_ ? 1 : apart, transposed_ ? apart : 1};
  }

  std::int64_t offset(std::int64_t item) const { return batch_offset(view_, item); }

 private:
  void copy(bool tf32, std::int64_t padding) {
    const TensorView& x = view_;
    const int row = x.dim() - 2, column = x.dim() - 1;
    TensorView source = x;  // each batch element once: stride 0 stays stride 0
    for (int d = 0; d < row; ++d)
      if (x.stride(d) == 0) source.shape[d] = 1;
    if (transposed_) exchange(source, row, column);
    TensorView copied = source;
    copied.dtype = dtype_;
    Shape padded = source.shape;
    padded[column] += padding;
    copied.strides = contiguous_strides(padded);
    memory_.emplace(static_cast<std::size_t>(padded.numel() * size_of(dtype_)), Device{});
    copied.data = memory_->as<std::byte>();
    kernel::copy(source, copied);
    if (tf32)
      parallel_for(padded.numel(), elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
        round_to_tf32(copied.as<float>() + begin, copied.as<float>() + begin, end - begin);
      });
    if (transposed_) exchange(copied, row, column);
    for (int d = 0; d < row; ++d)
      if (x.stride(d) == 0) copied.strides[d] = 0;
    copied.shape = x.shape;
    view_ = copied;
  }
  // Terms a multiple of 4 KiB apart meet in few cache lines: reading them as they lie takes up to twice as long.
  static bool collide(std::int64_t terms, std::int64_t bytes_apart) { return terms >= 64 && bytes_apart % 4096 == 0; }
  static void exchange(TensorView& x, int a, int b) {
    std::swap(x.shape[a], x.shape[b]);
    std::swap(x.strides[a], x.strides[b]);
  }

  TensorView view_;
  DType dtype_;
  bool transposed_ = false, by_tile_ = false;
  std::optional<Scratch> memory_;
};

struct Result {
  TensorView c;
  double factor;  // of the sums
  bool accumulate;
};

// c (+)= factor * sums + bias, rounded once, for rows of c that start at `offset`. sums [rows, columns]: changed on the way.
template <class S>
void store_tile(S* sums, std::int64_t rows, std::int64_t columns, const S* bias, const Result& result, std::int64_t offset) {
  const auto& [c, factor, accumulate] = result;
  const std::int64_t down = c.stride(-2), across = c.stride(-1);
  std::vector<S> before(static_cast<std::size_t>(accumulate ? columns : 0));
  for (std::int64_t i = 0; i < rows; ++i) {
    S* row = sums + i * columns;
    std::byte* target = c.data + (offset + i * down) * size_of(c.dtype);
    if (factor != 1)
      for (std::int64_t j = 0; j < columns; ++j) row[j] = static_cast<S>(factor * static_cast<double>(row[j]));
    if (bias)
      for (std::int64_t j = 0; j < columns; ++j) row[j] += bias[j];
    if (accumulate) {
      read_run(target, c.dtype, across, columns, before.data());
      for (std::int64_t j = 0; j < columns; ++j) row[j] += before[static_cast<std::size_t>(j)];
    }
    write_run(row, target, c.dtype, across, columns);
  }
}

template <class S>  // S: what is summed in
void multiply(const Operand& a, const Operand& b, std::int64_t k, const Tiling& tile, const S* bias, const Result& result,
              bool direct) {
  const TensorView& c = result.c;
  const std::int64_t m = c.size(-2), n = c.size(-1), batch = c.numel() / (m * n);
  const std::int64_t tiles_m = chunk_count(m, tile.m), tiles_n = chunk_count(n, tile.n);
  const std::int64_t pieces = std::max<std::int64_t>(1, chunk_count(k, tile.k));
  std::optional<Scratch> partial;  // [pieces, batch, m, n] when k is cut
  if (pieces > 1) partial.emplace(static_cast<std::size_t>(pieces * batch * m * n) * sizeof(S), Device{});
  parallel_tasks(batch * tiles_m * tiles_n * pieces, [&](std::int64_t task) {
    const std::int64_t piece = task % pieces, column = task / pieces % tiles_n * tile.n;
    const std::int64_t row = task / pieces / tiles_n % tiles_m * tile.m, item = task / pieces / tiles_n / tiles_m;
    const std::int64_t rows = std::min(tile.m, m - row), columns = std::min(tile.n, n - column);
    const std::int64_t start = piece * tile.k, depth = std::min(tile.k, k - start);
    std::optional<Scratch> room_a, room_b;
    const MatrixBlock block_a = a.block(a.offset(item), row, start, rows, depth, room_a);
    const MatrixBlock block_b = b.block(b.offset(item), start, column, depth, columns, room_b);
    const std::int64_t c_offset = batch_offset(c, item) + row * c.stride(-2) + column * c.stride(-1);
    const S* tile_bias = bias ? bias + column : nullptr;
    if (pieces == 1 && direct) {
      const MatrixBlock block_c{c.data + c_offset * size_of(c.dtype), c.dtype, m == 1 ? n : c.stride(-2), 1};
      multiply_block(rows, columns, depth, block_a, block_b, tile_bias, block_c, result.accumulate);
    } else if (pieces > 1) {
      S* sums = partial->as<S>() + ((piece * batch + item) * m + row) * n + column;
      multiply_block(rows, columns, depth, block_a, block_b, nullptr, {sums, dtype_of<S>, n, 1}, false);
    } else {
      const Scratch sums(static_cast<std::size_t>(rows * columns) * sizeof(S), Device{});
      multiply_block(rows, columns, depth, block_a, block_b, nullptr, {sums.as<S>(), dtype_of<S>, columns, 1}, false);
      store_tile(sums.as<S>(), rows, columns, tile_bias, result, c_offset);
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
      store_tile(sums, 1, n, bias, result, batch_offset(c, i / m) + i % m * c.stride(-2));
    }
  });
}

}  // namespace

void scaled_matmul(TensorView a, TensorView b, TensorView bias, TensorView c, kernel::MatmulOptions options, double factor) {
  if (c.numel() == 0) return;
  const DType product = c.dtype == DType::f64 ? DType::f64 : product_dtype(a.dtype);
  const std::int64_t m = c.size(-2), n = c.size(-1), k = a.size(-1), batch = c.numel() / (m * n);
  const Tiling tile = choose_tiling(batch, m, n, k, a.stride(-1) != 1, machine_processors());
  const Operand left(a, product, options.precision, a.dim() - 1, tile.packed, chunk_count(n, tile.n) * repeats(a, batch));
  const Operand right(b, product, options.precision, b.dim() - 2, tile.packed, chunk_count(m, tile.m) * repeats(b, batch));
  const bool rows_plain = (c.stride(-1) == 1 || n == 1) && (c.stride(-2) >= n || m == 1);
  const bool direct = factor == 1 && rows_plain && (c.dtype == sum_dtype(product) || c.dtype == product);
  const Result result{c, factor, options.accumulate};
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
    multiply(left, right, k, tile, sum_bias.as<const double>(), result, direct);
  else
    multiply(left, right, k, tile, sum_bias.as<const float>(), result, direct);
}

namespace {
void matmul(TensorView a, TensorView b, TensorView bias, TensorView c, kernel::MatmulOptions options) {
  scaled_matmul(a, b, bias, c, options, 1);
}
}  // namespace

void provide_matmul() { kernel::matmul.provide(DeviceType::cpu, matmul); }

}  // namespace binade::cpu
