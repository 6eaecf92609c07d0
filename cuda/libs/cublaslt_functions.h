// The functions of cuBLASLt that binade calls, as one table: the library is opened at first use, not linked, because it
// costs 500 MB on disk and tens of milliseconds. The simulated device of the tests fills the same table.
#pragma once
#include <cublasLt.h>

namespace binade::cuda {

struct CublasLtFunctions {
  decltype(&::cublasLtCreate) create;
  decltype(&::cublasLtMatmulDescCreate) desc_create;
  decltype(&::cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&::cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&::cublasLtMatrixLayoutCreate) layout_create;
  decltype(&::cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&::cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&::cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&::cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&::cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&::cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&::cublasLtMatmulAlgoCheck) algorithm_check;
  decltype(&::cublasLtMatmulAlgoConfigGetAttribute) algorithm_get;
  decltype(&::cublasLtMatmul) matmul;
  decltype(&::cublasLtGetVersion) version;
};

const CublasLtFunctions& cublaslt();  // throws naming the package where the library is missing

}  // namespace binade::cuda
