// Convolution as matrix products: the input under each output position becomes a column, tile by tile, so that the
// columns stay in cache. One path for all dtypes; sums have one order whatever the number of threads.
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

// x contiguous, in the dtype that is computed in: itself, or a copy. f32 operands of products are rounded to TF32 where
// the precision says so.
class Contiguous {
 public:
  Contiguous(const TensorView& x, DType dtype, MatmulPrecision precision = MatmulPrecision::highest) : view(x) {
    const bool tf32 = x.dtype == DType::f32 && precision == MatmulPrecision::high;
    if (!tf32 && x.dtype == dtype && x.is_contiguous()) return;
    view.dtype = dtype;
    view.strides = contiguous_strides(x.shape);
    memory_.emplace(static_cast<std::size_t>(x.numel() * size_of(dtype)), Device{});
    view.data = memory_->as<std::byte>();
    kernel::copy(x, view);
    if (tf32)
      parallel_for(view.numel(), elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
        round_to_tf32(view.as<float>() + begin, view.as<float>() + begin, end - begin);
      });
  }
  TensorView view;

 private:
  std::optional<Scratch> memory_;
};

// Where a result is computed: the output itself, or memory that is converted into it at the end.
class Result {
 public:
  Result(const TensorView& target, DType dtype) : view(target), target_(target) {
    if (target.dtype == dtype && target.is_contiguous()) return;
    view.dtype = dtype;
    view.strides = contiguous_strides(target.shape);
    memory_.emplace(static_cast<std::size_t>(target.numel() * size_of(dtype)), Device{});
    view.data = memory_->as<std::byte>();
  }
  void finish() const {
    if (memory_) kernel::copy(view, target_);
  }
  TensorView view;

 private:
  TensorView target_;
  std::optional<Scratch> memory_;
};

struct Geometry {  // x [batch, groups * channels, h, w], y [batch, groups * filters, oh, ow]
  std::int64_t batch, groups, channels, h, w, filters, oh, ow, kh, kw;
  kernel::ConvOptions options;
  Geometry(const TensorView& x, const TensorView& weight, const TensorView& y, const kernel::ConvOptions& chosen)
      : batch(x.size(0)),
        groups(chosen.groups),
        channels(x.size(1) / chosen.groups),
        h(x.size(2)),
        w(x.size(3)),
        filters(y.size(1) / chosen.groups),
        oh(y.size(2)),
        ow(y.size(3)),
        kh(weight.size(2)),
        kw(weight.size(3)),
        options(chosen) {}
  std::int64_t positions() const { return oh * ow; }
  std::int64_t depth() const { return channels * kh * kw; }  // length of a column
  std::int64_t tile() const {                                // output positions at a time
    constexpr std::int64_t elements = 65536;
    return std::clamp(elements / std::max<std::int64_t>(depth(), 1), std::int64_t{32}, std::int64_t{1024});
  }
  std::int64_t tiles() const { return chunk_count(positions(), tile()); }

  // body(row of the columns matrix, position in the tile, offset in x's [channels, h, w]) for all that lie inside x.
  template <class Body>
  void each_inside(std::int64_t begin, std::int64_t end, const Body& body) const {
    for (std::int64_t row = 0; row < depth(); ++row) {
      const std::int64_t c = row / (kh * kw), i = row / kw % kh, j = row % kw;
      for (std::int64_t p = begin; p < end;) {
        const std::int64_t y_row = p / ow, row_end = std::min(end, (y_row + 1) * ow);
        const std::int64_t x_row = y_row * options.stride[0] - options.padding[0] + i * options.dilation[0];
        if (x_row < 0 || x_row >= h) {
          p = row_end;
          continue;
        }
        std::int64_t column = p % ow * options.stride[1] - options.padding[1] + j * options.dilation[1];
        for (; p < row_end; ++p, column += options.stride[1])
          if (column >= 0 && column < w) body(row, p - begin, (c * h + x_row) * w + column);
      }
    }
  }
  template <class S>
  void gather(const S* x, std::int64_t begin, std::int64_t end, S* columns) const {  // columns [depth, end - begin]
    const std::int64_t width = end - begin;
    std::fill_n(columns, depth() * width, S(0));
    each_inside(begin, end, [=](std::int64_t row, std::int64_t p, std::int64_t at) { columns[row * width + p] = x[at]; });
  }
  template <class S>
  void scatter(const S* columns, std::int64_t begin, std::int64_t end, S* x) const {
    const std::int64_t width = end - begin;
    each_inside(begin, end, [=](std::int64_t row, std::int64_t p, std::int64_t at) { x[at] += columns[row * width + p]; });
  }
};

