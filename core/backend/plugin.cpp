#include "binade/core/backend/plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>

#include "binade/core/base/error.h"

namespace binade {

namespace {

constexpr const char* plugin_name = "libbinade_cuda.so";

LoadedBackend load_cuda() {
  if (const char* chosen = std::getenv("BINADE_CUDA_PLUGIN"); chosen && *chosen) return load_plugin(chosen);
  const std::string path = library_folder() + '/' + plugin_name;
  if (access(path.c_str(), F_OK) == 0) return load_plugin(path);
  return {nullptr, std::string("this build has no CUDA backend (no ") + plugin_name + " beside the library)"};
}

}  // namespace

std::string library_folder() {
  Dl_info info;
  static const char here = 0;
  if (dladdr(&here, &info) == 0 || !info.dli_fname) return ".";
  const std::string path = info.dli_fname;
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

LoadedBackend load_plugin(const std::string& path) {
  // Never closed: its kernels stay in the slots.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return {nullptr, std::string("the CUDA backend cannot be loaded: ") + dlerror()};
  const auto entry = reinterpret_cast<DeviceBackendEntry>(dlsym(library, cuda_backend_entry));
  if (!entry) return {nullptr, path + " is not a binade backend: it has no " + cuda_backend_entry + "()"};
  const DeviceBackend* functions = entry(device_backend_abi);
  if (!functions || functions->abi != device_backend_abi) {
    return {nullptr, path + " was built for another version of binade"};
  }
  ProbeResult result;
  functions->probe(result);
  return {result.usable ? functions : nullptr, result.text};
}

const LoadedBackend& cuda_backend() {
  static const LoadedBackend backend = load_cuda();
  return backend;
}

const DeviceBackend& required_cuda_backend() {
  const LoadedBackend& backend = cuda_backend();
  check(backend.functions != nullptr, "device: no CUDA device: ", backend.text);
  return *backend.functions;
}

}  // namespace binade
