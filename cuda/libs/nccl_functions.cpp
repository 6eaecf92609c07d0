#include "binade/cuda/libs/nccl_functions.h"

#include <dlfcn.h>

#include "binade/core/base/error.h"

namespace binade::cuda {

namespace {

constexpr const char* library_name = "libnccl.so.2";

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  check(function != nullptr, "NCCL: ", library_name, " has no ", name, "(); it is too old for this build");
}

NcclFunctions open_library() {
  void* library = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
  const char* reason = library ? nullptr : dlerror();
  check(library != nullptr, "NCCL: ", library_name, " is missing: install NCCL (Debian and Ubuntu: libnccl2, PyPI: "
        "nvidia-nccl-cu", CUDART_VERSION / 1000, ") and add it to LD_LIBRARY_PATH: ", reason ? reason : "");
  NcclFunctions f{};
  find(library, "ncclGetUniqueId", f.unique_id);
  find(library, "ncclCommInitRankConfig", f.init);
  find(library, "ncclCommFinalize", f.finalize);
  find(library, "ncclCommDestroy", f.destroy);
  find(library, "ncclCommAbort", f.abort);
  find(library, "ncclCommGetAsyncError", f.async_error);
  find(library, "ncclGetErrorString", f.error_string);
  find(library, "ncclGetLastError", f.last_error);
  find(library, "ncclGroupStart", f.group_start);
  find(library, "ncclGroupEnd", f.group_end);
  find(library, "ncclBroadcast", f.broadcast);
  find(library, "ncclAllReduce", f.all_reduce);
  find(library, "ncclReduceScatter", f.reduce_scatter);
  find(library, "ncclAllGather", f.all_gather);
  find(library, "ncclSend", f.send);
  find(library, "ncclRecv", f.receive);
  return f;
}

}  // namespace

const NcclFunctions& nccl() {
  static const NcclFunctions functions = open_library();
  return functions;
}

}  // namespace binade::cuda
