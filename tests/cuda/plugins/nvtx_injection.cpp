// A profiler's place in NVTX: the library that NVTX_INJECTION64_PATH names is loaded at the first range and told of each.
// This one notes them, for tests/cuda/nvtx.cpp.
#include <nvtx3/nvToolsExt.h>

#include <string>

namespace {

std::string ranges;  // "+name\n" for a push, "-\n" for a pop

int NVTX_API push(const char* name) {
  ranges.append("+").append(name).append("\n");
  return 0;
}
int NVTX_API pop() {
  ranges.append("-\n");
  return 0;
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_export_table);
int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_export_table) {
  const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(get_export_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned int size = 0;
  if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &table, &size)) return 0;
  if (size <= NVTX_CBID_CORE_RangePushA || size <= NVTX_CBID_CORE_RangePop) return 0;
  *table[NVTX_CBID_CORE_RangePushA] = reinterpret_cast<NvtxFunctionPointer>(push);
  *table[NVTX_CBID_CORE_RangePop] = reinterpret_cast<NvtxFunctionPointer>(pop);
  return 1;
}

// What was noted since the last call.
__attribute__((visibility("default"))) const char* binade_test_ranges();
const char* binade_test_ranges() {
  static std::string taken;
  taken.swap(ranges);
  ranges.clear();
  return taken.c_str();
}

}  // extern "C"
