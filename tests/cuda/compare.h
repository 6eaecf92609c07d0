// Tests of what a CUDA device computes, compared with the CPU. Skipped where there is no device, unless one was asked for.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>

#include "binade/core/base/random.h"
#include "binade/ops/ops.h"

namespace binade::test {

class CudaDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_available()) return;
    ASSERT_EQ(std::getenv("BINADE_TEST_DEVICE"), nullptr) << cuda_status();
    GTEST_SKIP() << cuda_status();
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

// Attention and convolution without cuDNN for the time of this object.
struct OwnKernelsOnly {
  OwnKernelsOnly() { setenv("BINADE_CUDNN", "0", 1); }
  ~OwnKernelsOnly() { unsetenv("BINADE_CUDNN"); }
};

using Function = std::function<Tensor(const Tensors&)>;

// The result and the gradients of the floating inputs, with dy 1, 2, .. 5, 1, .. quarters.
inline Tensors outcome(const Function& function, const Tensors& inputs, Device device, DType dtype) {
  Tensors moved;
  for (const Tensor& x : inputs) {
    const bool floating = x && is_floating(x.dtype());
    moved.push_back(x ? x.detach().to(floating ? dtype : x.dtype()).to(device) : x);
    if (floating) moved.back().requires_grad_();
  }
  manual_seed(5);
  const Tensor y = function(moved);
  std::vector<float> dy;
  for (std::int64_t i = 0; i < y.numel(); ++i) dy.push_back(static_cast<float>(1 + i % 5) / 4);
  y.backward(from_vector(dy, y.shape()).to(dtype).to(device));
  Tensors all{y.detach()};
  for (const Tensor& x : moved)
    if (x && x.requires_grad()) all.push_back(x.grad());
  return all;
}

// Within 4 eps sqrt(terms) of f64 on the CPU with the same inputs, of the largest magnitude; and the same bits twice.
inline void expect_close(const Function& function, Tensors inputs, DType dtype, double terms, const std::string& what,
                         Device gpu) {
  for (Tensor& x : inputs)
    if (x && is_floating(x.dtype())) x = x.to(dtype).to(DType::f32);  // both start from the rounded values
  const Tensors got = outcome(function, inputs, gpu, dtype), again = outcome(function, inputs, gpu, dtype);
  const Tensors exact = outcome(function, inputs, Device{}, DType::f64);
  ASSERT_EQ(got.size(), exact.size());
  for (std::size_t k = 0; k < got.size(); ++k) {
    expect_same_bits(got[k], again[k], what + ", twice");
    const std::vector<double> a = got[k].to_vector<double>(), b = exact[k].to_vector<double>();
    double largest = 1, furthest = 0;
    for (std::size_t i = 0; i < b.size(); ++i) {
      largest = std::max(largest, std::abs(b[i]));
      furthest = std::max(furthest, std::isnan(a[i]) ? 1e30 : std::abs(a[i] - b[i]));
    }
    EXPECT_LE(furthest, 4 * epsilon(dtype) * std::sqrt(terms) * largest) << what << ", tensor " << k;
  }
}

}  // namespace binade::test
