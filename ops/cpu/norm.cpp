// layer_norm, rms_norm (both also with the sum they are taken of) and batch_norm with gradients. With
// xhat = (x - mean) rstd and g = dy weight, all three have dx = rstd (g - mean(g) - xhat mean(g xhat)), without the
// first mean for rms_norm.
#include "binade/core/backend/batch_norm_parts.h"
#include "binade/core/backend/kernels.h"
#include "binade/ops/cpu/random.h"
#include "binade/ops/cpu/row_math.h"
#include "binade/ops/cpu/threads.h"

namespace binade::cpu {
namespace {

std::int64_t rows_per_chunk(std::int64_t n) {
  return std::max<std::int64_t>(1, elementwise_grain / 2 / std::max<std::int64_t>(n, 1));
}
template <class T>
std::vector<Compute<T>> room_for(std::int64_t n) {  // rows of 16-bit types are widened into it
  return std::vector<Compute<T>>(static_cast<std::size_t>(is_narrow_float<T> ? n : 0));
}
template <class C>
const C* or_null(const std::vector<C>& values) {
  return values.empty() ? nullptr : values.data();
}
template <class C>
C inverse_root(double variance, double eps) {
  return static_cast<C>(1 / std::sqrt(variance + eps));
}

// What a norm is taken of, where its kernel computes that too: residual + dropout(branch).
struct Summands {
  TensorView residual, branch;
  double dropout;
  PhiloxState state;
};
// Writes rows of the sum, or nothing without summands.
template <class C>
class RowSum {
 public:
  RowSum(const Summands* of, std::int64_t n) : of_(of), n_(n) {
    if (!of) return;
    if (of->residual.dtype != dtype_of<C>) residual_room_.resize(static_cast<std::size_t>(n));
    if (of->branch.dtype != dtype_of<C>) branch_room_.resize(static_cast<std::size_t>(n));
    if (of->dropout > 0) dropped_.resize(static_cast<std::size_t>(n * size_of(of->branch.dtype)));
  }
  template <class T>
  void write(std::int64_t r, T* to) {
    if (!of_) return;
    const auto& [residual, branch, p, state] = *of_;
    const std::byte* dropped = row_of(branch, r);
    if (p > 0) {
      dropout_run(dropped, dropped_.data(), branch.dtype, r * n_, n_, state, p);
      dropped = dropped_.data();
    }
    C* sum = row_for(to, residual_room_.data());  // a 16-bit sum is one of 16-bit rows
    row_add(values(row_of(residual, r), residual.dtype, residual_room_), values(dropped, branch.dtype, branch_room_),
            sum, n_);
    row_out(sum, to, n_);
  }

