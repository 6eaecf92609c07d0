// The file of BINADE_CUBLASLT_TUNE: which of cuBLASLt's algorithms was the fastest for which product. It is for one kind of
// GPU and one version of the library, whose own bytes name an algorithm.
#pragma once
#include <cublasLt.h>

#include <map>
#include <optional>
#include <string>

#include "binade/core/base/device.h"

namespace binade::cuda {

class AlgorithmFile {
 public:
  // The file that the variable names now, as it was when first asked for; null where there is none.
  static AlgorithmFile* of(Device device);

  AlgorithmFile(std::string path, Device device);
  std::optional<cublasLtMatmulAlgo_t> find(const std::string& product) const;
  // Also writes the file, with what other processes added meanwhile.
  void add(const std::string& product, const cublasLtMatmulAlgo_t& algorithm, double seconds, double first_seconds);

  // One line on stderr, once: the file is left as it is, and neither read nor written any more.
  void give_up(const std::string& why);
  bool usable() const { return usable_; }
  const std::string& path() const { return path_; }

 private:
  struct Choice {
    cublasLtMatmulAlgo_t algorithm;
    double seconds, first_seconds;  // of it, and of the library's first offer
  };
  using Choices = std::map<std::string, Choice>;
  bool read(Choices& choices);  // false, and given up, where the file is not one that can be used
  void write(const Choices& choices);
  std::string path_, gpu_;
  bool usable_ = true;
  Choices choices_;
};

}  // namespace binade::cuda
