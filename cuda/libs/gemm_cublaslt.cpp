// Which of cuBLASLt's algorithms computes a product, and the call.
#include "binade/cuda/libs/gemm_cublaslt.h"

#include <array>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "binade/core/base/error.h"
#include "binade/cuda/libs/cublaslt_functions.h"
#include "binade/cuda/libs/gemm_descriptors.h"
#include "binade/cuda/libs/gemm_tuning.h"
#include "binade/cuda/runtime/context.h"

namespace binade::cuda {

namespace {

constexpr std::uint32_t base_alignment = 16;

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

// Up to `count` algorithms, best first by the library's estimate; none where it has none for an epilogue that can be done
// without. Only those that keep partial sums in f32 (f64): others round them to the result's type.
std::vector<cublasLtMatmulAlgo_t> ask_heuristic(const Gemm& g, const GemmDescriptors& d, cublasLtHandle_t handle,
                                                std::size_t count) {
  const CublasLtFunctions& lt = cublaslt();
  cublasLtMatmulPreference_t preference = nullptr;
  lt_check(lt.preference_create(&preference), "preference", g);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    lt_check(lt.preference_set(preference, attribute, &value, sizeof value), "preference attribute", g);
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, gemm_workspace_bytes);
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, exact_reductions);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(g.b.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(g.a.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(g.c.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(g.c.data));
  std::vector<cublasLtMatmulHeuristicResult_t> found(count);
  int returned = 0;
  const cublasStatus_t status = lt.heuristic(handle, d.product, d.first, d.second, d.result, d.result, preference,
                                             static_cast<int>(count), found.data(), &returned);
  lt.preference_destroy(preference);
  std::vector<cublasLtMatmulAlgo_t> usable;
  for (int i = 0; i < (status == CUBLAS_STATUS_SUCCESS ? returned : 0); ++i) {
    const auto& result = found[static_cast<std::size_t>(i)];
    if (result.state == CUBLAS_STATUS_SUCCESS) usable.push_back(result.algo);
  }
  if (!usable.empty() || g.row_sums || g.pre) return usable;
  lt_check(status, "heuristic", g);
  lt_check(returned > 0 ? found[0].state : CUBLAS_STATUS_NOT_SUPPORTED, "heuristic (no algorithm)", g);
  return usable;
}

// `all` is locked.
std::optional<cublasLtMatmulAlgo_t> algorithm_for(Algorithms& all, const Gemm& g, const GemmDescriptors& d,
                                                  cublasLtHandle_t handle, Device device) {
  const GemmKey key = key_of(g, device);
  if (const auto found = all.chosen.find(key); found != all.chosen.end()) return found->second;
  const GemmTuner tuner(g, d, handle, device);
  std::optional<cublasLtMatmulAlgo_t> chosen = tuner.known();
  if (!chosen) {
    const std::vector<cublasLtMatmulAlgo_t> offered = ask_heuristic(g, d, handle, tuner.wanted());
    if (!offered.empty()) chosen = tuner.choose(offered);
  }
  if (!tuner.postponed()) all.chosen.emplace(key, chosen);
  return chosen;
}

}  // namespace

bool run_gemm(const Gemm& g, Device device) {
  for (const auto& [name, x] : {std::pair{"a", &g.a}, std::pair{"b", &g.b}, std::pair{"c", &g.c}}) {
    check(reinterpret_cast<std::uintptr_t>(x->data) % base_alignment == 0, "matmul: operand ", name,
          " must be aligned to 16 bytes on CUDA");
  }
  const cudaStream_t stream = stream_of(device);
  const GemmDescriptors d(g);
  cublasLtHandle_t handle = nullptr;
  std::optional<cublasLtMatmulAlgo_t> algorithm;
  {
    Algorithms& all = algorithms();
    const std::lock_guard lock(all.mutex);
    cublasLtHandle_t& of_device = all.handles[device.index];
    if (!of_device) lt_check(cublaslt().create(&of_device), "handle", g);
    handle = of_device;
    algorithm = algorithm_for(all, g, d, handle, device);
  }
  if (!algorithm) return false;
  const Scratch workspace(gemm_workspace_bytes, device);
  lt_check(enqueue_gemm(g, d, g.c.data, handle, *algorithm, workspace, stream), "product", g);
  return true;
}

}  // namespace binade::cuda
