// A stand-in for libcuda.so.1, so that cuDNN builds plans where there is no driver: it says that there is no device and
// runs nothing, but takes the kernels that cuDNN compiles, for cuDNN loads each to see that it is whole. Every symbol
// cuDNN looks up must be here, or attention plans fail with a misleading "No valid engine configs". Test code only.
#include <dlfcn.h>

#include <cstring>

namespace {

constexpr int success = 0, no_device = 100, not_supported = 801;
char object[64];  // what handles of modules, kernels and functions point to

int hand_out(void** handle) {
  *handle = object;
  return success;
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return no_device; }
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return success;
}
int cuDeviceGetCount(int* count) {
  *count = 0;
  return no_device;
}
int cuGetErrorName(int, const char** name) {
  *name = "CUDA_ERROR_OF_THE_STAND_IN";
  return success;
}
int cuGetErrorString(int, const char** text) {
  *text = "the stand-in for libcuda runs nothing";
  return success;
}

int cuLibraryLoadData(void** library, const void*, void*, void*, unsigned, void*, void*, unsigned) {
  return hand_out(library);
}
int cuLibraryUnload(void*) { return success; }
int cuLibraryGetKernel(void** kernel, void*, const char*) { return hand_out(kernel); }
int cuKernelGetFunction(void** function, void*) { return hand_out(function); }
int cuKernelSetAttribute(int, int, void*, int) { return success; }
int cuFuncSetAttribute(void*, int, int) { return success; }

#define REFUSED(name) \
  int name() { return not_supported; }
REFUSED(cuCtxGetCurrent)
REFUSED(cuCtxGetDevice)
REFUSED(cuCtxGetLimit)
REFUSED(cuCtxPopCurrent)
REFUSED(cuCtxPopCurrent_v2)
REFUSED(cuCtxPushCurrent)
REFUSED(cuCtxPushCurrent_v2)
REFUSED(cuCtxSetCurrent)
REFUSED(cuDeviceGet)
REFUSED(cuDeviceGetAttribute)
REFUSED(cuDevicePrimaryCtxRetain)
REFUSED(cuFuncGetAttribute)
REFUSED(cuGetExportTable)
REFUSED(cuKernelGetAttribute)
REFUSED(cuLaunchCooperativeKernel)
REFUSED(cuLaunchKernel)
REFUSED(cuLaunchKernelEx)
REFUSED(cuLibraryGetGlobal)
REFUSED(cuLibraryGetModule)
REFUSED(cuLibraryLoadFromFile)
REFUSED(cuLinkAddData)
REFUSED(cuLinkAddData_v2)
REFUSED(cuLinkComplete)
REFUSED(cuLinkCreate)
REFUSED(cuLinkCreate_v2)
REFUSED(cuLinkDestroy)
REFUSED(cuMemAlloc_v2)
REFUSED(cuMemFree_v2)
REFUSED(cuModuleGetFunction)
REFUSED(cuModuleLoadData)
REFUSED(cuModuleUnload)
REFUSED(cuOccupancyMaxActiveBlocksPerMultiprocessor)
REFUSED(cuOccupancyMaxActiveClusters)
REFUSED(cuOccupancyMaxPotentialClusterSize)
REFUSED(cuStreamGetCtx)
REFUSED(cuStreamSynchronize)
REFUSED(cuTensorMapEncodeIm2col)
REFUSED(cuTensorMapEncodeIm2colWide)
REFUSED(cuTensorMapEncodeTiled)
REFUSED(cuTensorMapReplaceAddress)
#undef REFUSED

int cuGetProcAddress_v2(const char* name, void** function, int, unsigned long, int* status) {
  static void* const self = [] {
    Dl_info info{};
    dladdr(reinterpret_cast<void*>(&cuInit), &info);
    return dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  }();
  const bool itself = std::strcmp(name, "cuGetProcAddress") == 0;
  *function = itself ? reinterpret_cast<void*>(&cuGetProcAddress_v2) : self ? dlsym(self, name) : nullptr;
  if (!*function) *function = reinterpret_cast<void*>(&cuStreamSynchronize);  // refuses, whatever is asked
  if (status) *status = 0;
  return success;
}
int cuGetProcAddress(const char* name, void** function, int version, unsigned long flags) {
  return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}

}  // extern "C"
