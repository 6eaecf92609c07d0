// Finds and loads the CUDA backend: libbinade_cuda.so beside libbinade, or the file BINADE_CUDA_PLUGIN names.
#pragma once
#include <string>

#include "binade/core/backend/device_backend.h"

namespace binade {

struct LoadedBackend {
  const DeviceBackend* functions = nullptr;  // null unless it is there and can be used
  std::string text;                          // one line: why not, or what there is
};

std::string library_folder();  // where libbinade lies (or the program it is part of): plugins lie beside it

// One attempt to load `path`, without remembering it. Never throws for what it finds.
LoadedBackend load_plugin(const std::string& path);

const LoadedBackend& cuda_backend();           // loaded at the first call, then remembered
const DeviceBackend& required_cuda_backend();  // the same; throws Error with the reason where there is none

}  // namespace binade
