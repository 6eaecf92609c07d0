// Reductions over any set of dimensions: sum, amax, amin, var, norm, logsumexp. argmax and argmin: arg_reduce.cpp.
//
// Chunks of a fixed number of elements, or tiles of rows and columns where the kept dimension is the contiguous one,
// are reduced in float, gathered in double and combined in order: the same result for any number of threads.
#include <cmath>
#include <limits>
#include <vector>

#include "binade/core/backend/kernels.h"
#include "binade/ops/cpu/reduce_dims.h"
#include "binade/ops/cpu/reduce_loops.h"

namespace binade::cpu {
namespace {

constexpr std::int64_t reduce_chunk = 65536;  // elements of one output gathered by one task
constexpr std::int64_t tile_rows = 256, tile_columns = 1024;
constexpr std::int64_t rows_in_float = 16;  // added up in float before they join the double sums

template <class C>
using Totals = std::vector<Total<C>>;

template <class C>
class Reduction {
 public:
  Reduction(const TensorView& x, const ReduceDims& dims, Reducer reducer, const Totals<C>* shifts)
      : x_(x), dims_(dims), reducer_(reducer), loops_(reduce_loops<C>(reducer)) {
    if (shifts) {
      shifts_.reserve(shifts->size());
      for (const auto s : *shifts) shifts_.push_back(static_cast<C>(s));
    }
  }

  Totals<C> run() const {
    Totals<C> totals(static_cast<std::size_t>(dims_.outputs), static_cast<Total<C>>(loops_.start));
    if (dims_.outputs == 0 || dims_.count == 0) return totals;
    if (dims_.columns_contiguous()) {
      by_tiles(totals);
    } else {
      by_chunks(totals);
    }
    return totals;
  }

 private:
  // `count` elements from `first` of output o's reduced elements, contiguous as C: in place or in `buffer`.
  const C* block(std::int64_t offset, std::int64_t first, std::int64_t count, C* buffer) const {
    const MergedDims& reduced = dims_.reduced;
    if (reduced.dims == 1 && reduced.strides[0][0] == 1 && x_.dtype == dtype_of<C>) {
      return x_.template as<C>() + offset + first;
    }
    read_elements(x_, reduced, offset, first, count, buffer);
    return buffer;
  }

  void by_chunks(Totals<C>& totals) const {
    const std::int64_t chunks = chunk_count(dims_.count, reduce_chunk);
    Totals<C> partial(static_cast<std::size_t>(dims_.outputs * chunks));
    const std::int64_t grain = std::max<std::int64_t>(1, elementwise_grain / std::min(dims_.count, reduce_chunk));
    parallel_for(dims_.outputs * chunks, grain, [&](std::int64_t begin, std::int64_t end) {
      alignas(64) C buffer[block_size];
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t output = item / chunks, chunk = item % chunks;
        const std::int64_t offset = dims_.x_offset(output);
        const C shift = shifts_.empty() ? C(0) : shifts_[static_cast<std::size_t>(output)];
        Total<C> total = static_cast<Total<C>>(loops_.start);
        const std::int64_t last = std::min(dims_.count, (chunk + 1) * reduce_chunk);
        for (std::int64_t i = chunk * reduce_chunk; i < last; i += block_size) {
          const std::int64_t count = std::min(block_size, last - i);
          total = combine(reducer_, total, static_cast<Total<C>>(
                                               loops_.block(block(offset, i, count, buffer), count, shift)));
        }
        partial[static_cast<std::size_t>(item)] = total;
      }
    });
    for (std::int64_t output = 0; output < dims_.outputs; ++output) {
      Total<C>& total = totals[static_cast<std::size_t>(output)];
      for (std::int64_t c = 0; c < chunks; ++c) {
        total = combine(reducer_, total, partial[static_cast<std::size_t>(output * chunks + c)]);
      }
    }
  }

