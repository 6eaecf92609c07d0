// Reductions over any set of dimensions: sum, amax, amin, var, norm, logsumexp.
//
// Each output's elements are cut into pieces by the shape alone; a piece is reduced by one block (elements side by
// side) or by one thread (outputs side by side), at most 16 floats before they join a double; the last block to arrive
// combines the pieces, in order.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <limits>
#include <optional>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/cuda/kernels/arrival.h"
#include "binade/cuda/kernels/block.h"
#include "binade/cuda/kernels/reduce_dims.h"

namespace binade::cuda {
namespace {

enum class Reducer { sum, sum_squares, sum_centred_squares, sum_exp, max, min };

template <class C>
using Total = std::conditional_t<std::is_same_v<C, std::int64_t>, std::int64_t, double>;

template <Reducer kind, class T>
__device__ T start_value() {
  using Limits = std::numeric_limits<T>;
  if (kind == Reducer::max) return Limits::has_infinity ? -Limits::infinity() : Limits::lowest();
  if (kind == Reducer::min) return Limits::has_infinity ? Limits::infinity() : Limits::max();
  return T(0);
}

template <Reducer kind>
struct Combine {
  template <class T>
  __device__ T operator()(T a, T b) const {  // NaN propagates
    if constexpr (kind == Reducer::max) return b > a || b != b ? b : a;
    if constexpr (kind == Reducer::min) return b < a || b != b ? b : a;
    return a + b;
  }
};

// What x adds. Squares are taken in double: a float's may leave the range of floats.
template <Reducer kind, class C>
__device__ auto term(C x, Total<C> shift) {
  if constexpr (kind == Reducer::sum_squares) {
    return static_cast<double>(x) * static_cast<double>(x);
  } else if constexpr (kind == Reducer::sum_centred_squares) {
    const C distance = x - static_cast<C>(shift);
    return distance * distance;
  } else if constexpr (kind == Reducer::sum_exp) {
    return static_cast<C>(exp(x - static_cast<C>(shift)));
  } else {
    return x;
  }
}

// Elements first, first + step, ... below last of one output, from where x starts.
template <Reducer kind, class C>
__device__ Total<C> reduce_elements(const Span& x, const ReduceDims& dims, std::int64_t first, std::int64_t last,
                                    std::int64_t step, Total<C> shift) {
  constexpr int in_narrow = 16;  // added up in C before they join the total
  using Part = decltype(term<kind>(C(0), shift));
  const Combine<kind> combine;
  Total<C> total = start_value<kind, Total<C>>();
  for (std::int64_t i = first; i < last;) {
    Part part = start_value<kind, Part>();
    for (int k = 0; k < in_narrow && i < last; ++k, i += step) {
      part = combine(part, term<kind>(x.get<C>(dims.x_step(i)), shift));
    }
    total = combine(total, static_cast<Total<C>>(part));
  }
  return total;
}

enum class Finish { scale, root, log_plus_shift };
// Where the pieces of a reduction go, and what is made of them.
template <class T>
struct Finishing {
  Finish how = Finish::scale;
  double factor = 1;
  bool accumulate = false;
  const T* shifts = nullptr;  // one per output, or null
  Span y{};                   // the results, stored here where given
  T* wide = nullptr;          // and here, unrounded
  T* pieces = nullptr;        // [gridDim.y, outputs], unless there is one piece only
  unsigned* arrivals = nullptr;
  __device__ T shift(std::int64_t output) const { return shifts ? shifts[output] : T(0); }
};

// Makes the result of one output's total and stores it.
template <class T>
__device__ void finish(const ReduceDims& dims, const Finishing<T>& to, std::int64_t output, T total) {
  if constexpr (std::is_same_v<T, double>) {
    if (to.how == Finish::scale && to.factor != 1) total *= to.factor;
    if (to.how == Finish::root) total = sqrt(total);
    if (to.how == Finish::log_plus_shift) {
      const double most = to.shifts[output];
      total = isfinite(most) ? most + log(total) : most;
    }
  }
  if (to.wide) to.wide[output] = total;
  if (!to.y) return;
  const std::int64_t at = dims.y_at(output);
  if (std::is_same_v<T, std::int64_t> && is_floating(to.y.dtype)) {
    const double scaled = static_cast<double>(total) * to.factor;
    to.y.set(at, scaled + (to.accumulate ? to.y.template get<double>(at) : 0.0));
  } else {
    to.y.set(at, static_cast<T>(total + (to.accumulate ? to.y.template get<T>(at) : T(0))));
  }
}

// The pieces of one output, in order.
template <Reducer kind, class T>
__device__ T combine_pieces(const ReduceDims& dims, const Finishing<T>& to, std::int64_t output) {
  T total = to.pieces[output];
  for (unsigned p = 1; p < gridDim.y; ++p) total = Combine<kind>()(total, to.pieces[p * dims.kept.count + output]);
  return total;
}

// One block per output (x) and piece (y).
template <Reducer kind, class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    reduce_rows_kernel(Span x, ReduceDims dims, Finishing<Total<C>> to, std::int64_t piece_length) {
  SHARED(Total<C>, shared, max_warps);
  SHARED1(bool, last_block);
  const std::int64_t output = blockIdx.x, first = blockIdx.y * piece_length;
  const std::int64_t last = first + piece_length < dims.reduced.count ? first + piece_length : dims.reduced.count;
  const Total<C> total = reduce_elements<kind, C>(x.from(dims.x_start(output)), dims, first + threadIdx.x, last,
                                                  blockDim.x, to.shift(output));
  Total<C> all = reduce_block(total, shared, Combine<kind>());
  if (gridDim.y > 1) {
    if (threadIdx.x == 0) to.pieces[blockIdx.y * dims.kept.count + output] = all;
    if (!last_to_arrive(to.arrivals + blockIdx.x, gridDim.y, &last_block)) return;
    if (threadIdx.x == 0) all = combine_pieces<kind>(dims, to, output);
  }
  if (threadIdx.x == 0) finish(dims, to, output, all);
}

// One thread per output and piece (block's y).
template <Reducer kind, class C>
__global__ void __launch_bounds__(block_threads, resident_blocks)
    reduce_columns_kernel(Span x, ReduceDims dims, Finishing<Total<C>> to, std::int64_t piece_length) {
  SHARED1(bool, last_block);
  const std::int64_t output = global_thread(), first = blockIdx.y * piece_length;
  const std::int64_t last = first + piece_length < dims.reduced.count ? first + piece_length : dims.reduced.count;
  const bool mine = output < dims.kept.count;
  Total<C> total{};
  if (mine)
    total = reduce_elements<kind, C>(x.from(dims.x_start(output)), dims, first, last, 1, to.shift(output));
  if (gridDim.y > 1) {
    if (mine) to.pieces[blockIdx.y * dims.kept.count + output] = total;
    if (!last_to_arrive(to.arrivals + blockIdx.x, gridDim.y, &last_block)) return;
    if (mine) total = combine_pieces<kind>(dims, to, output);
  }
  if (mine) finish(dims, to, output, total);
}

template <Reducer kind, class C>
void reduce(const TensorView& x, const ReduceDims& dims, Finishing<Total<C>> to) {
  const std::int64_t outputs = dims.kept.count, count = dims.reduced.count;
  if (outputs == 0) return;
  const bool columns = dims.columns_contiguous();
  // Enough pieces to occupy a GPU when there are few outputs, none shorter than pays. Many outputs are one piece each,
  // so that arrival_words are enough.
  const std::int64_t shortest = columns ? 64 : 4096, enough = columns ? 65536 : 512;
  std::int64_t pieces = std::clamp<std::int64_t>(enough / outputs, 1, std::max<std::int64_t>(1, count / shortest));
  pieces = std::min<std::int64_t>(pieces, 1024);
  const std::int64_t length = std::max<std::int64_t>(1, (count + pieces - 1) / pieces);
  const Scratch totals(pieces > 1 ? static_cast<std::size_t>(outputs * pieces) * sizeof(Total<C>) : 0, x.device);
  to.pieces = totals.as<Total<C>>();
  to.arrivals = arrivals_of(x.device);
  LaunchConfig config = one_thread_each(outputs, x.device);
  config.grid.y = static_cast<unsigned>(pieces);
  if (columns) {
    launch(config, reduce_columns_kernel<kind, C>, span_of(x), dims, to, length);
  } else {
    config.grid.x = static_cast<unsigned>(outputs);
    config.block.x = std::min<unsigned>(row_threads(length, 4), block_threads);
    launch(config, reduce_rows_kernel<kind, C>, span_of(x), dims, to, length);
  }
}

void sum(TensorView x, TensorView y, double scale, bool accumulate) {
  const ReduceDims dims = reduce_dims(x, y);
  with_exact_type(x.dtype, [&]<class C>() {
    reduce<Reducer::sum, C>(x, dims, {.factor = scale, .accumulate = accumulate, .y = span_of(y)});
  });
}

template <Reducer kind>
void extreme(TensorView x, TensorView y) {
  const ReduceDims dims = reduce_dims(x, y);
  check(dims.reduced.count > 0 || dims.kept.count == 0, kind == Reducer::max ? "max" : "min",
        ": no elements to reduce in shape ", x.shape);
  with_exact_type(x.dtype, [&]<class C>() { reduce<kind, C>(x, dims, {.y = span_of(y)}); });
}

template <class Body>
void with_compute_type(DType dtype, const char* what, const Body& body) {
  check(is_floating(dtype), what, ": needs a floating dtype, got ", dtype);
  if (dtype == DType::f64) return body.template operator()<double>();
  body.template operator()<float>();
}

// Two passes: the mean, then the squares around it.
void var(TensorView x, TensorView mean, TensorView y, double correction) {
  const ReduceDims dims = reduce_dims(x, y);
  if (dims.kept.count == 0) return;
  const double count = static_cast<double>(dims.reduced.count), divisor = std::max(0.0, count - correction);
  const Scratch means(static_cast<std::size_t>(dims.kept.count) * sizeof(double), x.device);
  with_compute_type(x.dtype, "var", [&]<class C>() {
    // mean lies as y does
    reduce<Reducer::sum, C>(x, mean ? reduce_dims(x, mean) : dims,
                            {.factor = 1 / count, .y = span_of(mean), .wide = means.as<double>()});
    const double factor = count == 0 ? std::numeric_limits<double>::quiet_NaN() : 1 / divisor;
    reduce<Reducer::sum_centred_squares, C>(x, dims, {.factor = factor, .shifts = means.as<double>(), .y = span_of(y)});
  });
}

void norm(TensorView x, TensorView y) {
  const ReduceDims dims = reduce_dims(x, y);
  with_compute_type(x.dtype, "norm", [&]<class C>() {
    reduce<Reducer::sum_squares, C>(x, dims, {.how = Finish::root, .y = span_of(y)});
  });
}

void logsumexp(TensorView x, TensorView y) {
  const ReduceDims dims = reduce_dims(x, y);
  if (dims.kept.count == 0) return;
  const Scratch most(static_cast<std::size_t>(dims.kept.count) * sizeof(double), x.device);
  with_compute_type(x.dtype, "logsumexp", [&]<class C>() {
    reduce<Reducer::max, C>(x, dims, {.wide = most.as<double>()});
    reduce<Reducer::sum_exp, C>(x, dims, {.how = Finish::log_plus_shift, .shifts = most.as<double>(), .y = span_of(y)});
  });
}

}  // namespace

void provide_reduce();
void provide_reduce() {
  kernel::sum.provide(DeviceType::cuda, sum);
  kernel::amax.provide(DeviceType::cuda, extreme<Reducer::max>);
  kernel::amin.provide(DeviceType::cuda, extreme<Reducer::min>);
  kernel::var.provide(DeviceType::cuda, var);
  kernel::norm.provide(DeviceType::cuda, norm);
  kernel::logsumexp.provide(DeviceType::cuda, logsumexp);
}

}  // namespace binade::cuda
