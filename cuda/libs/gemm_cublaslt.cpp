// cuBLASLt is column-major: it computes the transpose, c^T [n, m] = b^T a^T, from the same memory.
#include "binade/cuda/libs/gemm_cublaslt.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "binade/core/backend/memory.h"
#include "binade/core/base/error.h"
#include "binade/cuda/libs/cublaslt_functions.h"
#include "binade/cuda/runtime/context.h"

namespace binade::cuda {

namespace {

constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // what NVIDIA recommends from Hopper on
constexpr std::uint32_t base_alignment = 16;

void lt_check(cublasStatus_t status, const char* what, const Gemm& g) {
  check(status == CUBLAS_STATUS_SUCCESS, "matmul: cuBLASLt ", what, " failed with status ", static_cast<int>(status),
        " for m ", g.m, ", n ", g.n, ", k ", g.k, ", batch ", g.batch, ", ", g.a.dtype, " to ", g.c.dtype);
}

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

cublasLtEpilogue_t epilogue_of(const Gemm& g) {
  if (g.row_sums) return CUBLASLT_EPILOGUE_BGRADB;  // the library's b is our a
  if (g.pre) return g.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  return g.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

// The descriptors of one product; destroyed with it.
class Descriptors {
 public:
  explicit Descriptors(const Gemm& g) : gemm_(g), lt_(cublaslt()) {
    const bool wide = g.a.dtype == DType::f64;
    const cublasComputeType_t compute = wide     ? CUBLAS_COMPUTE_64F
                                        : g.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                 : CUBLAS_COMPUTE_32F;
    lt_check(lt_.desc_create(&product, compute, wide ? CUDA_R_64F : CUDA_R_32F), "descriptor", g);
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
  ~Descriptors() {
    lt_.layout_destroy(first);
    lt_.layout_destroy(second);
    lt_.layout_destroy(result);
    lt_.desc_destroy(product);
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;

  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    lt_check(lt_.desc_set(product, attribute, &value, sizeof value), "descriptor attribute", gemm_);
  }
  // A row-major [rows, columns] operand as it lies in column-major terms.
  cublasLtMatrixLayout_t layout(const GemmOperand& x, std::int64_t rows, std::int64_t columns) {
    if (x.transposed) std::swap(rows, columns);
    cublasLtMatrixLayout_t made = nullptr;
    lt_check(lt_.layout_create(&made, cuda_type(x.dtype), static_cast<std::uint64_t>(columns),
                               static_cast<std::uint64_t>(rows), x.lead),
             "layout", gemm_);
    if (gemm_.batch > 1) {
      const auto count = static_cast<std::int32_t>(gemm_.batch);
      lt_check(lt_.layout_set(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count), "batch count", gemm_);
      lt_check(
          lt_.layout_set(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &x.batch_stride, sizeof x.batch_stride),
          "batch stride", gemm_);
    }
    return made;
  }
  const Gemm& gemm_;
  const CublasLtFunctions& lt_;
};

std::uint32_t alignment_of(const std::byte* data) {  // the largest power of two, up to 256, which null has too
  const auto address = reinterpret_cast<std::uintptr_t>(data) | 256U;
  return static_cast<std::uint32_t>(address & (~address + 1));
}

// What a choice of algorithm depends on.
using GemmKey = std::array<std::int64_t, 23>;
GemmKey key_of(const Gemm& g, Device device) {
  GemmKey key{device.index, g.m, g.n, g.k, g.batch, epilogue_of(g), g.accumulate, g.tf32,
              alignment_of(g.row_sums ? g.row_sums : g.bias), alignment_of(g.pre)};
  std::size_t at = 10;
  for (const GemmOperand* x : {&g.a, &g.b, &g.c}) {
    key[at++] = static_cast<std::int64_t>(x->dtype) * 2 + x->transposed;
    key[at++] = x->lead;
    key[at++] = x->batch_stride;
    key[at++] = alignment_of(x->data);
  }
  return key;
}

// Per process: a handle per device and the algorithms chosen so far. Asking the heuristic costs microseconds each time.
struct Algorithms {
  std::mutex mutex;
  std::map<int, cublasLtHandle_t> handles;
  std::map<GemmKey, std::optional<cublasLtMatmulAlgo_t>> chosen;
};
Algorithms& algorithms() {
  static auto* all = new Algorithms;  // never destroyed: the driver may be gone before static destructors run
  return *all;
}

// Nothing where the library has no algorithm for an epilogue that can be done without.
std::optional<cublasLtMatmulAlgo_t> ask_heuristic(const Gemm& g, const Descriptors& d, cublasLtHandle_t handle) {
  const CublasLtFunctions& lt = cublaslt();
  cublasLtMatmulPreference_t preference = nullptr;
  lt_check(lt.preference_create(&preference), "preference", g);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    lt_check(lt.preference_set(preference, attribute, &value, sizeof value), "preference attribute", g);
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(g.b.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(g.a.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(g.c.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(g.c.data));
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status =
      lt.heuristic(handle, d.product, d.first, d.second, d.result, d.result, preference, 1, &found, &count);
  lt.preference_destroy(preference);
  const bool exists = status == CUBLAS_STATUS_SUCCESS && count > 0 && found.state == CUBLAS_STATUS_SUCCESS;
  if (!exists && (g.row_sums || g.pre)) return {};
  lt_check(status, "heuristic", g);
  lt_check(count > 0 ? found.state : CUBLAS_STATUS_NOT_SUPPORTED, "heuristic (no algorithm)", g);
  return found.algo;
}

}  // namespace

bool run_gemm(const Gemm& g, Device device) {
  for (const auto& [name, x] : {std::pair{"a", &g.a}, std::pair{"b", &g.b}, std::pair{"c", &g.c}}) {
    check(reinterpret_cast<std::uintptr_t>(x->data) % base_alignment == 0, "matmul: operand ", name,
          " must be aligned to 16 bytes on CUDA");
  }
  const CublasLtFunctions& lt = cublaslt();
  const cudaStream_t stream = stream_of(device);
  const Descriptors d(g);
  cublasLtHandle_t handle = nullptr;
  std::optional<cublasLtMatmulAlgo_t> algorithm;
  {
    Algorithms& all = algorithms();
    const std::lock_guard lock(all.mutex);
    cublasLtHandle_t& of_device = all.handles[device.index];
    if (!of_device) lt_check(lt.create(&of_device), "handle", g);
    handle = of_device;
    const GemmKey key = key_of(g, device);
    auto found = all.chosen.find(key);
    if (found == all.chosen.end()) found = all.chosen.emplace(key, ask_heuristic(g, d, handle)).first;
    algorithm = found->second;
  }
  if (!algorithm) return false;
  const Scratch workspace(workspace_bytes, device);
  const float one_f = 1, beta_f = g.accumulate ? 1 : 0;
  const double one_d = 1, beta_d = g.accumulate ? 1 : 0;
  const bool wide = g.a.dtype == DType::f64;
  lt_check(lt.matmul(handle, d.product, wide ? static_cast<const void*>(&one_d) : &one_f, g.b.data, d.first, g.a.data,
                     d.second, wide ? static_cast<const void*>(&beta_d) : &beta_f, g.c.data, d.result, g.c.data,
                     d.result, &*algorithm, workspace.as<void>(), workspace_bytes, stream),
           "product", g);
  return true;
}

}  // namespace binade::cuda
