// One cublasLtMatmul() call with its descriptors and operands, each part open to a test's changes.
#pragma once
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <optional>
#include <string>

#include "device.h"

namespace binade::test {

struct Matmul {  // column-major, as the library sees it
  std::string name;
  cudaDataType_t a = CUDA_R_32F, b = CUDA_R_32F, c = CUDA_R_32F, d = CUDA_R_32F;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  bool ta = false, tb = false;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  double alpha = 1, beta = 0;
  int batch = 1, m = 24, n = 16, k = 40, padding = 0;
  bool device_scalars = false, shared_a = false;
  double a_scale = 1, b_scale = 1, d_scale = 1;
};

inline std::size_t size_of(cudaDataType_t type) {
  return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : type == CUDA_R_16F || type == CUDA_R_16BF ? 2 : 1;
}
inline double unit_of(cudaDataType_t type) {  // half a unit in the last place, relative
  switch (type) {
    case CUDA_R_64F: return 0x1p-53;
    case CUDA_R_32F: return 0x1p-24;
    case CUDA_R_16F: return 0x1p-11;
    case CUDA_R_16BF: return 0x1p-8;
    case CUDA_R_8F_E4M3: return 0x1p-4;
    default: return 0x1p-3;
  }
}

// Elements of one type in host bytes.
struct Elements {
  Elements(cudaDataType_t t, std::size_t n) : type(t), bytes(n * size_of(t)) {}
  double get(std::size_t i) const {
    const void* p = bytes.data() + i * size_of(type);
    switch (type) {
      case CUDA_R_64F: return *static_cast<const double*>(p);
      case CUDA_R_32F: return *static_cast<const float*>(p);
      case CUDA_R_16F: return __half2float(*static_cast<const __half*>(p));
      case CUDA_R_16BF: return __bfloat162float(*static_cast<const __nv_bfloat16*>(p));
      case CUDA_R_8F_E4M3: return static_cast<float>(*static_cast<const __nv_fp8_e4m3*>(p));
      default: return static_cast<float>(*static_cast<const __nv_fp8_e5m2*>(p));
    }
  }
  void put(std::size_t i, double value) {
    void* p = bytes.data() + i * size_of(type);
    switch (type) {
      case CUDA_R_64F: *static_cast<double*>(p) = value; return;
      case CUDA_R_32F: *static_cast<float*>(p) = static_cast<float>(value); return;
      case CUDA_R_16F: *static_cast<__half*>(p) = __float2half(static_cast<float>(value)); return;
      case CUDA_R_16BF: *static_cast<__nv_bfloat16*>(p) = __float2bfloat16(static_cast<float>(value)); return;
      case CUDA_R_8F_E4M3: *static_cast<__nv_fp8_e4m3*>(p) = __nv_fp8_e4m3(static_cast<float>(value)); return;
      default: *static_cast<__nv_fp8_e5m2*>(p) = __nv_fp8_e5m2(static_cast<float>(value)); return;
    }
  }
  void fill(unsigned seed) {  // in [-1, 1], no exact thirds of the range in any format
    for (std::size_t i = 0; i < bytes.size() / size_of(type); ++i) {
      seed = seed * 1664525U + 1013904223U;
      put(i, (static_cast<double>(seed >> 8) / 8388608.0 - 1.0));
    }
  }
  cudaDataType_t type;
  std::vector<unsigned char> bytes;
};

using Bytes = Buffer<unsigned char>;

// Descriptors, operands and a call, with a place where a test may change each thing.
class Product {
 public:
  explicit Product(const Matmul& matmul) : t(matmul), a(t.a, 0), b(t.b, 0), c(t.c, 0), aux(t.d, 0), bias(t.d, 0) {
    EXPECT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
    const cudaDataType_t scale = t.compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F;
    EXPECT_EQ(cublasLtMatmulDescCreate(&desc, t.compute, scale), CUBLAS_STATUS_SUCCESS);
    const cublasOperation_t ops[] = {t.ta ? CUBLAS_OP_T : CUBLAS_OP_N, t.tb ? CUBLAS_OP_T : CUBLAS_OP_N};
    set(CUBLASLT_MATMUL_DESC_TRANSA, ops[0]);
    set(CUBLASLT_MATMUL_DESC_TRANSB, ops[1]);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, t.epilogue);
    const int rows[] = {t.ta ? t.k : t.m, t.tb ? t.n : t.k, t.m, t.m}, cols[] = {t.ta ? t.m : t.k, t.tb ? t.k : t.n, t.n, t.n};
    const cudaDataType_t types[] = {t.a, t.b, t.c, t.d};
    for (int i = 0; i < 4; ++i) {
      ld[i] = rows[i] + t.padding;
      stride[i] = i == 0 && t.shared_a ? 0 : static_cast<std::int64_t>(ld[i]) * cols[i];
      cublasLtMatrixLayoutCreate(&layout[i], types[i], static_cast<std::uint64_t>(rows[i]), static_cast<std::uint64_t>(cols[i]), ld[i]);
      const std::int32_t count = t.batch;
      cublasLtMatrixLayoutSetAttribute(layout[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
      cublasLtMatrixLayoutSetAttribute(layout[i], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride[i], sizeof stride[i]);
      elements[i] = static_cast<std::size_t>(ld[i]) * static_cast<std::size_t>(cols[i] * t.batch);
    }
    a = Elements(t.a, elements[0]), b = Elements(t.b, elements[1]), c = Elements(t.c, elements[2]);
    a.fill(1), b.fill(2), c.fill(3);
    const cudaDataType_t bias_type = t.d == CUDA_R_8F_E4M3 || t.d == CUDA_R_8F_E5M2 ? t.c : t.d;
    bias = Elements(bias_type, static_cast<std::size_t>(std::max(t.m, t.n)));
    bias.fill(4);
    aux = Elements(t.d, static_cast<std::size_t>(t.m * t.n * t.batch));
    aux.fill(5);
    cublasLtMatmulPreferenceCreate(&preference);
    const std::size_t most = 1 << 20;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
  }
  ~Product() {
    for (cublasLtMatrixLayout_t l : layout) cublasLtMatrixLayoutDestroy(l);
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatmulDescDestroy(desc);
    cublasLtDestroy(handle);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  template <class T>
  void set(cublasLtMatmulDescAttributes_t key, const T& value) {
    EXPECT_EQ(cublasLtMatmulDescSetAttribute(desc, key, &value, sizeof value), CUBLAS_STATUS_SUCCESS);
  }
  cublasStatus_t ask() {
    int found = 0;
    return cublasLtMatmulAlgoGetHeuristic(handle, desc, layout[0], layout[1], layout[2], layout[3], preference, 1, &heuristic, &found);
  }
  void upload() {
    da.emplace(a.bytes, stream), db.emplace(b.bytes, stream), dc.emplace(c.bytes, stream);
    dd.emplace(elements[3] * size_of(t.d));
    must(cudaMemsetAsync(dd->data, 0x7f, dd->size, stream));  // padding must survive
    workspace.emplace(std::size_t{1} << 20);
    dbias.emplace(bias.bytes, stream), daux.emplace(aux.bytes, stream);
    scales.emplace(std::vector<float>{static_cast<float>(t.a_scale), static_cast<float>(t.b_scale), static_cast<float>(t.d_scale), 0}, stream);
    if (t.epilogue & (CUBLASLT_EPILOGUE_BIAS | CUBLASLT_EPILOGUE_BGRADA | CUBLASLT_EPILOGUE_BGRADB | 16)) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(dbias->data));
    if (t.epilogue & 128) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<void*>(daux->data));
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, std::int64_t{t.m});
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, std::int64_t{t.m} * t.n);
    }
    if (size_of(t.a) == 1) {
      set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scales->data);
      set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scales->data + 1);
    }
    if (size_of(t.d) == 1) {
      set(CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, scales->data + 2);
      set(CUBLASLT_MATMUL_DESC_AMAX_D_POINTER, scales->data + 3);
    }
    scalars64.emplace(std::vector<double>{t.alpha, t.beta}, stream);
    scalars32.emplace(std::vector<float>{static_cast<float>(t.alpha), static_cast<float>(t.beta)}, stream);
    if (t.device_scalars) set(CUBLASLT_MATMUL_DESC_POINTER_MODE, std::int32_t{CUBLASLT_POINTER_MODE_DEVICE});
  }
  cublasStatus_t call() { return call(da->data, heuristic.workspaceSize, &heuristic.algo); }
  cublasStatus_t call(const unsigned char* a_data, std::size_t workspace_size, const cublasLtMatmulAlgo_t* algo) {
    const bool f64 = t.compute == CUBLAS_COMPUTE_64F;
    const float alpha32 = static_cast<float>(t.alpha), beta32 = static_cast<float>(t.beta);
    const void* alpha = f64 ? static_cast<const void*>(&t.alpha) : &alpha32;
    const void* beta = f64 ? static_cast<const void*>(&t.beta) : &beta32;
    if (t.device_scalars) {
      alpha = f64 ? static_cast<const void*>(scalars64->data) : scalars32->data;
      beta = f64 ? static_cast<const void*>(scalars64->data + 1) : scalars32->data + 1;
    }
    return cublasLtMatmul(handle, desc, alpha, a_data, layout[0], db->data, layout[1], beta, dc->data, layout[2],
                          dd->data, layout[3], algo, workspace->data, workspace_size, stream);
  }
  Elements download(const std::optional<Bytes>& from, cudaDataType_t type) {
    Elements e(type, from->size / size_of(type));
    e.bytes = from->read(stream);
    return e;
  }

  Matmul t;
  Stream stream;
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t layout[4] = {};
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulHeuristicResult_t heuristic{};
  int ld[4] = {};
  std::int64_t stride[4] = {};
  std::size_t elements[4] = {};
  Elements a, b, c, aux, bias;
  std::optional<Bytes> da, db, dc, dd, dbias, daux, workspace;
  std::optional<Buffer<float>> scales, scalars32;
  std::optional<Buffer<double>> scalars64;
};

}  // namespace binade::test
