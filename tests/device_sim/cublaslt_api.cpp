// The functions of cublasLt.h. The heuristic offers several algorithms; each carries what it was asked for, so that using it for another problem, with
// less workspace or with less aligned pointers than promised, is found. A call of the heuristic that a test lets fail
// with cudaErrorNotSupported knows no algorithm.
#include "cublaslt.h"
#include "findings.h"

namespace {

using simt::lt::Handle;
using simt::lt::Layout;
using simt::lt::MatmulDesc;
using simt::lt::Preference;
using simt::lt::Problem;

constexpr std::uint64_t algorithm_mark = 0x51d0e1a71a190ULL;
constexpr std::size_t wanted_workspace = 64 << 10;

struct Algorithm {  // fits cublasLtMatmulAlgo_t
  std::uint64_t mark, problem, workspace;
  std::uint32_t way;
  std::uint16_t alignment_a, alignment_b, alignment_c, alignment_d, alignment_bias, alignment_aux;
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

cublasStatus_t refuse(const char* function, cublasStatus_t status, const std::string& why) {
  simt::report("bad-argument", std::string(function) + ": " + why);
  return status;
}

template <class T, class H>
T& of(H handle) { return *reinterpret_cast<T*>(handle); }

struct Known {
  int key;
  std::size_t bytes;
};
constexpr Known desc_attributes[] = {
    {CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, 4},     {CUBLASLT_MATMUL_DESC_SCALE_TYPE, 4},
    {CUBLASLT_MATMUL_DESC_POINTER_MODE, 4},     {CUBLASLT_MATMUL_DESC_TRANSA, 4},
    {CUBLASLT_MATMUL_DESC_TRANSB, 4},           {CUBLASLT_MATMUL_DESC_EPILOGUE, 4},
    {CUBLASLT_MATMUL_DESC_BIAS_POINTER, 8},     {CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, 4},
    {CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, 8}, {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, 8},
    {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 8},  {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, 8},
    {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, 4},
    {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, 8},  {CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, 8},
    {CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, 8},  {CUBLASLT_MATMUL_DESC_AMAX_D_POINTER, 8},
    {CUBLASLT_MATMUL_DESC_FAST_ACCUM, 1},
};
constexpr Known layout_attributes[] = {
    {CUBLASLT_MATRIX_LAYOUT_ORDER, 4},
    {CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 4},
    {CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, 8},
};
constexpr Known preference_attributes[] = {
    {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 8},   {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, 4},
    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 4}, {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 4},
    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 4}, {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 4},
};

template <std::size_t N>
cublasStatus_t set(const char* function, const Known (&known)[N], simt::lt::Attributes& attributes, int key,
                   const void* bytes, std::size_t size) {
  for (const Known& k : known) {
    if (k.key != key) continue;
    if (k.bytes != size || !bytes) return refuse(function, CUBLAS_STATUS_INVALID_VALUE, "the attribute has another size");
    attributes.set(key, bytes, size);
    return CUBLAS_STATUS_SUCCESS;
  }
  return refuse(function, CUBLAS_STATUS_NOT_SUPPORTED, "attribute " + std::to_string(key) + " is not used in this project");
}

// Names everything an algorithm may depend on.
std::uint64_t fingerprint(const Problem& p) {
  std::uint64_t hash = 1469598103934665603ULL;
  const auto add = [&hash](std::uint64_t word) { hash = (hash ^ word) * 1099511628211ULL; };
  add(p.desc.compute), add(p.desc.scale), add(p.desc.epilogue());
  add(p.desc.transposed(CUBLASLT_MATMUL_DESC_TRANSA)), add(p.desc.transposed(CUBLASLT_MATMUL_DESC_TRANSB));
  add(static_cast<std::uint64_t>(p.desc.attributes.get<std::int32_t>(CUBLASLT_MATMUL_DESC_POINTER_MODE, 0)));
  for (const Layout* l : {&p.a, &p.b, &p.c, &p.d}) {
    add(l->type), add(l->rows), add(l->cols), add(static_cast<std::uint64_t>(l->ld));
    add(static_cast<std::uint64_t>(l->batches())), add(static_cast<std::uint64_t>(l->batch_stride()));
  }
  return hash;
}

Problem problem_of(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                   cublasLtMatrixLayout_t d) {
  return {of<MatmulDesc>(desc), of<Layout>(a), of<Layout>(b), of<Layout>(c), of<Layout>(d)};
}

