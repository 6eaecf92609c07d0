// Convolution and its gradients as matrix products whose operands are read where they lie (implicit GEMM: Chetlur et
// al., "cuDNN: Efficient Primitives for Deep Learning", 2014). Each result element is one sum in float (double),
// rounded once; every gradient is gathered, so that nothing needs atomics. The weights' long sum is cut into pieces by
// the shape alone, added in order.
#include "binade/cuda/kernels/launch.h"
// launch.h first
#include <optional>

#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/cuda/kernels/conv.h"
#include "binade/cuda/kernels/operand.h"
#include "binade/cuda/runtime/context.h"

namespace binade::cuda {
namespace {

constexpr int tile = 64, depth = 16, threads = 256, side = 16, each = tile / side;

// x [batch, groups * channels, h, w], weight [groups * filters, channels, kh, kw], y [batch, groups * filters, oh, ow].
struct Conv {
  Strided4 x, weight, y;
  Span bias;
  std::int64_t bias_stride = 0;
  int batch, channels, filters, h, w, oh, ow, kh, kw;
  int stride[2], padding[2], dilation[2];
  bool tf32, relu;
};
struct Place {  // a position of x or y in one batch element; `inside` is false beyond the last
  int batch, row, column;
  bool inside;
};
__device__ __forceinline__ Place place(std::int64_t n, int batch, int rows, int columns) {
  const auto plane = static_cast<std::int64_t>(rows) * columns;
  const auto b = static_cast<int>(n / plane), rest = static_cast<int>(n % plane);
  return {b, rest / columns, rest % columns, b < batch};
}
struct Tap {  // of the kernel, of one channel or filter
  int plane, i, j;
};
__device__ __forceinline__ Tap tap(int k, const Conv& c) {
  const int taps = c.kh * c.kw, rest = k % taps;
  return {k / taps, rest / c.kw, rest % c.kw};
}

// x under tap t of output position p, or 0 in the padding.
template <class C>
__device__ __forceinline__ C x_under(const Conv& c, int group, const Place& p, const Tap& t) {
  const int row = p.row * c.stride[0] - c.padding[0] + t.i * c.dilation[0];
  const int column = p.column * c.stride[1] - c.padding[1] + t.j * c.dilation[1];
  if (!p.inside || row < 0 || row >= c.h || column < 0 || column >= c.w) return C(0);
  return c.x.data.get<C, Formats::arithmetic>(c.x.at(p.batch, group * c.channels + t.plane, row, column));
}
// y's gradient that reaches input position p through tap t, or 0.
template <class C>
__device__ __forceinline__ C dy_over(const Conv& c, int group, const Place& p, const Tap& t) {
  const int row = p.row + c.padding[0] - t.i * c.dilation[0], column = p.column + c.padding[1] - t.j * c.dilation[1];
  const int i = row / c.stride[0], j = column / c.stride[1];
  if (!p.inside || row < 0 || column < 0 || i * c.stride[0] != row || j * c.stride[1] != column || i >= c.oh ||
      j >= c.ow) {
    return C(0);
  }
  return c.y.data.get<C, Formats::arithmetic>(c.y.at(p.batch, group * c.filters + t.plane, i, j));
}

// Each problem is result[m, n] = sum over k of a[m, k] b[k, n], for one group. What of b's index does not change
// along k is worked out once per thread: Fixed.
struct Forward {  // y [filters, (batch, oh, ow)] = weight [filters, (channels, kh, kw)] x
  Conv c;
  __device__ std::int64_t m() const { return c.filters; }
  __device__ std::int64_t n() const { return static_cast<std::int64_t>(c.batch) * c.oh * c.ow; }
  __device__ std::int64_t k() const { return c.channels * c.kh * c.kw; }
  using Fixed = Place;
  __device__ Fixed fix(std::int64_t n) const { return place(n, c.batch, c.oh, c.ow); }
  template <class C>
  __device__ C a(int group, std::int64_t m, std::int64_t k) const {
    const Tap t = tap(static_cast<int>(k), c);
    return c.weight.data.get<C, Formats::arithmetic>(c.weight.at(group * c.filters + m, t.plane, t.i, t.j));
  }
  template <class C>
  __device__ C b(int group, std::int64_t k, const Fixed& p) const {
    return x_under<C>(c, group, p, tap(static_cast<int>(k), c));
  }
  template <class C>
  __device__ void store(int group, int, std::int64_t m, std::int64_t n, C value) const {
    const Place p = place(n, c.batch, c.oh, c.ow);
    const std::int64_t filter = group * c.filters + m;
    if (c.bias) value += c.bias.get<C, Formats::arithmetic>(filter * c.bias_stride);
    if (c.relu && value <= 0) value = 0;  // NaN stays
    c.y.data.set<Formats::arithmetic>(c.y.at(p.batch, filter, p.row, p.column), value);
  }
};

struct BackwardData {  // x's gradient [channels, (batch, h, w)] = weight^T [channels, (filters, kh, kw)] dy
  Conv c;
  __device__ std::int64_t m() const { return c.channels; }
  __device__ std::int64_t n() const { return static_cast<std::int64_t>(c.batch) * c.h * c.w; }
  __device__ std::int64_t k() const { return c.filters * c.kh * c.kw; }
  using Fixed = Place;
  __device__ Fixed fix(std::int64_t n) const { return place(n, c.batch, c.h, c.w); }
  template <class C>
  __device__ C a(int group, std::int64_t m, std::int64_t k) const {
    const Tap t = tap(static_cast<int>(k), c);
    return c.weight.data.get<C, Formats::arithmetic>(c.weight.at(group * c.filters + t.plane, m, t.i, t.j));
  }
  template <class C>
  __device__ C b(int group, std::int64_t k, const Fixed& p) const {
    return dy_over<C>(c, group, p, tap(static_cast<int>(k), c));
  }
  template <class C>
  __device__ void store(int group, int, std::int64_t m, std::int64_t n, C value) const {
    const Place p = place(n, c.batch, c.h, c.w);
    c.x.data.set<Formats::arithmetic>(c.x.at(p.batch, group * c.channels + m, p.row, p.column), value);
  }
};

struct BackwardWeight {  // weight's gradient [filters, (channels, kh, kw)] = dy [filters, (batch, oh, ow)] x^T, in
                         // pieces
  Conv c;
  std::int64_t piece_stride;  // of the pieces in the result, in elements
  __device__ std::int64_t m() const { return c.filters; }
  __device__ std::int64_t n() const { return c.channels * c.kh * c.kw; }
  __device__ std::int64_t k() const { return static_cast<std::int64_t>(c.batch) * c.oh * c.ow; }
  using Fixed = Tap;
  __device__ Fixed fix(std::int64_t n) const { return tap(static_cast<int>(n), c); }
  template <class C>
  __device__ C a(int group, std::int64_t m, std::int64_t k) const {
    const Place p = place(k, c.batch, c.oh, c.ow);
    return c.y.data.get<C, Formats::arithmetic>(c.y.at(p.batch, group * c.filters + m, p.row, p.column));
  }
  template <class C>
  __device__ C b(int group, std::int64_t k, const Fixed& t) const {
    return x_under<C>(c, group, place(k, c.batch, c.oh, c.ow), t);
  }
  template <class C>
  __device__ void store(int group, int piece, std::int64_t m, std::int64_t n, C value) const {
    const Tap t = tap(static_cast<int>(n), c);
    c.weight.data.set<Formats::arithmetic>(piece * piece_stride + c.weight.at(group * c.filters + m, t.plane, t.i, t.j),
                                           value);
  }
};

// Block (x: columns, y: rows, z: group and piece of the sum). A thread sums 4 x 4 elements.
template <class C, class Problem>
__global__ void __launch_bounds__(threads) conv_kernel(Problem problem, std::int64_t piece_length, int pieces) {
  SHARED(C, left, tile * (depth + 1));
  SHARED(C, right, depth * tile);
  const int piece = static_cast<int>(blockIdx.z) % pieces, group = static_cast<int>(blockIdx.z) / pieces;
  const std::int64_t first_m = static_cast<std::int64_t>(blockIdx.y) * tile;
  const std::int64_t first_n = static_cast<std::int64_t>(blockIdx.x) * tile;
  const std::int64_t begin = piece * piece_length, all = problem.k();
  const std::int64_t end = begin + piece_length < all ? begin + piece_length : all;
  const int t = static_cast<int>(threadIdx.x), row = t / side, column = t % side;
  const int left_m = t / depth, left_k = t % depth, right_n = t % tile, right_k = t / tile;
  const bool n_inside = first_n + right_n < problem.n();
  const auto fixed = problem.fix(n_inside ? first_n + right_n : 0);

  C sums[each][each] = {};
  for (std::int64_t start = begin; start < end; start += depth) {
#pragma unroll 1
    for (int m = left_m; m < tile; m += threads / depth) {
      const bool inside = first_m + m < problem.m() && start + left_k < end;
      left[m * (depth + 1) + left_k] =
          inside ? as_operand(problem.template a<C>(group, first_m + m, start + left_k), problem.c.tf32) : C(0);
    }
#pragma unroll 1
    for (int k = right_k; k < depth; k += threads / tile) {
      const bool inside = n_inside && start + k < end;
      right[k * tile + right_n] =
          inside ? as_operand(problem.template b<C>(group, start + k, fixed), problem.c.tf32) : C(0);
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < depth; ++k) {
      C x[each], y[each];
#pragma unroll
      for (int i = 0; i < each; ++i) x[i] = left[(row + side * i) * (depth + 1) + k];
#pragma unroll
      for (int j = 0; j < each; ++j) y[j] = right[k * tile + column + side * j];
#pragma unroll
      for (int i = 0; i < each; ++i)
#pragma unroll
        for (int j = 0; j < each; ++j) sums[i][j] = fma(x[i], y[j], sums[i][j]);
    }
    __syncthreads();
  }
#pragma unroll 1
  for (int i = 0; i < each; ++i) {
#pragma unroll
    for (int j = 0; j < each; ++j) right[row * tile + column + side * j] = sums[0][j];
#pragma unroll 1
    for (int j = 0; j < each; ++j) {  // its own elements, by a run-time index: one store in the program
      const std::int64_t m = first_m + row + side * i, n = first_n + column + side * j;
      if (m < problem.m() && n < problem.n()) problem.store(group, piece, m, n, right[row * tile + column + side * j]);
    }
#pragma unroll
    for (int next = 1; next < each; ++next)
#pragma unroll
      for (int j = 0; j < each; ++j) sums[next - 1][j] = sums[next][j];
  }
}

Conv describe(const TensorView& x, const TensorView& weight, const TensorView& y, DType operands,
              const kernel::ConvOptions& o) {
  const auto size = [](std::int64_t n) { return static_cast<int>(n); };
  Conv c{};
  c.x = strided(x);
  c.weight = strided(weight);
  c.y = strided(y);
  c.batch = size(x.size(0));
  c.channels = size(x.size(1) / o.groups);
  c.filters = size(y.size(1) / o.groups);
  c.h = size(x.size(2));
  c.w = size(x.size(3));
  c.oh = size(y.size(2));
  c.ow = size(y.size(3));
  c.kh = size(weight.size(2));
  c.kw = size(weight.size(3));
  for (int axis = 0; axis < 2; ++axis) {
    c.stride[axis] = size(o.stride[axis]);
    c.padding[axis] = size(o.padding[axis]);
    c.dilation[axis] = size(o.dilation[axis]);
  }
  c.tf32 = rounds_to_tf32(operands, o.precision);
  return c;
}

std::int64_t tiles(std::int64_t size) { return (size + tile - 1) / tile; }

template <class C, class Problem>
void run(const Problem& problem, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t groups,
         std::int64_t pieces, Device device) {
  const std::int64_t length = std::max<std::int64_t>(1, (k + pieces - 1) / pieces);
  check(tiles(m) <= 65535 && groups * pieces <= 65535, "conv2d: on CUDA at most 65535 groups, got ", groups);
  const LaunchConfig config{
      dim3(static_cast<unsigned>(tiles(n)), static_cast<unsigned>(tiles(m)), static_cast<unsigned>(groups * pieces)),
      dim3(threads), 0, stream_of(device)};
  launch(config, conv_kernel<C, Problem>, problem, length, static_cast<int>(pieces));
}

}  // namespace

void own_conv2d(TensorView x, TensorView weight, TensorView bias, TensorView y, kernel::ConvOptions options) {
  if (y.numel() == 0) return;
  Forward problem{describe(x, weight, y, x.dtype, options)};
  const Conv& c = problem.c;
  problem.c.relu = options.relu;
  if (bias) {
    problem.c.bias = span_of(bias);
    problem.c.bias_stride = bias.stride(0);
  }
  const auto start = [&]<class C>(C) {
    run<C>(problem, c.filters, y.size(0) * c.oh * c.ow, std::int64_t{c.channels} * c.kh * c.kw, options.groups, 1,
           y.device);
  };
  x.dtype == DType::f64 ? start(double{}) : start(float{});
}

void own_conv2d_backward_data(TensorView dy, TensorView weight, TensorView dx, kernel::ConvOptions options) {
  if (dx.numel() == 0) return;
  const BackwardData problem{describe(dx, weight, dy, dy.dtype, options)};
  const Conv& c = problem.c;
  const auto start = [&]<class C>(C) {
    run<C>(problem, c.channels, dx.size(0) * c.h * c.w, std::int64_t{c.filters} * c.kh * c.kw, options.groups, 1,
           dx.device);
  };
  dy.dtype == DType::f64 ? start(double{}) : start(float{});
}

void own_conv2d_backward_weight(TensorView x, TensorView dy, TensorView dweight, kernel::ConvOptions options) {
  if (dweight.numel() == 0) return;
  constexpr std::int64_t shortest_piece = 256, enough_blocks = 512;
  BackwardWeight problem{describe(x, dweight, dy, x.dtype, options), 0};
  Conv& c = problem.c;
  const std::int64_t n = std::int64_t{c.channels} * c.kh * c.kw, k = x.size(0) * c.oh * c.ow;
  const std::int64_t blocks = tiles(c.filters) * tiles(n) * options.groups;
  // As many pieces as occupy a GPU; their number depends on the shape alone.
  const std::int64_t pieces =
      std::clamp<std::int64_t>(std::min(k / shortest_piece, (enough_blocks + blocks - 1) / blocks), 1, 64);
  const auto start = [&]<class C>(C) {
    TensorView parts = dweight;
    std::optional<Scratch> memory;
    if (pieces > 1) {
      memory.emplace(static_cast<std::size_t>(pieces * dweight.numel()) * sizeof(C), dweight.device);
      parts.data = memory->as<std::byte>();
      parts.dtype = std::is_same_v<C, double> ? DType::f64 : DType::f32;
      parts.strides = contiguous_strides(parts.shape);
      c.weight = strided(parts);
      problem.piece_stride = dweight.numel();
    }
    run<C>(problem, c.filters, n, k, options.groups, pieces, dweight.device);
    if (pieces == 1) return;
    TensorView whole = dweight;  // [1, ...] from [pieces, ...]
    whole.shape.insert(0, 1);
    whole.strides.insert(0, 0);
    parts.shape.insert(0, pieces);
    parts.strides.insert(0, dweight.numel());
    kernel::sum(parts, whole, 1, false);
  };
  x.dtype == DType::f64 ? start(double{}) : start(float{});
}

}  // namespace binade::cuda
