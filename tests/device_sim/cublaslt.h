// The stand-in for cuBLASLt, inside: what the descriptors say, the documented rules, the product itself.
// It is narrower than the library on purpose (column-major only, the epilogues this project uses): what it accepts,
// the documentation of cublasLtMatmul() promises.
#pragma once
#include <cublasLt.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "runtime.h"

namespace simt::lt {

class Attributes {  // as set, by number
 public:
  void set(int key, const void* bytes, std::size_t size) {
    const auto* first = static_cast<const char*>(bytes);
    values_[key].assign(first, first + size);
  }
  bool has(int key) const { return values_.count(key) != 0; }
  template <class T>
  T get(int key, T fallback) const {
    const auto found = values_.find(key);
    if (found == values_.end()) return fallback;
    T value;
    std::memcpy(&value, found->second.data(), sizeof value);
    return value;
  }

 private:
  std::map<int, std::vector<char>> values_;
};

struct MatmulDesc {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  Attributes attributes;
  template <class T>
  T* pointer(cublasLtMatmulDescAttributes_t key) const {
    return static_cast<T*>(attributes.get<void*>(key, nullptr));
  }
  bool transposed(cublasLtMatmulDescAttributes_t key) const {
    return attributes.get(key, CUBLAS_OP_N) != CUBLAS_OP_N;
  }
  cublasLtEpilogue_t epilogue() const {
    return attributes.get(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT);
  }
};

struct Layout {
  cudaDataType_t type;
  std::uint64_t rows, cols;
  std::int64_t ld;
  Attributes attributes;
  std::int32_t batches() const { return attributes.get<std::int32_t>(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 1); }
  std::int64_t batch_stride() const {
    return attributes.get<std::int64_t>(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, 0);
  }
};

struct Preference {
  Attributes attributes;
};

struct Handle {
  int device;
};

struct Problem {  // one cublasLtMatmul call
  MatmulDesc desc;
  Layout a, b, c, d;
  std::uint64_t m = 0, n = 0, k = 0;  // d is m x n
};

// What kind of epilogue it is.
bool adds_bias(cublasLtEpilogue_t e);
bool writes_bias_gradient(cublasLtEpilogue_t e);
bool writes_aux(cublasLtEpilogue_t e);
bool reads_aux(cublasLtEpilogue_t e);

std::size_t bytes_of(cudaDataType_t type);  // 0: not supported here
bool is_fp8(cudaDataType_t type);
cudaDataType_t bias_type(const Problem& p);
cudaDataType_t aux_type(const Problem& p);

// Fills m, n, k. The empty string, or why the library would refuse.
std::string check_rules(Problem& p);

// How a product is computed. The library would offer them in the order of its own estimate: of these the first is the
// slowest, and the fastest add partial sums that were rounded to D's type.
struct Way {
  std::uint32_t reduction;  // cublasLtReductionScheme_t; with one, the sum over k is cut in two
  bool exists;              // false: a result of the heuristic whose state says that it failed
};
inline constexpr Way ways[] = {
    {CUBLASLT_REDUCTION_SCHEME_NONE, true},        {CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, true},
    {CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, true}, {CUBLASLT_REDUCTION_SCHEME_NONE, false},
    {CUBLASLT_REDUCTION_SCHEME_INPLACE, true},     {CUBLASLT_REDUCTION_SCHEME_NONE, true},
};
double seconds_of(std::size_t way, std::uint64_t k);  // simulated

struct Call {
  std::size_t way;
  const void *a, *b, *c;
  void *d, *workspace;
  std::size_t workspace_bytes;
  double alpha, beta;
  const void *device_alpha, *device_beta;  // read on the device when set
};
cudaError_t run(const Problem& p, const Call& call, OperationContext& context);

}  // namespace simt::lt