bool aligned(const void* p, std::size_t unit) { return reinterpret_cast<std::uintptr_t>(p) % unit == 0; }
// The heuristic takes the descriptor's pointers for as aligned as they are, up to 256 bytes.
std::uint16_t alignment_of(const MatmulDesc& desc, cublasLtMatmulDescAttributes_t key) {
  const auto address = reinterpret_cast<std::uintptr_t>(desc.pointer<void>(key)) | 256U;
  return static_cast<std::uint16_t>(address & (~address + 1));
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new Handle{simt::current_device()});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<Handle*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() { return 130000; }
size_t cublasLtGetCudartVersion() { return CUDART_VERSION; }
const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    default: return "CUBLAS_STATUS";
  }
}
const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
  *desc = reinterpret_cast<cublasLtMatmulDesc_t>(new MatmulDesc{compute, scale, {}});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete &of<MatmulDesc>(desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t key,
                                              const void* bytes, size_t size) {
  return set("cublasLtMatmulDescSetAttribute", desc_attributes, of<MatmulDesc>(desc).attributes, key, bytes, size);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, cols, ld, {}});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete &of<Layout>(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t key,
                                                const void* bytes, size_t size) {
  return set("cublasLtMatrixLayoutSetAttribute", layout_attributes, of<Layout>(layout).attributes, key, bytes, size);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete &of<Preference>(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t key, const void* bytes, size_t size) {
  return set("cublasLtMatmulPreferenceSetAttribute", preference_attributes, of<Preference>(preference).attributes, key,
             bytes, size);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t* results, int* returned) {
  *returned = 0;
  if (simt::Call call("cublasLtMatmulAlgoGetHeuristic"); call.error() == cudaErrorNotSupported) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  Problem problem = problem_of(desc, a, b, c, d);
  if (requested < 1) return refuse("cublasLtMatmulAlgoGetHeuristic", CUBLAS_STATUS_INVALID_VALUE, "no result requested");
  if (const std::string why = simt::lt::check_rules(problem); !why.empty()) {
    return refuse("cublasLtMatmulAlgoGetHeuristic", CUBLAS_STATUS_NOT_SUPPORTED, why);
  }
  const simt::lt::Attributes& wishes = of<Preference>(preference).attributes;
  const auto alignment = [&](int key) { return static_cast<std::uint16_t>(wishes.get<std::uint32_t>(key, 256)); };
  Algorithm algorithm{algorithm_mark,
                      fingerprint(problem),
                      std::min(wanted_workspace, wishes.get<std::size_t>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 0)),
                      0,
                      alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES),
                      alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES),
                      alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES),
                      alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES),
                      alignment_of(problem.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER),
                      alignment_of(problem.desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER)};
  const auto allowed = wishes.get<std::uint32_t>(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_MASK);
  for (std::uint32_t way = 0; way < std::size(simt::lt::ways) && *returned < requested; ++way) {
    const auto [reduction, exists] = simt::lt::ways[way];
    if (reduction & ~allowed) continue;
    cublasLtMatmulHeuristicResult_t& result = results[(*returned)++] = {};
    result.state = exists ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
    if (!exists) continue;
    algorithm.way = way;
    std::memcpy(&result.algo, &algorithm, sizeof algorithm);
    result.workspaceSize = algorithm.workspace;
  }
  return CUBLAS_STATUS_SUCCESS;
}

