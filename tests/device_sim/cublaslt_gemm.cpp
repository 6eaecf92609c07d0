// D = epilogue(alpha op(A) op(B) + beta C): operands widened exactly, summed in FP32 (FP64 for f64), D rounded once.
// TF32 operands are rounded to 10 bits of mantissa, to nearest even.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <bit>
#include <cmath>

#include "cublaslt.h"

namespace simt::lt {

namespace {

float to_tf32(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7f800000U) == 0x7f800000U) return x;
  return std::bit_cast<float>((bits + 0xfffU + (bits >> 13 & 1U)) & ~0x1fffU);
}

template <class C>
C load(const void* data, cudaDataType_t type, std::int64_t i) {
  switch (type) {
    case CUDA_R_64F: return static_cast<C>(static_cast<const double*>(data)[i]);
    case CUDA_R_32F: return static_cast<C>(static_cast<const float*>(data)[i]);
    case CUDA_R_16BF: return static_cast<C>(__bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]));
    case CUDA_R_16F: return static_cast<C>(__half2float(static_cast<const __half*>(data)[i]));
    case CUDA_R_8F_E4M3: return static_cast<C>(static_cast<float>(static_cast<const __nv_fp8_e4m3*>(data)[i]));
    default: return static_cast<C>(static_cast<float>(static_cast<const __nv_fp8_e5m2*>(data)[i]));
  }
}
template <class C>
void store(void* data, cudaDataType_t type, std::int64_t i, C value) {
  const auto narrow = static_cast<float>(value);
  switch (type) {
    case CUDA_R_64F: static_cast<double*>(data)[i] = static_cast<double>(value); return;
    case CUDA_R_32F: static_cast<float*>(data)[i] = narrow; return;
    case CUDA_R_16BF: static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16(narrow); return;
    case CUDA_R_16F: static_cast<__half*>(data)[i] = __float2half(narrow); return;
    case CUDA_R_8F_E4M3: static_cast<__nv_fp8_e4m3*>(data)[i] = __nv_fp8_e4m3(narrow); return;
    default: static_cast<__nv_fp8_e5m2*>(data)[i] = __nv_fp8_e5m2(narrow); return;
  }
}

// The tanh form that the library documents for its GELU.
constexpr double gelu_scale = 0.7978845608028654, gelu_cubic = 0.044715;
template <class C>
C gelu(C x) {
  return C(0.5) * x * (C(1) + std::tanh(C(gelu_scale) * (x + C(gelu_cubic) * x * x * x)));
}
template <class C>
C gelu_gradient(C x) {
  const C t = std::tanh(C(gelu_scale) * (x + C(gelu_cubic) * x * x * x));
  return C(0.5) * (C(1) + t) + C(0.5) * x * (C(1) - t * t) * C(gelu_scale) * (C(1) + C(3 * gelu_cubic) * x * x);
}

// a [m][k], b [n][k] -> product [n][m], the terms from `first` to `last`. Eight partial sums per element, so that the compiler can vectorise; their
// number is part of the result's rounding and the same everywhere.
template <class C>
void multiply(const C* a, const C* b, C* product, std::int64_t m, std::int64_t n, std::int64_t k,
              std::int64_t first, std::int64_t last) {
  constexpr int lanes = 8;
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t i = 0; i < m; ++i) {
      const C *x = a + i * k, *y = b + j * k;
      C sums[lanes] = {};
      std::int64_t p = first;
      for (; p + lanes <= last; p += lanes) {
        for (int l = 0; l < lanes; ++l) sums[l] += x[p + l] * y[p + l];
      }
      for (int l = 0; p < last; ++p, ++l) sums[l] += x[p] * y[p];
      C total = 0;
      for (const C s : sums) total += s;
      product[j * m + i] = total;
    }
  }
}

// The product, its sums cut in two where the way says so; parts that are kept in D's type are rounded to it.
template <class C>
void multiply(const Problem& p, std::size_t way, const std::vector<C>& a, const std::vector<C>& b, std::vector<C>& product) {
  const auto m = static_cast<std::int64_t>(p.m), n = static_cast<std::int64_t>(p.n), k = static_cast<std::int64_t>(p.k);
  const std::uint32_t reduction = ways[way].reduction;
  const std::int64_t middle = reduction == CUBLASLT_REDUCTION_SCHEME_NONE ? k : k / 2;
  multiply(a.data(), b.data(), product.data(), m, n, k, std::int64_t{0}, middle);
  if (middle == k) return;
  std::vector<C> rest(product.size());
  multiply(a.data(), b.data(), rest.data(), m, n, k, middle, k);
  for (std::size_t i = 0; i < product.size(); ++i) {
    if (reduction != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) {
      for (C* part : {&product[i], &rest[i]}) {
        double rounded = 0;
        store(&rounded, p.d.type, 0, *part);
        *part = load<C>(&rounded, p.d.type, 0);
      }
    }
    product[i] += rest[i];
  }
}