  // Outputs run along the contiguous dimension: whole rows are added, nothing is read with a stride.
  void by_tiles(Totals<C>& totals) const {
    const std::int64_t columns = dims_.kept.sizes[dims_.kept.dims - 1], groups = dims_.outputs / columns;
    const std::int64_t row_tiles = chunk_count(dims_.count, tile_rows);
    const std::int64_t column_tiles = chunk_count(columns, tile_columns);
    Totals<C> partial(static_cast<std::size_t>(row_tiles * dims_.outputs), static_cast<Total<C>>(loops_.start));
    const std::int64_t tile = std::min(dims_.count, tile_rows) * std::min(columns, tile_columns);
    parallel_for(groups * row_tiles * column_tiles, std::max<std::int64_t>(1, elementwise_grain / tile),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t item = begin; item < end; ++item) {
                     const std::int64_t group = item / (row_tiles * column_tiles);
                     const std::int64_t row_tile = item / column_tiles % row_tiles;
                     const std::int64_t column = item % column_tiles * tile_columns;
                     reduce_tile(group * columns + column, row_tile * tile_rows,
                                 std::min(tile_columns, columns - column),
                                 partial.data() + row_tile * dims_.outputs + group * columns + column);
                   }
                 });
    parallel_for(dims_.outputs, elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = 0; t < row_tiles; ++t) {
        const Total<C>* row = partial.data() + t * dims_.outputs;
        for (std::int64_t i = begin; i < end; ++i) {
          Total<C>& total = totals[static_cast<std::size_t>(i)];
          total = combine(reducer_, total, row[i]);
        }
      }
    });
  }

  void reduce_tile(std::int64_t output, std::int64_t first_row, std::int64_t columns, Total<C>* totals) const {
    alignas(64) C buffer[tile_columns];
    alignas(64) C sums[tile_columns];
    const C* shifts = shifts_.empty() ? nullptr : shifts_.data() + output;
    const std::int64_t last_row = std::min(dims_.count, first_row + tile_rows), start = dims_.x_offset(output);
    for (std::int64_t group = first_row; group < last_row; group += rows_in_float) {
      std::fill_n(sums, columns, loops_.start);
      for (std::int64_t row = group; row < std::min(last_row, group + rows_in_float); ++row) {
        const std::int64_t offset = start + dims_.reduced_offset(row);
        const C* values = x_.template as<C>() + offset;
        if (x_.dtype != dtype_of<C>) {
          read_run(x_.data + offset * size_of(x_.dtype), x_.dtype, 1, columns, buffer);
          values = buffer;
        } else if (row + 1 < last_row) {  // a tile's rows lie apart: the processor does not foresee the next one
          const C* next = x_.template as<C>() + start + dims_.reduced_offset(row + 1);
          for (std::int64_t i = 0; i < columns; i += 64 / static_cast<std::int64_t>(sizeof(C))) __builtin_prefetch(next + i);
        }
        loops_.columns(values, sums, columns, shifts);
      }
      for (std::int64_t i = 0; i < columns; ++i) {
        totals[i] = combine(reducer_, totals[i], static_cast<Total<C>>(sums[i]));
      }
    }
  }

  const TensorView& x_;
  const ReduceDims& dims_;
  Reducer reducer_;
  const ReduceLoops<C>& loops_;
  std::vector<C> shifts_;
};

template <class C>
Totals<C> reduce(const TensorView& x, const ReduceDims& dims, Reducer reducer, const Totals<C>* shifts = nullptr) {
  return Reduction<C>(x, dims, reducer, shifts).run();
}

template <class Body>
void with_reduce_type(DType dtype, const Body& body) {
  if (dtype == DType::f64) return body.template operator()<double>();
  if (is_floating(dtype)) return body.template operator()<float>();
  body.template operator()<std::int64_t>();
}

template <class V>
void write_outputs(const ReduceDims& dims, const std::vector<V>& values, const TensorView& y) {
  const V* next = values.data();
  for_each_run(dims.kept, 1, 0, dims.outputs, [&](std::int64_t offset, std::int64_t stride, std::int64_t length) {
    write_run(next, y.data + offset * size_of(y.dtype), y.dtype, stride, length);
    next += length;
  });
}

