// dlopen() of CUDA's libraries, in code linked with -Wl,--wrap=dlopen: cuBLASLt and NCCL are the stand-ins in this very module,
// the others do not exist on the simulated device. Everything else is loaded as usual.
#include <dlfcn.h>

#include <string>
#include <string_view>

#include "settings.h"

extern "C" {

void* __real_dlopen(const char* file, int flags);

void* __wrap_dlopen(const char* file, int flags) {
  const std::string_view name = file ? file : "";
  const std::string& absent = simt::settings().absent;
  if (!absent.empty() && name.find(absent) != name.npos) return __real_dlopen(("/absent/" + std::string(name)).c_str(), flags);
  if (name.find("libcublasLt") != name.npos || name.find("libnccl") != name.npos) {
    Dl_info self{};
    dladdr(reinterpret_cast<const void*>(&__wrap_dlopen), &self);
    // The main program is opened by the null name, a plugin by its own.
    if (void* plugin = __real_dlopen(self.dli_fname, flags | RTLD_NOLOAD)) return plugin;
    return __real_dlopen(nullptr, flags);
  }
  for (const char* other : {"libcublas", "libcudnn", "libcuda.so", "libnvrtc"}) {
    if (name.find(other) != name.npos) return nullptr;
  }
  return __real_dlopen(file, flags);
}

}  // extern "C"