 private:
  const std::byte* row_of(const TensorView& x, std::int64_t r) const { return x.data + r * n_ * size_of(x.dtype); }
  const C* values(const std::byte* row, DType dtype, std::vector<C>& room) const {
    if (dtype == dtype_of<C>) return reinterpret_cast<const C*>(row);
    read_run(row, dtype, 1, n_, room.data());
    return room.data();
  }
  const Summands* of_;
  std::int64_t n_;
  std::vector<C> residual_room_, branch_room_;
  std::vector<std::byte> dropped_;
};

// layer_norm where mean is given, else rms_norm; x is computed first where it is a sum.
void norm_rows(const TensorView& x, const TensorView& weight, const TensorView& bias, const TensorView& y,
               const TensorView& mean, const TensorView& rstd, double eps, const Summands* summands = nullptr) {
  const std::int64_t rows = x.size(0), n = x.size(1);
  if (rows * n == 0) return;
  with_float_type(x.dtype, "norm", [&]<class T>() {
    with_float_type(y.dtype, "norm", [&]<class Y>() {
      using C = Compute<T>;
      if constexpr (std::is_same_v<C, Compute<Y>>) {
        const std::vector<C> w = values_of<C>(weight), b = values_of<C>(bias);
        parallel_for(rows, rows_per_chunk(n), [&](std::int64_t begin, std::int64_t end) {
          std::vector<C> room = room_for<T>(n), out_room = room_for<Y>(n);
          RowSum<C> sum(summands, n);
          for (std::int64_t r = begin; r < end; ++r) {
            sum.write(r, x.as<T>() + r * n);
            const C* in = row_in(x.as<T>() + r * n, n, room.data());
            C* out = row_for(y.as<Y>() + r * n, out_room.data());
            const C m = mean ? row_sum(in, n) / static_cast<C>(n) : C(0);
            const C s = inverse_root<C>(static_cast<double>(row_squares(in, m, n)) / static_cast<double>(n), eps);
            row_normalize(in, m, s, or_null(w), or_null(b), out, n);
            row_out(out, y.as<Y>() + r * n, n);
            if (mean) mean.as<C>()[r] = m;
            if (rstd) rstd.as<C>()[r] = s;
          }
        });
      } else {
        fail({"norm: y must not mix f64 with other dtypes, x is ", to_text(x.dtype), ", y is ", to_text(y.dtype)});
      }
    });
  });
}

// body.operator()<T, G>() for the dtypes of x and dy: the same, or a narrower dy of an f32 x.
template <class Body>
void with_norm_types(DType x, DType dy, const Body& body) {
  if (x == DType::f32 && dy == DType::bf16) return body.template operator()<float, BFloat16>();
  if (x == DType::f32 && dy == DType::f16) return body.template operator()<float, Half>();
  check(x == dy, "norm: a gradient in ", dy, " for x in ", x);
  with_float_type(x, "norm", [&]<class T>() { body.template operator()<T, T>(); });
}

void norm_rows_backward(const TensorView& x, const TensorView& weight, const TensorView& mean, const TensorView& rstd,
                        const TensorView& dy, const TensorView& dx, const TensorView& dweight, const TensorView& dbias,
                        kernel::NormAccumulate accumulate) {
  const std::int64_t rows = x.size(0), n = x.size(1);
  if (n == 0) return;
  with_norm_types(x.dtype, dy.dtype, [&]<class T, class G>() {
    using C = Compute<T>;
    const std::vector<C> w = values_of<C>(weight);
    // A few partial sums of the columns per processor, of as many rows each.
    const std::int64_t rows_each = std::max<std::int64_t>(rows_per_chunk(n), chunk_count(rows, 4 * machine_processors()));
    const std::int64_t chunks = chunk_count(rows, rows_each);
    std::vector<C> dw(static_cast<std::size_t>(dweight ? chunks * n : 0)),
        db(static_cast<std::size_t>(dbias ? chunks * n : 0));
    parallel_for(rows, rows_each, [&](std::int64_t begin, std::int64_t end) {
      std::vector<C> room = room_for<T>(n), grad_room = room_for<G>(n), out_room = room_for<T>(n);
      C* dw_chunk = dweight ? dw.data() + begin / rows_each * n : nullptr;
      C* db_chunk = dbias ? db.data() + begin / rows_each * n : nullptr;
      for (std::int64_t r = begin; r < end; ++r) {
        const C* in = row_in(x.as<T>() + r * n, n, room.data());
        const C* grad = row_in(dy.as<G>() + r * n, n, grad_room.data());
        const C m = mean ? mean.as<C>()[r] : C(0), s = rstd.as<C>()[r];
        const NormSums sums = row_norm_sums(in, grad, m, s, or_null(w), dw_chunk, db_chunk, n);
        if (!dx) continue;
        const C c1 = mean ? static_cast<C>(sums.g / static_cast<double>(n)) : C(0);
        const C c2 = static_cast<C>(sums.g_xhat / static_cast<double>(n));
        T* target = dx.as<T>() + r * n;
        C* out = row_for(target, out_room.data());
        if (accumulate.x) row_in(target, n, out_room.data());
        row_norm_grad(in, grad, m, s, or_null(w), c1, c2, s, accumulate.x, out, n);
        row_out(out, target, n);
      }
    });
    const auto combine = [&](const std::vector<C>& partial, const TensorView& out) {
      if (!out) return;
      std::vector<double> sum(static_cast<std::size_t>(n));
      parallel_for(n, 512, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t c = 0; c < chunks; ++c) {
          for (std::int64_t j = begin; j < end; ++j) {
            sum[static_cast<std::size_t>(j)] += static_cast<double>(partial[static_cast<std::size_t>(c * n + j)]);
          }
        }
      });
      store_values(sum.data(), out, accumulate.parameters);
    };
    combine(dw, dweight);
    combine(db, dbias);
  });
}