void sum(TensorView x, TensorView y, double scale, bool accumulate) {
  const ReduceDims dims(x, y);
  with_reduce_type(x.dtype, [&]<class C>() {
    Totals<C> totals = reduce<C>(x, dims, Reducer::sum);
    if (!is_floating(y.dtype)) {  // exact
      std::vector<std::int64_t> values(totals.begin(), totals.end());
      return write_outputs(dims, values, y);
    }
    std::vector<double> values(totals.begin(), totals.end()), old(accumulate ? values.size() : 0);
    if (accumulate) {
      double* next = old.data();
      for_each_run(dims.kept, 1, 0, dims.outputs, [&](std::int64_t offset, std::int64_t stride, std::int64_t length) {
        read_run(y.data + offset * size_of(y.dtype), y.dtype, stride, length, next);
        next += length;
      });
    }
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = values[i] * scale + (accumulate ? old[i] : 0.0);
    write_outputs(dims, values, y);
  });
}

void extreme(const TensorView& x, const TensorView& y, Reducer reducer) {
  const ReduceDims dims(x, y);
  check(dims.count > 0 || dims.outputs == 0, reducer == Reducer::max ? "max" : "min", ": no elements to reduce in shape ",
        x.shape);
  with_reduce_type(x.dtype, [&]<class C>() { write_outputs(dims, reduce<C>(x, dims, reducer), y); });
}
void amax(TensorView x, TensorView y) { extreme(x, y, Reducer::max); }
void amin(TensorView x, TensorView y) { extreme(x, y, Reducer::min); }

// Two passes: the mean, then the squares around it.
void var(TensorView x, TensorView mean, TensorView y, double correction) {
  const ReduceDims dims(x, y);
  with_float_type(x.dtype, "var", [&]<class T>() {
    using C = Compute<T>;
    Totals<C> means = reduce<C>(x, dims, Reducer::sum);
    for (double& m : means) m /= static_cast<double>(dims.count);
    Totals<C> squares = reduce<C>(x, dims, Reducer::sum_centred_squares, &means);
    const double divisor = std::max(0.0, static_cast<double>(dims.count) - correction);
    for (double& s : squares) s = dims.count == 0 ? std::numeric_limits<double>::quiet_NaN() : s / divisor;
    write_outputs(dims, squares, y);
    if (mean) write_outputs(ReduceDims(x, mean), means, mean);
  });
}

void norm(TensorView x, TensorView y) {
  const ReduceDims dims(x, y);
  with_float_type(x.dtype, "norm", [&]<class T>() {
    Totals<double> squares;
    bool in_range = false;
    if constexpr (!std::is_same_v<T, double>) {
      squares = reduce<float>(x, dims, Reducer::sum_squares);
      // Outside this range a square may have left float's: once more in double.
      in_range = std::all_of(squares.begin(), squares.end(), [](double s) { return s > 1e-25 && s < 1e38; });
    }
    if (!in_range) squares = reduce<double>(x, dims, Reducer::sum_squares);
    for (double& s : squares) s = std::sqrt(s);
    write_outputs(dims, squares, y);
  });
}

void logsumexp(TensorView x, TensorView y) {
  const ReduceDims dims(x, y);
  with_float_type(x.dtype, "logsumexp", [&]<class T>() {
    using C = Compute<T>;
    const Totals<C> most = reduce<C>(x, dims, Reducer::max);
    Totals<C> totals = reduce<C>(x, dims, Reducer::sum_exp, &most);
    for (std::size_t i = 0; i < totals.size(); ++i) {
      totals[i] = std::isfinite(most[i]) ? most[i] + std::log(totals[i]) : most[i];
    }
    write_outputs(dims, totals, y);
  });
}

}  // namespace

void provide_reduce();
void provide_reduce() {
  kernel::sum.provide(DeviceType::cpu, sum);
  kernel::amax.provide(DeviceType::cpu, amax);
  kernel::amin.provide(DeviceType::cpu, amin);
  kernel::var.provide(DeviceType::cpu, var);
  kernel::norm.provide(DeviceType::cpu, norm);
  kernel::logsumexp.provide(DeviceType::cpu, logsumexp);
}

}  // namespace binade::cpu
