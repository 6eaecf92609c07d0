// The rules of cublasLtMatmul() as documented: types that go together, FP8's layout, epilogues and what they need.
#include "cublaslt.h"
#include "durations.h"
#include "settings.h"

namespace simt::lt {

namespace {

std::string text(std::uint64_t n) { return std::to_string(n); }

bool known_epilogue(cublasLtEpilogue_t e) {
  return e == CUBLASLT_EPILOGUE_DEFAULT || e == CUBLASLT_EPILOGUE_RELU || e == CUBLASLT_EPILOGUE_GELU || adds_bias(e) ||
         writes_bias_gradient(e) || writes_aux(e) || reads_aux(e);
}

std::string check_shapes(Problem& p) {
  const bool ta = p.desc.transposed(CUBLASLT_MATMUL_DESC_TRANSA), tb = p.desc.transposed(CUBLASLT_MATMUL_DESC_TRANSB);
  p.m = ta ? p.a.cols : p.a.rows;
  p.k = ta ? p.a.rows : p.a.cols;
  p.n = tb ? p.b.rows : p.b.cols;
  if ((tb ? p.b.cols : p.b.rows) != p.k) return "the inner sizes of A and B differ";
  if (p.d.rows != p.m || p.d.cols != p.n) return "D is not " + text(p.m) + " x " + text(p.n);
  if (p.c.rows != p.m || p.c.cols != p.n) return "C is not " + text(p.m) + " x " + text(p.n);
  if (!p.m || !p.n || !p.k) return "an empty matrix";
  const std::int32_t batches = p.d.batches();
  for (const Layout* l : {&p.a, &p.b, &p.c, &p.d}) {
    if (l->ld < static_cast<std::int64_t>(l->rows)) return "a leading dimension is smaller than the rows";
    if (l->attributes.get<std::int32_t>(CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_ORDER_COL) != CUBLASLT_ORDER_COL) {
      return "only column-major matrices are used here";
    }
    if (l->batches() != batches) return "the batch counts differ";
  }
  const auto whole = static_cast<std::int64_t>(p.d.cols - 1) * p.d.ld + static_cast<std::int64_t>(p.d.rows);
  if (batches > 1 && p.d.batch_stride() < whole) return "the batches of D overlap";
  return "";
}

// The table of supported types in the documentation of cublasLtMatmul().
std::string check_types(const Problem& p) {
  const cudaDataType_t a = p.a.type, b = p.b.type, c = p.c.type, d = p.d.type;
  const cublasComputeType_t compute = p.desc.compute;
  for (const Layout* l : {&p.a, &p.b, &p.c, &p.d}) {
    if (!bytes_of(l->type)) return "an element type this project does not use";
  }
  if (compute == CUBLAS_COMPUTE_64F) {
    const bool all = a == CUDA_R_64F && b == CUDA_R_64F && c == CUDA_R_64F && d == CUDA_R_64F;
    return all && p.desc.scale == CUDA_R_64F ? "" : "COMPUTE_64F takes CUDA_R_64F throughout";
  }
  if (compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_FAST_TF32 && compute != CUBLAS_COMPUTE_32F_PEDANTIC) {
    return "a compute type this project does not use";
  }
  if (p.desc.scale != CUDA_R_32F) return "the scale type must be CUDA_R_32F";
  if (is_fp8(a) || is_fp8(b)) {
    if (compute != CUBLAS_COMPUTE_32F) return "FP8 needs COMPUTE_32F";
    if (!is_fp8(a) || !is_fp8(b)) return "FP8 goes with FP8 only";
    if (a == CUDA_R_8F_E5M2 && b == CUDA_R_8F_E5M2) return "E5M2 x E5M2 does not exist";
    if (is_fp8(d)) {
      if (c != CUDA_R_16BF && c != CUDA_R_16F) return "with D in FP8, C is in BF16 or FP16";
      if (d == CUDA_R_8F_E5M2 && a == CUDA_R_8F_E4M3 && b == CUDA_R_8F_E4M3) return "E4M3 x E4M3 does not give E5M2";
      return "";
    }
    return c == d && (d == CUDA_R_16BF || d == CUDA_R_16F || d == CUDA_R_32F) ? "" : "C and D must be one of BF16, FP16, FP32";
  }
  if (a != b) return "the types of A and B differ";
  if (c != d) return "the types of C and D differ";
  if (is_fp8(d)) return "D in FP8 needs A and B in FP8";
  if (compute == CUBLAS_COMPUTE_32F_FAST_TF32 && a != CUDA_R_32F) return "FAST_TF32 takes CUDA_R_32F";
  if (a == CUDA_R_64F || d == CUDA_R_64F) return "CUDA_R_64F needs COMPUTE_64F";
  return d == a || d == CUDA_R_32F ? "" : "D must have the type of A or CUDA_R_32F";
}

std::string check_fp8(const Problem& p) {
  const auto scale = [&](cublasLtMatmulDescAttributes_t key) { return p.desc.pointer<void>(key) != nullptr; };
  if (!is_fp8(p.d.type) && (scale(CUBLASLT_MATMUL_DESC_D_SCALE_POINTER) || scale(CUBLASLT_MATMUL_DESC_AMAX_D_POINTER))) {
    return "a scale or maximum of D needs D in FP8";
  }
  if (!is_fp8(p.a.type)) {
    return scale(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER) || scale(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER)
               ? "scales of A and B need FP8"
               : "";
  }
  if (settings().capability < 89) return "FP8 needs compute capability 8.9";
  if (!p.desc.transposed(CUBLASLT_MATMUL_DESC_TRANSA) || p.desc.transposed(CUBLASLT_MATMUL_DESC_TRANSB)) {
    return "FP8 needs A transposed and B not (TN)";
  }
  if (p.m % 16 || p.n % 16 || p.k % 16) return "FP8 needs sizes that are multiples of 16";
  for (const Layout* l : {&p.a, &p.b, &p.c, &p.d}) {
    if (static_cast<std::size_t>(l->ld) * bytes_of(l->type) % 16) return "FP8 needs leading dimensions of 16 bytes' multiples";
  }
  return "";
}

// BGRADA, BGRADB and DGELU_BGRAD write a vector of D's type. The first two sum over k, and NVIDIA's own binding
// (nvmath-python) asks for BGRADB only with B transposed, and for neither, nor DGELU, with k = 1.
std::string check_bias_gradient(const Problem& p, cublasLtEpilogue_t e) {
  if (p.d.batches() > 1) return "bias gradients are not computed for batches";
  if (bias_type(p) != p.d.type) return "a bias gradient has the type of D";
  if (e == CUBLASLT_EPILOGUE_BGRADA && p.desc.transposed(CUBLASLT_MATMUL_DESC_TRANSA)) return "BGRADA needs A as it lies";
  if (e == CUBLASLT_EPILOGUE_BGRADB && !p.desc.transposed(CUBLASLT_MATMUL_DESC_TRANSB)) return "BGRADB needs B transposed";
  return "";
}
std::string check_aux(const Problem& p) {
  if (!p.desc.pointer<void>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER)) return "the epilogue needs EPILOGUE_AUX_POINTER";
  const auto ld = p.desc.attributes.get<std::int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 0);
  if (ld < static_cast<std::int64_t>(p.m) || ld % 8) return "EPILOGUE_AUX_LD must be a multiple of 8 and at least the rows of D";
  const auto stride = p.desc.attributes.get<std::int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, 0);
  if (p.d.batches() > 1 && (stride % 8 || stride < ld * static_cast<std::int64_t>(p.n))) {
    return "EPILOGUE_AUX_BATCH_STRIDE must be a multiple of 8 and at least a whole matrix";
  }
  return is_fp8(p.d.type) || aux_type(p) == p.d.type ? "" : "the auxiliary matrix has the type of D";
}

