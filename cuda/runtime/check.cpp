#include "binade/cuda/runtime/check.h"

#include <string>

#include "binade/core/base/error.h"

namespace binade::cuda {

namespace {
// Errors that the device raises while it works, long after the call that started the work.
bool is_asynchronous(cudaError_t status) {
  return status == cudaErrorIllegalAddress || status == cudaErrorLaunchFailure || status == cudaErrorLaunchTimeout ||
         status == cudaErrorMisalignedAddress || status == cudaErrorIllegalInstruction || status == cudaErrorAssert ||
         status == cudaErrorHardwareStackError;
}
}  // namespace

void cuda_check(cudaError_t status, std::string_view what, CallSite where) {
  if (status == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // an error that is not sticky must not come up again elsewhere
  std::string_view file = where.file;
  file = file.substr(file.rfind('/') + 1);
  fail({std::string(what), ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ", ", std::string(file),
        ":", std::to_string(where.line), ")",
        is_asynchronous(status) ? "; an earlier kernel may be the cause: CUDA_LAUNCH_BLOCKING=1 finds it" : ""});
}

}  // namespace binade::cuda
