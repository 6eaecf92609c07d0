#include "binade/cuda/libs/cublaslt_functions.h"

#include <dlfcn.h>

#include <string>

#include "binade/core/base/error.h"

namespace binade::cuda {

namespace {

// Same major version as the headers: its functions and structs are compatible.
const std::string library_name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  check(function != nullptr, "matmul: ", library_name, " has no ", name, "(); it is too old for this build");
}

CublasLtFunctions open_library() {
  void* library = dlopen(library_name.c_str(), RTLD_NOW | RTLD_LOCAL);
  check(library != nullptr, "matmul: ", library_name, " is missing: install cuBLAS (Debian and Ubuntu: libcublas-",
        CUBLAS_VER_MAJOR, "-0, PyPI: nvidia-cublas) and add it to LD_LIBRARY_PATH: ", dlerror());
  CublasLtFunctions f{};
  find(library, "cublasLtCreate", f.create);
  find(library, "cublasLtMatmulDescCreate", f.desc_create);
  find(library, "cublasLtMatmulDescDestroy", f.desc_destroy);
  find(library, "cublasLtMatmulDescSetAttribute", f.desc_set);
  find(library, "cublasLtMatrixLayoutCreate", f.layout_create);
  find(library, "cublasLtMatrixLayoutDestroy", f.layout_destroy);
  find(library, "cublasLtMatrixLayoutSetAttribute", f.layout_set);
  find(library, "cublasLtMatmulPreferenceCreate", f.preference_create);
  find(library, "cublasLtMatmulPreferenceDestroy", f.preference_destroy);
  find(library, "cublasLtMatmulPreferenceSetAttribute", f.preference_set);
  find(library, "cublasLtMatmulAlgoGetHeuristic", f.heuristic);
  find(library, "cublasLtMatmulAlgoCheck", f.algorithm_check);
  find(library, "cublasLtMatmulAlgoConfigGetAttribute", f.algorithm_get);
  find(library, "cublasLtMatmul", f.matmul);
  find(library, "cublasLtGetVersion", f.version);
  return f;
}

}  // namespace

const CublasLtFunctions& cublaslt() {
  static const CublasLtFunctions functions = open_library();
  return functions;
}

}  // namespace binade::cuda