std::string check_epilogue(const Problem& p) {
  const cublasLtEpilogue_t e = p.desc.epilogue();
  if (!known_epilogue(e)) return "an epilogue this project does not use";
  if (e == CUBLASLT_EPILOGUE_DEFAULT) return "";
  if (p.desc.compute == CUBLAS_COMPUTE_64F) return "epilogues are not used with COMPUTE_64F";
  const bool gradient = writes_bias_gradient(e), backward = gradient || reads_aux(e);
  if ((adds_bias(e) || gradient) && !p.desc.pointer<void>(CUBLASLT_MATMUL_DESC_BIAS_POINTER)) return "the epilogue needs BIAS_POINTER";
  if (adds_bias(e)) {
    const cudaDataType_t bias = bias_type(p);
    const bool fits = is_fp8(p.a.type) ? bias == CUDA_R_16BF || bias == CUDA_R_16F : bias == p.d.type;
    if (!fits) return "the bias has a type that does not go with D";
  }
  if (is_fp8(p.a.type) && backward) return "this epilogue is not used with FP8";
  if (backward && p.k == 1) return "this epilogue needs k > 1";
  if (gradient) {
    if (const std::string why = check_bias_gradient(p, e); !why.empty()) return why;
  }
  return writes_aux(e) || reads_aux(e) ? check_aux(p) : "";
}

}  // namespace