template <class S>
void forward(const TensorView& x, const TensorView& weight, const TensorView& bias, const TensorView& y,
             const kernel::ConvOptions& options) {
  constexpr DType dtype = dtype_of<S>;
  const Geometry g(x, weight, y, options);
  if (y.numel() == 0) return;
  const Contiguous input(x, dtype, options.precision), weights(weight, dtype, options.precision);
  std::optional<Contiguous> biases;
  if (bias) biases.emplace(bias, dtype);
  const Result result(y, dtype);
  parallel_for(g.batch * g.groups * g.tiles(), 1, [&](std::int64_t task, std::int64_t) {
    const std::int64_t begin = task % g.tiles() * g.tile(), end = std::min(g.positions(), begin + g.tile());
    const std::int64_t item = task / g.tiles(), group = item % g.groups, width = end - begin;  // item: batch and group
    const Scratch columns(static_cast<std::size_t>(g.depth() * width) * sizeof(S), Device{});
    g.gather(input.view.as<S>() + item * g.channels * g.h * g.w, begin, end, columns.as<S>());
    S* out = result.view.as<S>() + item * g.filters * g.positions() + begin;
    multiply_block(g.filters, width, g.depth(),
                   {weights.view.as<S>() + group * g.filters * g.depth(), dtype, g.depth(), 1},
                   {columns.as<S>(), dtype, width, 1}, nullptr, {out, dtype, g.positions(), 1}, false);
    if (!biases && !options.relu) return;
    for (std::int64_t f = 0; f < g.filters; ++f) {
      S* line = out + f * g.positions();
      const S add = biases ? biases->view.as<S>()[group * g.filters + f] : S(0);
      for (std::int64_t p = 0; p < width; ++p) {
        const S sum = line[p] + add;
        line[p] = options.relu && sum <= 0 ? S(0) : sum;
      }
    }
  });
  result.finish();
}

template <class S>
void backward_data(const TensorView& dy, const TensorView& weight, const TensorView& dx,
                   const kernel::ConvOptions& options) {
  constexpr DType dtype = dtype_of<S>;
  const Geometry g(dx, weight, dy, options);
  if (dx.numel() == 0) return;
  const Contiguous gradient(dy, dtype, options.precision), weights(weight, dtype, options.precision);
  const Result result(dx, dtype);
  parallel_for(g.batch * g.groups, 1, [&](std::int64_t item, std::int64_t) {
    const std::int64_t group = item % g.groups;
    S* out = result.view.as<S>() + item * g.channels * g.h * g.w;
    std::fill_n(out, g.channels * g.h * g.w, S(0));
    const Scratch columns(static_cast<std::size_t>(g.depth() * std::min(g.tile(), g.positions())) * sizeof(S), Device{});
    for (std::int64_t begin = 0; begin < g.positions(); begin += g.tile()) {
      const std::int64_t end = std::min(g.positions(), begin + g.tile()), width = end - begin;
      multiply_block(g.depth(), width, g.filters,
                     {weights.view.as<S>() + group * g.filters * g.depth(), dtype, 1, g.depth()},
                     {gradient.view.as<S>() + item * g.filters * g.positions() + begin, dtype, g.positions(), 1}, nullptr,
                     {columns.as<S>(), dtype, width, 1}, false);
      g.scatter(columns.as<S>(), begin, end, out);
    }
  });
  result.finish();
}

