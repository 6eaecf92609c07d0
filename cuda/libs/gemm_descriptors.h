// One Gemm in cuBLASLt's terms. The library is column-major: it computes the transpose, c^T [n, m] = b^T a^T, from the
// same memory.
#pragma once
#include <cublasLt.h>

#include "binade/core/backend/memory.h"
#include "binade/cuda/libs/gemm_cublaslt.h"

namespace binade::cuda {

inline constexpr std::size_t gemm_workspace_bytes = std::size_t{32} << 20;  // what NVIDIA recommends from Hopper on

void lt_check(cublasStatus_t status, const char* what, const Gemm& g);
cublasLtEpilogue_t epilogue_of(const Gemm& g);
std::uint32_t alignment_of(const std::byte* data);  // the largest power of two, up to 256, which null has too

class GemmDescriptors {
 public:
  explicit GemmDescriptors(const Gemm& g);
  ~GemmDescriptors();
  GemmDescriptors(const GemmDescriptors&) = delete;
  GemmDescriptors& operator=(const GemmDescriptors&) = delete;

  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value);
  cublasLtMatrixLayout_t layout(const GemmOperand& x, std::int64_t rows, std::int64_t columns);
  const Gemm& gemm_;
};

// Puts g into the stream, its result where `written` is; with accumulate it is added to what g.c holds.
cublasStatus_t enqueue_gemm(const Gemm& g, const GemmDescriptors& d, std::byte* written, cublasLtHandle_t handle,
                            const cublasLtMatmulAlgo_t& algorithm, const Scratch& workspace, cudaStream_t stream);

}  // namespace binade::cuda
