// Golden files: tensors that PyTorch computed, tests/golden/*.safetensors, and how far ours may be from them.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "binade/core/io/safetensors.h"

namespace binade::test {

inline io::TensorMap golden(const std::string& name) {
  return io::load(BINADE_SOURCE_DIR "/tests/golden/" + name + ".safetensors");
}

// |got - expected| / |expected|, Euclidean; against 0 the absolute norm.
inline double relative_error(const Tensor& got, const Tensor& expected) {
  const std::vector<double> a = got.to_vector<double>(), b = expected.to_vector<double>();
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

inline void expect_close(const Tensor& got, const Tensor& expected, double relative, double absolute,
                         const std::string& what) {
  ASSERT_TRUE(got.defined()) << what;
  ASSERT_EQ(to_text(got.shape()), to_text(expected.shape())) << what;
  const std::vector<double> a = got.to_vector<double>(), b = expected.to_vector<double>();
  for (std::size_t i = 0; i < a.size(); ++i)
    ASSERT_LE(std::abs(a[i] - b[i]), relative * std::abs(b[i]) + absolute)
        << what << ", element " << i << ": " << a[i] << ", expected " << b[i];
}

}  // namespace binade::test
