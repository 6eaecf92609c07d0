// kernel::matmul: batches and tiles of one product, shared out over threads. The tiles depend on the shape alone, so
// the bits do not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <limits>
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
  bool packed = true;    // large enough for the library to pack both operands
};

std::int64_t part(std::int64_t size, std::int64_t parts) {  // one of `parts` even parts, in whole vectors
  constexpr std::int64_t multiple = 16;
  return std::max<std::int64_t>(1, (chunk_count(size, parts) + multiple - 1) / multiple * multiple);
}

// The tiles that should take the least time on this machine. Times are in multiplications by one thread; the constants
// were measured in f32 with oneDNN 2.6 and AVX2.
Tiling choose_tiling(std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k) {
  constexpr double pack_limit = 0.0038, unpacked = 1.15;  // oneDNN packs, and is faster, where 1/m + 1/n is below
  constexpr double call = 1e5;      // calling the library, waking a thread
  constexpr double element = 20;    // writing an element of a partial sum and reading it again
  constexpr double unequal = 0.1;   // of a tile: threads do not finish together
  constexpr std::int64_t smallest = 64, shortest = 512, trivial = std::int64_t{1} << 18;
  Tiling best{m, n, std::max<std::int64_t>(k, 1)};
  if (batch * m * n * k <= trivial) return best;
  const std::int64_t threads = machine_processors();
  double least = std::numeric_limits<double>::infinity();
  const auto consider = [&](Tiling tile) {
    const auto rows = static_cast<double>(std::min(m, tile.m)), columns = static_cast<double>(std::min(n, tile.n));
    const std::int64_t pieces = chunk_count(k, tile.k);
    const std::int64_t tasks = batch * chunk_count(m, tile.m) * chunk_count(n, tile.n) * pieces;
    tile.packed = 1 / rows + 1 / columns < pack_limit;
    const double one = rows * columns * static_cast<double>(tile.k) * (tile.packed ? 1 : unpacked) + call;
    const double sums = pieces > 1 ? element * static_cast<double>(batch * m * n * pieces) : 0;
    const double time = (static_cast<double>(chunk_count(tasks, threads)) + unequal) * one + sums;
    if (time >= least) return;
    least = time;
    best = tile;
  };
  const auto next = [](std::int64_t parts) { return parts + (parts + 3) / 4; };
  for (std::int64_t pieces = 1; pieces == 1 || (k / pieces >= shortest && pieces <= threads); pieces *= 2)
    for (std::int64_t down = 1; down == 1 || m / down >= smallest; down = next(down))
      for (std::int64_t across = 1; across == 1 || n / across >= smallest; across = next(across))
        consider({part(m, down), part(n, across), pieces == 1 ? k : part(k, pieces)});
  return best;
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
  // terms: the dimension that is summed over. packed: the library packs what it reads.
  Operand(const TensorView& x, DType dtype, MatmulPrecision precision, int terms, bool packed) : view_(x) {
    const int row = std::max(0, x.dim() - 2), column = row + 1;
    const bool transposed = x.stride(row) == 1 && x.stride(column) != 1;  // copied in the order it lies in
    const bool tf32 = x.dtype == DType::f32 && precision == MatmulPrecision::high;
    const bool as_it_lies = !tf32 && x.dtype == dtype && is_plain(x.size(row), x.size(column), x.stride(row), x.stride(column));
    const bool strided_terms = terms == (transposed ? column : row);
    const std::int64_t lead = as_it_lies ? x.stride(terms) : x.size(transposed ? row : column);
    const bool spread = !packed && strided_terms && collide(x.size(terms), lead * size_of(dtype));
    if (as_it_lies && !spread) return;
    TensorView source = x;  // each batch element once: stride 0 stays stride 0
    for (int d = 0; d < row; ++d)
      if (x.stride(d) == 0) source.shape[d] = 1;
    if (transposed) exchange(source, row, column);
    TensorView copied = source;
    copied.dtype = dtype;
    Shape padded = source.shape;
    if (spread) padded[column] += 64 / size_of(dtype);
    copied.strides = contiguous_strides(padded);
    memory_.emplace(static_cast<std::size_t>(padded.numel() * size_of(dtype)), Device{});
    copied.data = memory_->as<std::byte>();
    kernel::copy(source, copied);
    if (tf32)
      parallel_for(padded.numel(), elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
        round_to_tf32(copied.as<float>() + begin, copied.as<float>() + begin, end - begin);
      });
    if (transposed) exchange(copied, row, column);
    for (int d = 0; d < row; ++d)
      if (x.stride(d) == 0) copied.strides[d] = 0;
    copied.shape = x.shape;
    view_ = copied;
  }
  const TensorView& view() const { return view_; }

 private:
  // Terms a multiple of 4 KiB apart meet in few cache lines: reading them as they lie takes up to twice as long.
  static bool collide(std::int64_t terms, std::int64_t bytes_apart) { return terms >= 64 && bytes_apart % 4096 == 0; }
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
void multiply(const TensorView& a, const TensorView& b, const Tiling& tile, const S* bias, const TensorView& c,
              bool accumulate) {
  const std::int64_t m = c.size(-2), n = c.size(-1), k = a.size(-1), batch = c.numel() / (m * n);
  const std::int64_t tiles_m = chunk_count(m, tile.m), tiles_n = chunk_count(n, tile.n);
  const std::int64_t pieces = std::max<std::int64_t>(1, chunk_count(k, tile.k));
  const bool rows_plain = (c.stride(-1) == 1 || n == 1) && (c.stride(-2) >= n || m == 1);
  const bool direct = pieces == 1 && rows_plain && (c.dtype == dtype_of<S> || c.dtype == a.dtype);
  std::optional<Scratch> partial;  // [pieces, batch, m, n] when k is cut
  if (pieces > 1) partial.emplace(static_cast<std::size_t>(pieces * batch * m * n) * sizeof(S), Device{});
  parallel_tasks(batch * tiles_m * tiles_n * pieces, [&](std::int64_t task) {
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
  if (c.numel() == 0) return;
  const DType product = product_dtype(a.dtype);
  const Tiling tile = choose_tiling(c.numel() / (c.size(-2) * c.size(-1)), c.size(-2), c.size(-1), a.size(-1));
  const Operand left(a, product, options.precision, a.dim() - 1, tile.packed);
  const Operand right(b, product, options.precision, b.dim() - 2, tile.packed);
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
    multiply(left.view(), right.view(), tile, sum_bias.as<const double>(), c, options.accumulate);
  else
    multiply(left.view(), right.view(), tile, sum_bias.as<const float>(), c, options.accumulate);
}

}  // namespace

void provide_matmul() { kernel::matmul.provide(DeviceType::cpu, matmul); }

}  // namespace binade::cpu
