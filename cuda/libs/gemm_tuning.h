// BINADE_CUBLASLT_TUNE=FILE: the first product of a description is computed with several algorithms, the fastest is kept
// and noted in FILE, where later processes find it. Without the variable, the library's first offer is taken.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "binade/cuda/libs/gemm_descriptors.h"

namespace binade::cuda {

// Sums in one sequence, or in parts that are kept in the compute type: no rounding to the result's type on the way.
inline constexpr std::uint32_t exact_reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

class AlgorithmFile;

class GemmTuner {  // of one product
 public:
  GemmTuner(const Gemm& g, const GemmDescriptors& d, cublasLtHandle_t handle, Device device);

  std::optional<cublasLtMatmulAlgo_t> known() const;  // from the file
  std::size_t wanted() const;  // how many algorithms to ask the library for
  // The fastest of them, measured if that is wanted and possible now. Waits for the device then.
  cublasLtMatmulAlgo_t choose(const std::vector<cublasLtMatmulAlgo_t>& offered) const;
  bool postponed() const { return file_ && captured_; }  // a stream that is captured runs nothing to be timed

 private:
  struct Times;
  Times measure(const std::vector<cublasLtMatmulAlgo_t>& offered) const;
  const Gemm& g_;
  const GemmDescriptors& d_;
  cublasLtHandle_t handle_;
  Device device_;
  AlgorithmFile* file_;  // null: nothing is measured
  bool captured_;
};

}  // namespace binade::cuda