template <class S>
void backward_weight(const TensorView& x, const TensorView& dy, const TensorView& dweight,
                     const kernel::ConvOptions& options) {
  constexpr DType dtype = dtype_of<S>;
  constexpr std::int64_t most_pieces = 16;
  const Geometry g(x, dweight, dy, options);
  const std::int64_t units = g.batch * g.tiles(), pieces = std::min(units, most_pieces), size = dweight.numel();
  if (size == 0) return;
  if (units == 0) {
    kernel::fill(dweight, 0);
    return;
  }
  const Contiguous input(x, dtype, options.precision), gradient(dy, dtype, options.precision);
  const Result result(dweight, dtype);
  // Each piece sums its own share of (batch, tile) units; the pieces are then added in order.
  const Scratch partial(static_cast<std::size_t>(pieces * size) * sizeof(S), Device{});
  const std::int64_t share = chunk_count(units, pieces), group_size = size / g.groups;
  parallel_for(pieces * g.groups, 1, [&](std::int64_t task, std::int64_t) {
    const std::int64_t group = task % g.groups, piece = task / g.groups;
    S* sums = partial.as<S>() + piece * size + group * group_size;
    std::fill_n(sums, group_size, S(0));
    const Scratch columns(static_cast<std::size_t>(g.depth() * std::min(g.tile(), g.positions())) * sizeof(S), Device{});
    for (std::int64_t unit = piece * share; unit < std::min(units, (piece + 1) * share); ++unit) {
      const std::int64_t item = unit / g.tiles() * g.groups + group;
      const std::int64_t begin = unit % g.tiles() * g.tile(), end = std::min(g.positions(), begin + g.tile());
      g.gather(input.view.as<S>() + item * g.channels * g.h * g.w, begin, end, columns.as<S>());
      multiply_block(g.filters, g.depth(), end - begin,
                     {gradient.view.as<S>() + item * g.filters * g.positions() + begin, dtype, g.positions(), 1},
                     {columns.as<S>(), dtype, 1, end - begin}, nullptr, {sums, dtype, g.depth(), 1}, true);
    }
  });
  parallel_for(size, elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
    S* out = result.view.as<S>();
    std::copy(partial.as<S>() + begin, partial.as<S>() + end, out + begin);
    for (std::int64_t piece = 1; piece < pieces; ++piece)
      for (std::int64_t i = begin; i < end; ++i) out[i] += partial.as<S>()[piece * size + i];
  });
  result.finish();
}

void conv2d(TensorView x, TensorView weight, TensorView bias, TensorView y, kernel::ConvOptions options) {
  x.dtype == DType::f64 ? forward<double>(x, weight, bias, y, options) : forward<float>(x, weight, bias, y, options);
}
void conv2d_backward_data(TensorView dy, TensorView weight, TensorView dx, kernel::ConvOptions options) {
  dy.dtype == DType::f64 ? backward_data<double>(dy, weight, dx, options) : backward_data<float>(dy, weight, dx, options);
}
void conv2d_backward_weight(TensorView x, TensorView dy, TensorView dweight, kernel::ConvOptions options) {
  x.dtype == DType::f64 ? backward_weight<double>(x, dy, dweight, options)
                        : backward_weight<float>(x, dy, dweight, options);
}

}  // namespace

void provide_conv() {
  kernel::conv2d.provide(DeviceType::cpu, conv2d);
  kernel::conv2d_backward_data.provide(DeviceType::cpu, conv2d_backward_data);
  kernel::conv2d_backward_weight.provide(DeviceType::cpu, conv2d_backward_weight);
}

}  // namespace binade::cpu