struct Matrix {  // m x n, column-major, batches
  const void* data;
  cudaDataType_t type;
  std::int64_t rows, cols, ld, stride;
  std::int32_t batches;
};
Matrix matrix_of(const void* data, const Layout& l) {
  return {data, l.type, static_cast<std::int64_t>(l.rows), static_cast<std::int64_t>(l.cols), l.ld, l.batch_stride(), l.batches()};
}

bool touch(const OperationContext& context, const char* what, const Matrix& x, Access access) {
  const auto size = static_cast<std::int64_t>(bytes_of(x.type));
  count_library_bytes(static_cast<std::size_t>((x.stride ? x.batches : 1) * x.rows * x.cols * size), access);
  for (std::int32_t q = 0; q < (x.stride ? x.batches : 1); ++q) {
    const char* start = static_cast<const char*>(x.data) + q * x.stride * size;
    if (x.ld == x.rows) {
      if (!check_range(context.user(what), start, static_cast<std::size_t>(x.rows * x.cols * size), access)) return false;
      continue;
    }
    for (std::int64_t j = 0; j < x.cols; ++j) {
      if (!check_range(context.user(what), start + j * x.ld * size, static_cast<std::size_t>(x.rows * size), access)) return false;
    }
  }
  return true;
}

bool touch_vector(const OperationContext& context, const char* what, const void* p, std::size_t bytes, Access access) {
  if (p) count_library_bytes(bytes, access);
  return !p || check_range(context.user(what), p, bytes, access);
}

template <class C>
void unpack(std::vector<C>& out, const Matrix& x, std::int64_t offset, bool transposed, bool tf32) {
  // out[outer][k]: the rows of op(A), or the columns of op(B)
  const std::int64_t outer = transposed ? x.cols : x.rows, inner = transposed ? x.rows : x.cols;
  out.resize(static_cast<std::size_t>(outer * inner));
  for (std::int64_t i = 0; i < outer; ++i) {
    for (std::int64_t p = 0; p < inner; ++p) {
      C value = load<C>(x.data, x.type, offset + (transposed ? i * x.ld + p : p * x.ld + i));
      if (tf32) value = static_cast<C>(to_tf32(static_cast<float>(value)));
      out[static_cast<std::size_t>(i * inner + p)] = value;
    }
  }
}

template <class C>
void compute(const Problem& p, const Call& call, C alpha, C beta) {
  const cublasLtEpilogue_t e = p.desc.epilogue();
  const auto m = static_cast<std::int64_t>(p.m), n = static_cast<std::int64_t>(p.n);
  const auto scale_of = [&](cublasLtMatmulDescAttributes_t key) {
    const float* scale = p.desc.pointer<float>(key);
    return scale ? static_cast<C>(*scale) : C(1);
  };
  const C scale = alpha * scale_of(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER) * scale_of(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
  const C d_scale = scale_of(CUBLASLT_MATMUL_DESC_D_SCALE_POINTER);
  void* bias = p.desc.pointer<void>(CUBLASLT_MATMUL_DESC_BIAS_POINTER);
  void* aux = p.desc.pointer<void>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER);
  const auto bias_stride = p.desc.attributes.get<std::int64_t>(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, 0);
  const auto aux_ld = p.desc.attributes.get<std::int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 0);
  const auto aux_stride = p.desc.attributes.get<std::int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, 0);
  const bool tf32 = p.desc.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  const Matrix a = matrix_of(call.a, p.a), b = matrix_of(call.b, p.b);
  std::vector<C> rows, columns, product(p.m * p.n), gradient(e == CUBLASLT_EPILOGUE_BGRADB ? p.n : p.m);
  C largest = 0;
  for (std::int32_t q = 0; q < p.d.batches(); ++q) {
    unpack(rows, a, q * a.stride, p.desc.transposed(CUBLASLT_MATMUL_DESC_TRANSA), tf32);
    unpack(columns, b, q * b.stride, !p.desc.transposed(CUBLASLT_MATMUL_DESC_TRANSB), tf32);
    multiply(p, call.way, rows, columns, product);
    if (e == CUBLASLT_EPILOGUE_BGRADA || e == CUBLASLT_EPILOGUE_BGRADB) {
      const std::vector<C>& source = e == CUBLASLT_EPILOGUE_BGRADA ? rows : columns;
      for (std::size_t i = 0; i < source.size(); ++i) gradient[i / p.k] += source[i];
    }
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t i = 0; i < m; ++i) {
        C value = scale * product[static_cast<std::size_t>(j * m + i)];
        if (beta != 0) value += beta * load<C>(call.c, p.c.type, q * p.c.batch_stride() + j * p.c.ld + i);
        if (adds_bias(e)) value += load<C>(bias, bias_type(p), q * bias_stride + i);
        const std::int64_t at = q * aux_stride + j * aux_ld + i;
        if (writes_aux(e)) store(aux, aux_type(p), at, value);
        if (e == CUBLASLT_EPILOGUE_RELU || e == CUBLASLT_EPILOGUE_RELU_BIAS) value = value > 0 ? value : C(0);
        if (e == CUBLASLT_EPILOGUE_GELU || e == CUBLASLT_EPILOGUE_GELU_BIAS || writes_aux(e)) value = gelu(value);
        if (reads_aux(e)) value *= gelu_gradient(load<C>(aux, aux_type(p), at));
        if (e == CUBLASLT_EPILOGUE_DGELU_BGRAD) gradient[static_cast<std::size_t>(i)] += value;
        largest = std::max(largest, std::abs(value));
        store(call.d, p.d.type, q * p.d.batch_stride() + j * p.d.ld + i, value * d_scale);
      }
    }
  }
  if (writes_bias_gradient(e)) {
    for (std::size_t i = 0; i < gradient.size(); ++i) store(bias, bias_type(p), static_cast<std::int64_t>(i), gradient[i]);
  }
  if (float* amax = p.desc.pointer<float>(CUBLASLT_MATMUL_DESC_AMAX_D_POINTER)) *amax = static_cast<float>(largest);
}