// Whether an algorithm, from the heuristic or from somebody's disk, can compute this.
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algo, cublasLtMatmulHeuristicResult_t* result) {
  Problem problem = problem_of(desc, a, b, c, d);
  Algorithm algorithm{};
  std::memcpy(&algorithm, algo, sizeof algorithm);
  const bool fits = simt::lt::check_rules(problem).empty() && algorithm.mark == algorithm_mark &&
                    algorithm.problem == fingerprint(problem) && algorithm.way < std::size(simt::lt::ways);
  *result = {};
  result->workspaceSize = algorithm.workspace;
  result->state = fits ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  return result->state;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algo, cublasLtMatmulAlgoConfigAttributes_t key,
                                                    void* bytes, size_t size, size_t* written) {
  constexpr const char* name = "cublasLtMatmulAlgoConfigGetAttribute";
  if (key != CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME || size != 4) {
    return refuse(name, CUBLAS_STATUS_NOT_SUPPORTED, "an attribute this project does not use");
  }
  Algorithm algorithm{};
  std::memcpy(&algorithm, algo, sizeof algorithm);
  if (algorithm.mark != algorithm_mark) return refuse(name, CUBLAS_STATUS_INVALID_VALUE, "not an algorithm");
  std::memcpy(bytes, &simt::lt::ways[algorithm.way].reduction, 4);
  if (written) *written = 4;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream_handle) {
  constexpr const char* name = "cublasLtMatmul";
  if (!handle) return refuse(name, CUBLAS_STATUS_NOT_INITIALIZED, "no handle");
  Problem problem = problem_of(desc, a_layout, b_layout, c_layout, d_layout);
  if (const std::string why = simt::lt::check_rules(problem); !why.empty()) {
    return refuse(name, CUBLAS_STATUS_INVALID_VALUE, why);
  }
  Algorithm algorithm{};
  if (algo) std::memcpy(&algorithm, algo, sizeof algorithm);
  if (algorithm.mark != algorithm_mark) return refuse(name, CUBLAS_STATUS_INVALID_VALUE, "the algorithm is not from the heuristic");
  if (algorithm.problem != fingerprint(problem)) {
    return refuse(name, CUBLAS_STATUS_INVALID_VALUE, "the algorithm was found for another problem");
  }
  if (workspace_bytes < algorithm.workspace || (algorithm.workspace && !aligned(workspace, 16))) {
    return refuse(name, CUBLAS_STATUS_INVALID_VALUE, "the algorithm needs " + std::to_string(algorithm.workspace) +
                                                         " bytes of workspace, 16-byte aligned");
  }
  if (!aligned(a, algorithm.alignment_a) || !aligned(b, algorithm.alignment_b) || !aligned(d, algorithm.alignment_d) ||
      (c && !aligned(c, algorithm.alignment_c))) {
    return refuse(name, CUBLAS_STATUS_INVALID_VALUE, "a matrix is less aligned than the preference promised (256 bytes unless set)");
  }
  if (!aligned(problem.desc.pointer<void>(CUBLASLT_MATMUL_DESC_BIAS_POINTER), algorithm.alignment_bias) ||
      !aligned(problem.desc.pointer<void>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER), algorithm.alignment_aux)) {
    return refuse(name, CUBLAS_STATUS_INVALID_VALUE, "BIAS_POINTER or EPILOGUE_AUX_POINTER is less aligned than the heuristic's");
  }
  const bool fp8 = simt::lt::is_fp8(problem.a.type);
  if (fp8 && (!aligned(a, 16) || !aligned(b, 16) || !aligned(c, 16) || !aligned(d, 16))) {
    return refuse(name, CUBLAS_STATUS_INVALID_VALUE, "FP8 matrices must be 16-byte aligned");
  }
  const bool f64 = problem.desc.scale == CUDA_R_64F;
  const auto scalar = [f64](const void* p) { return f64 ? *static_cast<const double*>(p) : double{*static_cast<const float*>(p)}; };
  const bool on_device = problem.desc.attributes.get<std::int32_t>(CUBLASLT_MATMUL_DESC_POINTER_MODE, 0) == CUBLASLT_POINTER_MODE_DEVICE;
  const simt::lt::Call arguments{algorithm.way, a, b, c, d, workspace, algorithm.workspace,
                                 on_device ? 1 : scalar(alpha), on_device ? 1 : scalar(beta),
                                 on_device ? alpha : nullptr, on_device ? beta : nullptr};
  if (arguments.beta != 0 && !c) return refuse(name, CUBLAS_STATUS_INVALID_VALUE, "beta is not 0, and C is missing");

  simt::Call call("cublasLtMatmul");
  if (call.failed()) return CUBLAS_STATUS_EXECUTION_FAILED;
  simt::Stream* stream = call.stream(stream_handle);
  if (!stream) return CUBLAS_STATUS_INVALID_VALUE;
  if (of<Handle>(handle).device != stream->device || stream->device != simt::current_device()) {
    return refuse(name, CUBLAS_STATUS_INVALID_VALUE, "handle, stream and current device differ");
  }
  ++simt::runtime().counted.launches;
  ++simt::runtime().counted.library_launches;
  const auto run = [problem, arguments](simt::OperationContext& context) { return simt::lt::run(problem, arguments, context); };
  const cudaError_t error = simt::runtime().push(
      *stream, {.name = name, .run = run, .seconds = simt::lt::seconds_of(algorithm.way, problem.k)}, call.lock);
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
