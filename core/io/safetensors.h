// Tensors in files, in the safetensors format: readable from PyTorch, JAX and others.
#pragma once
#include <map>
#include <string>

#include "binade/core/tensor/tensor.h"

namespace binade::io {

using TensorMap = std::map<std::string, Tensor>;
using Metadata = std::map<std::string, std::string>;

struct TensorFile {
  TensorMap tensors;  // on the CPU
  Metadata metadata;
};

// Writes beside `path` and renames: an existing file is replaced whole, or stays as it was when an Error is thrown.
void save(const std::string& path, const TensorMap& tensors, const Metadata& metadata = {});
TensorMap load(const std::string& path);
TensorFile load_with_metadata(const std::string& path);  // Error names the file and what is wrong with it

}  // namespace binade::io