// Everything the call reads and writes, as the checker sees it.
bool touch_all(const Problem& p, const Call& call, double beta, const OperationContext& context) {
  const cublasLtEpilogue_t e = p.desc.epilogue();
  bool ok = touch(context, "cublasLtMatmul, A", matrix_of(call.a, p.a), Access::read) &&
            touch(context, "cublasLtMatmul, B", matrix_of(call.b, p.b), Access::read);
  if (beta != 0) ok = ok && touch(context, "cublasLtMatmul, C", matrix_of(call.c, p.c), Access::read);
  for (const auto key : {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, CUBLASLT_MATMUL_DESC_D_SCALE_POINTER}) {
    ok = ok && touch_vector(context, "cublasLtMatmul, a scale", p.desc.pointer<void>(key), 4, Access::read);
  }
  const void* bias = p.desc.pointer<void>(CUBLASLT_MATMUL_DESC_BIAS_POINTER);
  const std::size_t bias_size = bytes_of(bias_type(p));
  if (adds_bias(e)) {
    const auto stride = p.desc.attributes.get<std::int64_t>(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, 0);
    ok = ok && touch(context, "cublasLtMatmul, bias", {bias, bias_type(p), static_cast<std::int64_t>(p.m), 1, static_cast<std::int64_t>(p.m), stride, p.d.batches()}, Access::read);
  }
  if (writes_aux(e) || reads_aux(e)) {
    const auto stride = p.desc.attributes.get<std::int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, 0);
    const auto ld = p.desc.attributes.get<std::int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 0);
    const Matrix aux{p.desc.pointer<void>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER), aux_type(p), static_cast<std::int64_t>(p.m),
                     static_cast<std::int64_t>(p.n), ld, stride, p.d.batches()};
    ok = ok && touch(context, "cublasLtMatmul, aux", aux, writes_aux(e) ? Access::write : Access::read);
  }
  if (call.workspace_bytes) {
    ok = ok && check_range(context.user("cublasLtMatmul, workspace"), call.workspace, call.workspace_bytes, Access::write);
  }
  ok = ok && touch(context, "cublasLtMatmul, D", matrix_of(call.d, p.d), Access::write);
  if (writes_bias_gradient(e)) {
    const std::size_t length = e == CUBLASLT_EPILOGUE_BGRADB ? p.n : p.m;
    ok = ok && touch_vector(context, "cublasLtMatmul, bias gradient", bias, length * bias_size, Access::write);
  }
  return ok && touch_vector(context, "cublasLtMatmul, amax", p.desc.pointer<void>(CUBLASLT_MATMUL_DESC_AMAX_D_POINTER), 4, Access::write);
}

}  // namespace

cudaError_t run(const Problem& p, const Call& call, OperationContext& context) {
  double alpha = call.alpha, beta = call.beta;
  const std::size_t scalar_size = bytes_of(p.desc.scale);
  for (const auto& [address, value] : {std::pair{call.device_alpha, &alpha}, std::pair{call.device_beta, &beta}}) {
    if (!address) continue;
    if (!touch_vector(context, "cublasLtMatmul, a scalar", address, scalar_size, Access::read)) return cudaErrorLaunchFailure;
    *value = load<double>(address, p.desc.scale, 0);
  }
  if (!touch_all(p, call, beta, context)) return cudaErrorLaunchFailure;
  if (call.workspace_bytes) std::memset(call.workspace, 0xff, call.workspace_bytes);  // nobody may keep anything there
  if (p.desc.compute == CUBLAS_COMPUTE_64F) {
    compute<double>(p, call, alpha, beta);
  } else {
    compute<float>(p, call, static_cast<float>(alpha), static_cast<float>(beta));
  }
  return cudaSuccess;
}

}  // namespace simt::lt