// One channel of [outer, channels, inner] as slices of contiguous values; short ones are gathered into a single slice.
template <class T>
struct Channel {
  using C = Compute<T>;
  std::int64_t outer, channels, inner, channel;
  bool gathered = inner < 16;
  std::int64_t slices() const { return gathered ? 1 : outer; }
  std::int64_t width() const { return gathered ? outer * inner : inner; }
  std::int64_t at(std::int64_t o) const { return (o * channels + channel) * inner; }
  std::vector<C> room() const { return std::vector<C>(static_cast<std::size_t>(width())); }

  const C* read(const T* x, std::int64_t slice, C* to) const {
    if (!gathered) return row_in(x + at(slice), inner, to);
    for (std::int64_t o = 0; o < outer; ++o) {
      for (std::int64_t i = 0; i < inner; ++i) to[o * inner + i] = static_cast<C>(x[at(o) + i]);
    }
    return to;
  }
  C* place(T* y, std::int64_t slice, C* buffer) const { return gathered ? buffer : row_for(y + at(slice), buffer); }
  void write(const C* row, T* y, std::int64_t slice) const {
    if (!gathered) return row_out(row, y + at(slice), inner);
    for (std::int64_t o = 0; o < outer; ++o) {
      for (std::int64_t i = 0; i < inner; ++i) y[at(o) + i] = static_cast<T>(row[o * inner + i]);
    }
  }
};
// body(channel's slices) for every channel of x.
template <class T, class Body>
void for_channels(const TensorView& x, const Body& body) {
  const std::int64_t outer = x.size(0), channels = x.size(1), inner = x.size(2);
  const std::int64_t grain =
      std::max<std::int64_t>(1, elementwise_grain / 2 / std::max<std::int64_t>(outer * inner, 1));
  parallel_for(channels, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) body(Channel<T>{outer, channels, inner, c}, c);
  });
}

void batch_norm_statistics(TensorView x, TensorView mean, TensorView var, TensorView rstd, double eps) {
  const double count = static_cast<double>(x.size(0) * x.size(2));
  with_float_type(x.dtype, "batch_norm", [&]<class T>() {
    using C = Compute<T>;
    for_channels<T>(x, [&](const Channel<T>& channel, std::int64_t c) {
      std::vector<C> room = channel.room();
      double sum = 0, squares = 0;
      for (std::int64_t i = 0; i < channel.slices(); ++i) {
        sum += static_cast<double>(row_sum(channel.read(x.as<T>(), i, room.data()), channel.width()));
      }
      const C m = static_cast<C>(sum / count);
      for (std::int64_t i = 0; i < channel.slices(); ++i) {
        squares += static_cast<double>(row_squares(channel.read(x.as<T>(), i, room.data()), m, channel.width()));
      }
      if (mean) mean.as<C>()[c] = m;
      if (var) var.as<C>()[c] = static_cast<C>(squares / count);
      if (rstd) rstd.as<C>()[c] = inverse_root<C>(squares / count, eps);
    });
  });
}

void batch_norm(TensorView x, TensorView mean, TensorView rstd, TensorView weight, TensorView bias, TensorView y) {
  if (x.numel() == 0) return;
  with_float_type(x.dtype, "batch_norm", [&]<class T>() {
    using C = Compute<T>;
    const std::vector<C> w = values_of<C>(weight), b = values_of<C>(bias);
    for_channels<T>(x, [&](const Channel<T>& channel, std::int64_t c) {
      const auto at = static_cast<std::size_t>(c);
      std::vector<C> room = channel.room();
      const C m = mean.as<C>()[c], s = rstd.as<C>()[c];
      for (std::int64_t i = 0; i < channel.slices(); ++i) {
        const C* in = channel.read(x.as<T>(), i, room.data());
        C* out = channel.place(y.as<T>(), i, room.data());
        row_affine(in, m, w.empty() ? s : s * w[at], b.empty() ? C(0) : b[at], out, channel.width());
        channel.write(out, y.as<T>(), i);
      }
    });
  });
}

