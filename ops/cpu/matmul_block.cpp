// multiply_block: chooses the library, the f64 kernel or, for the smallest products, plain loops.
#include "binade/ops/cpu/matmul_block.h"

#include <algorithm>

#include "binade/core/backend/memory.h"
#include "binade/core/base/scalar.h"

namespace binade::cpu {

namespace {

struct Sizes {
  std::int64_t m, n, k;
};

template <class T>
struct Elements {  // typed access to a block
  T* data;
  std::int64_t row_stride, column_stride;
  explicit Elements(const MatrixBlock& block)
      : data(static_cast<T*>(const_cast<void*>(block.data))),
        row_stride(block.row_stride),
        column_stride(block.column_stride) {}
  T& operator()(std::int64_t i, std::int64_t j) const { return data[i * row_stride + j * column_stride]; }
};

// c = bias, or c = 0, or nothing when accumulating without bias.
template <class T, class S>
void start(Sizes s, const S* bias, Elements<T> c, bool accumulate) {
  for (std::int64_t i = 0; i < s.m; ++i)
    for (std::int64_t j = 0; j < s.n; ++j) {
      const S before = accumulate ? convert<S>(c(i, j)) : S(0);
      c(i, j) = convert<T>(bias ? before + bias[j] : before);
    }
}

// For products so small that calling the library costs more than the product.
void multiply_tiny(Sizes s, Elements<float> a, Elements<float> b, const float* bias, Elements<float> c,
                   bool accumulate) {
  for (std::int64_t i = 0; i < s.m; ++i)
    for (std::int64_t j = 0; j < s.n; ++j) {
      float sum = 0;
      for (std::int64_t l = 0; l < s.k; ++l) sum += a(i, l) * b(l, j);
      if (bias) sum += bias[j];
      c(i, j) = accumulate ? c(i, j) + sum : sum;
    }
}

// f64: panels of 4 rows and 4 columns packed so that the inner loop reads memory in order; k in slices that stay in
// cache. The order of every sum depends on the shape alone.
void multiply_f64(Sizes s, Elements<double> a, Elements<double> b, Elements<double> c) {
  constexpr std::int64_t width = 4, slice = 256;
  const std::int64_t panels = (s.n + width - 1) / width;
  const Scratch memory(static_cast<std::size_t>((panels + 1) * width * std::min(slice, s.k)) * sizeof(double), Device{});
  double* rows = memory.as<double>();
  double* columns = rows + width * std::min(slice, s.k);
  for (std::int64_t k0 = 0; k0 < s.k; k0 += slice) {
    const std::int64_t depth = std::min(slice, s.k - k0);
    for (std::int64_t p = 0; p < panels; ++p)
      for (std::int64_t l = 0; l < depth; ++l)
        for (std::int64_t j = 0; j < width; ++j)
          columns[(p * depth + l) * width + j] = p * width + j < s.n ? b(k0 + l, p * width + j) : 0.0;
    for (std::int64_t i0 = 0; i0 < s.m; i0 += width) {
      const std::int64_t height = std::min(width, s.m - i0);
      for (std::int64_t l = 0; l < depth; ++l)
        for (std::int64_t i = 0; i < width; ++i) rows[l * width + i] = i < height ? a(i0 + i, k0 + l) : 0.0;
      for (std::int64_t p = 0; p < panels; ++p) {
        double sums[width][width] = {};
        const double* column = columns + p * depth * width;
        for (std::int64_t l = 0; l < depth; ++l)
          for (int i = 0; i < width; ++i)
            for (int j = 0; j < width; ++j) sums[i][j] += rows[l * width + i] * column[l * width + j];
        const std::int64_t valid = std::min(width, s.n - p * width);
        for (std::int64_t i = 0; i < height; ++i)
          for (std::int64_t j = 0; j < valid; ++j) c(i0 + i, p * width + j) += sums[i][j];
      }
    }
  }
}

}  // namespace

void multiply_block(std::int64_t m, std::int64_t n, std::int64_t k, MatrixBlock a, MatrixBlock b, const void* bias,
                    MatrixBlock c, bool accumulate) {
  constexpr std::int64_t tiny = 512;  // multiplications
  if (m == 0 || n == 0) return;
  const Sizes sizes{m, n, k};
  if (a.dtype == DType::f64) {
    start(sizes, static_cast<const double*>(bias), Elements<double>(c), accumulate);
    if (k > 0) multiply_f64(sizes, Elements<double>(a), Elements<double>(b), Elements<double>(c));
  } else if (k == 0) {
    with_float_type(c.dtype, "matmul", [&]<class T> {
      if constexpr (!std::is_same_v<T, double>)
        start(sizes, static_cast<const float*>(bias), Elements<T>(c), accumulate);
    });
  } else if (a.dtype == DType::f32 && c.dtype == DType::f32 && m * n * k <= tiny) {
    multiply_tiny(sizes, Elements<float>(a), Elements<float>(b), static_cast<const float*>(bias), Elements<float>(c),
                  accumulate);
  } else {
    multiply_block_onednn(m, n, k, a, b, bias, c, accumulate);
  }
}

}  // namespace binade::cpu
