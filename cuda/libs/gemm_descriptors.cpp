#include "binade/cuda/libs/gemm_descriptors.h"

#include <utility>

#include "binade/core/base/error.h"
#include "binade/cuda/libs/cublaslt_functions.h"

namespace binade::cuda {

namespace {

cudaDataType_t cuda_type(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return CUDA_R_64F;
    case DType::f32:
      return CUDA_R_32F;
    case DType::f16:
      return CUDA_R_16F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f8e4m3:
      return CUDA_R_8F_E4M3;
    case DType::f8e5m2:
      return CUDA_R_8F_E5M2;
    default:
      fail({"matmul: no CUDA product of ", to_text(dtype)});
  }
}

}  // namespace

void lt_check(cublasStatus_t status, const char* what, const Gemm& g) {
  check(status == CUBLAS_STATUS_SUCCESS, "matmul: cuBLASLt ", what, " failed with status ", static_cast<int>(status),
        " for m ", g.m, ", n ", g.n, ", k ", g.k, ", batch ", g.batch, ", ", g.a.dtype, " to ", g.c.dtype);
}

cublasLtEpilogue_t epilogue_of(const Gemm& g) {
  if (g.row_sums) return CUBLASLT_EPILOGUE_BGRADB;  // the library's b is our a
  if (g.pre) return g.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  return g.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

std::uint32_t alignment_of(const std::byte* data) {
  const auto address = reinterpret_cast<std::uintptr_t>(data) | 256U;
  return static_cast<std::uint32_t>(address & (~address + 1));
}

GemmDescriptors::GemmDescriptors(const Gemm& g) : gemm_(g) {
  const bool wide = g.a.dtype == DType::f64;
  const cublasComputeType_t compute = wide     ? CUBLAS_COMPUTE_64F
                                      : g.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                               : CUBLAS_COMPUTE_32F;
  lt_check(cublaslt().desc_create(&product, compute, wide ? CUDA_R_64F : CUDA_R_32F), "descriptor", g);
  set(CUBLASLT_MATMUL_DESC_TRANSA, g.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, g.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(g));
  if (const std::byte* vector = g.row_sums ? g.row_sums : g.bias) {
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(g.c.dtype));
  }
  if (g.pre) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, g.pre);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, g.n);
  }
  if (g.scale_a) {
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, g.scale_b);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, g.scale_a);
  }
  first = layout(g.b, g.k, g.n);
  second = layout(g.a, g.m, g.k);
  result = layout(g.c, g.m, g.n);
}

GemmDescriptors::~GemmDescriptors() {
  const CublasLtFunctions& lt = cublaslt();
  lt.layout_destroy(first);
  lt.layout_destroy(second);
  lt.layout_destroy(result);
  lt.desc_destroy(product);
}

template <class T>
void GemmDescriptors::set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
  lt_check(cublaslt().desc_set(product, attribute, &value, sizeof value), "descriptor attribute", gemm_);
}

// A row-major [rows, columns] operand as it lies in column-major terms.
cublasLtMatrixLayout_t GemmDescriptors::layout(const GemmOperand& x, std::int64_t rows, std::int64_t columns) {
  const CublasLtFunctions& lt = cublaslt();
  if (x.transposed) std::swap(rows, columns);
  cublasLtMatrixLayout_t made = nullptr;
  lt_check(lt.layout_create(&made, cuda_type(x.dtype), static_cast<std::uint64_t>(columns),
                            static_cast<std::uint64_t>(rows), x.lead),
           "layout", gemm_);
  if (gemm_.batch > 1) {
    const auto count = static_cast<std::int32_t>(gemm_.batch);
    lt_check(lt.layout_set(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count), "batch count", gemm_);
    lt_check(lt.layout_set(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &x.batch_stride, sizeof x.batch_stride),
             "batch stride", gemm_);
  }
  return made;
}

cublasStatus_t enqueue_gemm(const Gemm& g, const GemmDescriptors& d, std::byte* written, cublasLtHandle_t handle,
                            const cublasLtMatmulAlgo_t& algorithm, const Scratch& workspace, cudaStream_t stream) {
  const float one_f = 1, beta_f = g.accumulate ? 1 : 0;
  const double one_d = 1, beta_d = g.accumulate ? 1 : 0;
  const bool wide = g.a.dtype == DType::f64;
  return cublaslt().matmul(handle, d.product, wide ? static_cast<const void*>(&one_d) : &one_f, g.b.data, d.first,
                           g.a.data, d.second, wide ? static_cast<const void*>(&beta_d) : &beta_f, g.c.data, d.result,
                           written, d.result, &algorithm, workspace.as<void>(), gemm_workspace_bytes, stream);
}

}  // namespace binade::cuda