void batch_norm_backward(TensorView x, TensorView mean, TensorView rstd, TensorView weight, TensorView dy,
                         TensorView dx, TensorView dweight, TensorView dbias, bool training) {
  const double count = static_cast<double>(x.size(0) * x.size(2));
  with_float_type(x.dtype, "batch_norm", [&]<class T>() {
    using C = Compute<T>;
    const std::vector<C> w = values_of<C>(weight);
    std::vector<double> dw(static_cast<std::size_t>(x.size(1))), db(dw.size());
    for_channels<T>(x, [&](const Channel<T>& channel, std::int64_t c) {
      const auto at = static_cast<std::size_t>(c);
      std::vector<C> room = channel.room(), grad_room = channel.room();
      const C m = mean.as<C>()[c], s = rstd.as<C>()[c];
      NormSums sums;
      for (std::int64_t i = 0; i < channel.slices(); ++i) {
        const NormSums part =
            row_norm_sums(channel.read(x.as<T>(), i, room.data()), channel.read(dy.as<T>(), i, grad_room.data()), m, s,
                          nullptr, nullptr, nullptr, channel.width());
        sums.g += part.g;
        sums.g_xhat += part.g_xhat;
      }
      dw[at] = sums.g_xhat;
      db[at] = sums.g;
      if (!dx) return;
      const C c1 = training ? static_cast<C>(sums.g / count) : C(0);
      const C c2 = training ? static_cast<C>(sums.g_xhat / count) : C(0);
      for (std::int64_t i = 0; i < channel.slices(); ++i) {
        const C* in = channel.read(x.as<T>(), i, room.data());
        const C* grad = channel.read(dy.as<T>(), i, grad_room.data());
        C* out = channel.place(dx.as<T>(), i, room.data());
        row_norm_grad(in, grad, m, s, static_cast<const C*>(nullptr), c1, c2, w.empty() ? s : s * w[at], false,
                      out, channel.width());
        channel.write(out, dx.as<T>(), i);
      }
    });
    store_values(dw.data(), dweight, false);
    store_values(db.data(), dbias, false);
  });
}

void layer_norm(TensorView x, TensorView weight, TensorView bias, TensorView y, TensorView mean, TensorView rstd,
                double eps) {
  norm_rows(x, weight, bias, y, mean, rstd, eps);
}
void layer_norm_backward(TensorView x, TensorView weight, TensorView mean, TensorView rstd, TensorView dy,
                         TensorView dx, TensorView dweight, TensorView dbias,
                         kernel::NormAccumulate accumulate) {
  norm_rows_backward(x, weight, mean, rstd, dy, dx, dweight, dbias, accumulate);
}
void rms_norm(TensorView x, TensorView weight, TensorView y, TensorView rstd, double eps) {
  norm_rows(x, weight, {}, y, {}, rstd, eps);
}
void rms_norm_backward(TensorView x, TensorView weight, TensorView rstd, TensorView dy, TensorView dx,
                       TensorView dweight, kernel::NormAccumulate accumulate) {
  norm_rows_backward(x, weight, {}, rstd, dy, dx, dweight, {}, accumulate);
}

void add_norm(TensorView residual, TensorView branch, TensorView weight, TensorView bias, TensorView sum, TensorView y,
              TensorView mean, TensorView rstd, kernel::AddNormOptions options) {
  const Summands summands{residual, branch, options.dropout, options.state};
  norm_rows(sum, weight, bias, y, mean, rstd, options.eps, &summands);
}

}  // namespace

void provide_norm() {
  kernel::layer_norm.provide(DeviceType::cpu, layer_norm);
  kernel::layer_norm_backward.provide(DeviceType::cpu, layer_norm_backward);
  kernel::rms_norm.provide(DeviceType::cpu, rms_norm);
  kernel::rms_norm_backward.provide(DeviceType::cpu, rms_norm_backward);
  kernel::add_norm.provide(DeviceType::cpu, add_norm);
  kernel::batch_norm_statistics.provide(DeviceType::cpu, batch_norm_statistics);
  kernel::batch_norm.provide(DeviceType::cpu, batch_norm);
  kernel::batch_norm_training.provide(DeviceType::cpu, batch_norm_training_by_parts);
  kernel::batch_norm_backward.provide(DeviceType::cpu, batch_norm_backward);
}

}  // namespace binade::cpu
