// Tests of what a CUDA device computes, compared with the CPU. Skipped where there is no device.
#pragma once
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>

#include "binade/ops/ops.h"

namespace binade::test {

class CudaDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_available()) GTEST_SKIP() << cuda_status();
  }
  const Device gpu{DeviceType::cuda, 0};
};

inline Tensor cpu(const Tensor& x) { return x.to(Device{}); }

// Equal in every bit but the payloads of NaNs.
inline void expect_same_bits(const Tensor& a, const Tensor& b, const std::string& what) {
  ASSERT_EQ(a.shape(), b.shape()) << what;
  ASSERT_EQ(a.dtype(), b.dtype()) << what;
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i]) && std::isnan(y[i])) continue;
    ASSERT_EQ(std::bit_cast<std::uint64_t>(x[i]), std::bit_cast<std::uint64_t>(y[i]))
        << what << ": element " << i << " is " << x[i] << " and " << y[i];
  }
}

}  // namespace binade::test