bool adds_bias(cublasLtEpilogue_t e) {
  return e == CUBLASLT_EPILOGUE_BIAS || e == CUBLASLT_EPILOGUE_RELU_BIAS || e == CUBLASLT_EPILOGUE_GELU_BIAS ||
         e == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
}
bool writes_bias_gradient(cublasLtEpilogue_t e) {
  return e == CUBLASLT_EPILOGUE_BGRADA || e == CUBLASLT_EPILOGUE_BGRADB || e == CUBLASLT_EPILOGUE_DGELU_BGRAD;
}
bool writes_aux(cublasLtEpilogue_t e) { return e == CUBLASLT_EPILOGUE_GELU_AUX || e == CUBLASLT_EPILOGUE_GELU_AUX_BIAS; }
bool reads_aux(cublasLtEpilogue_t e) { return e == CUBLASLT_EPILOGUE_DGELU || e == CUBLASLT_EPILOGUE_DGELU_BGRAD; }

double seconds_of(std::size_t way, std::uint64_t k) {
  const double shares[] = {1, k >= 256 ? 0.25 : 0.75, 0.125, 0, 0.1875, 0.5};
  return product_seconds * shares[way];
}

std::size_t bytes_of(cudaDataType_t type) {
  switch (type) {
    case CUDA_R_8F_E4M3:
    case CUDA_R_8F_E5M2: return 1;
    case CUDA_R_16BF:
    case CUDA_R_16F: return 2;
    case CUDA_R_32F: return 4;
    case CUDA_R_64F: return 8;
    default: return 0;
  }
}
bool is_fp8(cudaDataType_t type) { return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2; }

cudaDataType_t bias_type(const Problem& p) {
  const auto set = p.desc.attributes.get<std::int32_t>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, -1);
  if (set >= 0) return static_cast<cudaDataType_t>(set);
  if (!is_fp8(p.a.type)) return p.d.type;
  return p.c.type == CUDA_R_16F ? CUDA_R_16F : CUDA_R_16BF;
}
cudaDataType_t aux_type(const Problem& p) {
  const auto set = p.desc.attributes.get<std::int32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, -1);
  return set >= 0 ? static_cast<cudaDataType_t>(set) : is_fp8(p.d.type) ? p.c.type : p.d.type;
}

std::string check_rules(Problem& p) {
  for (const auto& check : {check_shapes(p), check_types(p)}) {
    if (!check.empty()) return check;
  }
  if (const std::string why = check_fp8(p); !why.empty()) return why;
  return check_epilogue(p);
}

}  // namespace simt::lt
