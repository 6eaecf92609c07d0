// Attention, convolution, pooling and batch norm on a CUDA device where the operation suite's samples do not reach:
// wide heads, vectors, dropout, TF32, sums in pieces. What is compared with is the CPU, in f64 where tolerances are
// needed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "binade/core/backend/kernels.h"
#include "binade/core/base/random.h"
#include "binade/ops/formulas.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/cuda/compare.h"

namespace binade::test {

namespace {

class CudaKernels : public CudaDevice {
  const OwnKernelsOnly own_;
};

TEST_F(CudaKernels, AttentionOfEveryWidth) {
  for (const std::int64_t d : {1, 8, 32, 64, 72, 128, 136, 256}) {
    manual_seed(1);
    const Tensors inputs{randn({1, 4, 37, d}), randn({1, 2, 41, d}), randn({1, 2, 41, d})};
    const Function function = [](const Tensors& in) {
      return scaled_dot_product_attention(in[0], in[1], in[2], {}, {.is_causal = true});
    };
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16})
      expect_close(function, inputs, dtype, std::max<double>(2 * 41, static_cast<double>(d)),
                   "d " + std::to_string(d) + " " + to_text(dtype), gpu);
  }
  const Tensor wide = zeros({1, 1, 2, 257}, {.device = gpu});
  expect_error([&] { scaled_dot_product_attention(wide, wide, wide); },
               "attention: at most 256 channels per head on CUDA, got 257");
}

// Tiles before, on and beyond the diagonal, for each size of tile; channels by vectors and one by one.
TEST_F(CudaKernels, AttentionOfSeveralTiles) {
  for (const auto& [d, dtype] : {std::pair{5, DType::f64},
                                 {24, DType::f32},
                                 {40, DType::bf16},
                                 {64, DType::f32},
                                 {63, DType::f32},
                                 {100, DType::f16},
                                 {128, DType::f32},
                                 {160, DType::f32}}) {
    manual_seed(10);
    const Tensors inputs{randn({1, 2, 130, d}), randn({1, 1, 195, d}), randn({1, 1, 195, d})};
    const Function function = [](const Tensors& in) {
      return scaled_dot_product_attention(in[0], in[1], in[2], {}, {.is_causal = true});
    };
    expect_close(function, inputs, dtype, 2 * 195, "d " + std::to_string(d) + " " + to_text(dtype), gpu);
  }
}

TEST_F(CudaKernels, AttentionDropsWhatTheCpuDrops) {
  manual_seed(2);
  const Tensors inputs{randn({2, 4, 66, 16}), randn({2, 2, 70, 16}), randn({2, 2, 70, 16})};
  const Function function = [](const Tensors& in) {
    return scaled_dot_product_attention(in[0], in[1], in[2], {}, {.dropout = 0.3});
  };
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16})
    expect_close(function, inputs, dtype, 2 * 70, "dropout " + to_text(dtype), gpu);
}

TEST_F(CudaKernels, AttentionMasksOfSeveralTiles) {
  manual_seed(3);
  Tensor added = randn({1, 4, 70, 1});
  std::vector<std::uint8_t> seen;
  for (int i = 0; i < 67; ++i) seen.push_back(i % 3 != 1 && i != 40);
  const Tensor allowed = from_vector(seen, {67}).to(DType::boolean);
  const Tensors inputs{randn({2, 4, 70, 8}), randn({2, 4, 67, 8}), randn({2, 4, 67, 8})};
  for (const Tensor& mask : {added, allowed}) {
    const Function function = [&](const Tensors& in) {
      return scaled_dot_product_attention(in[0], in[1], in[2], mask.to(in[0].device()));
    };
    expect_close(function, inputs, DType::f32, 70, "mask " + to_text(mask.dtype()), gpu);
  }
}

TEST_F(CudaKernels, ProductsRoundTheirOperandsToTf32) {
  manual_seed(4);
  const Tensor q = randn({1, 2, 33, 16}), x = randn({2, 3, 9, 9}), weight = randn({4, 3, 3, 3});
  const Tensors attention_inputs{q, randn({1, 2, 40, 16}), randn({1, 2, 40, 16})}, conv_inputs{x, weight};
  const Function attention = [](const Tensors& in) { return scaled_dot_product_attention(in[0], in[1], in[2]); };
  const Function convolution = [](const Tensors& in) { return conv2d(in[0], in[1], {}, {.padding = {1, 1}}); };
  for (const bool of_attention : {true, false}) {
    const Function& function = of_attention ? attention : convolution;
    const Tensors& inputs = of_attention ? attention_inputs : conv_inputs;
    const Tensors exact = outcome(function, inputs, gpu, DType::f32);
    set_float32_matmul_precision(MatmulPrecision::high);
    const Tensors there = outcome(function, inputs, gpu, DType::f32);
    const Tensors here = outcome(function, inputs, Device{}, DType::f32);
    set_float32_matmul_precision(MatmulPrecision::highest);
    for (std::size_t k = 0; k < there.size(); ++k) {
      const std::vector<double> a = there[k].to_vector<double>(), b = here[k].to_vector<double>(),
                                c = exact[k].to_vector<double>();
      double apart = 0, effect = 0, largest = 1;
      for (std::size_t i = 0; i < a.size(); ++i) {
        apart = std::max(apart, std::abs(a[i] - b[i]));
        effect = std::max(effect, std::abs(c[i] - b[i]));
        largest = std::max(largest, std::abs(b[i]));
      }
      // Probabilities are rounded against another maximum than on the CPU, so some fall to the other neighbour: at most
      // half of what rounding changes at all. Convolution has no such step.
      EXPECT_LE(apart, of_attention ? 0.5 * effect : 4 * epsilon(DType::f32) * 27 * largest) << "tensor " << k;
      EXPECT_GT(effect, 0x1p-14 * largest) << "tensor " << k;
    }
  }
}

TEST_F(CudaKernels, WeightGradientsAreSummedInPieces) {
  manual_seed(6);
  const Tensors inputs{randn({3, 4, 30, 31}), randn({6, 2, 3, 3}), randn({6})};  // 2790 positions: ten pieces
  const Function function = [](const Tensors& in) {
    return conv2d(in[0], in[1], in[2], {.padding = {1, 1}, .groups = 2});
  };
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16})
    expect_close(function, inputs, dtype, 3 * 30 * 31, "conv2d " + to_text(dtype), gpu);
}

TEST_F(CudaKernels, ConvolutionsLargerThanATile) {
  manual_seed(7);
  const Tensors inputs{randn({2, 70, 9, 9}), randn({67, 70, 2, 3})};
  const Function function = [](const Tensors& in) {
    return conv2d(in[0], in[1], {}, {.stride = {2, 1}, .padding = {1, 2}, .dilation = {1, 2}});
  };
  expect_close(function, inputs, DType::f32, 70 * 6, "conv2d", gpu);
}

TEST_F(CudaKernels, PoolingHasTheCpusBits) {
  manual_seed(8);
  Tensor x = randn({2, 3, 13, 17});
  x.set(20, std::numeric_limits<double>::quiet_NaN());
  x.set(300, std::numeric_limits<double>::infinity());
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (const Pool2dOptions& options :
         {Pool2dOptions{.kernel = {3, 2}}, Pool2dOptions{.kernel = {3, 5}, .stride = {1, 2}, .padding = {1, 2}},
          Pool2dOptions{.kernel = {2, 2}, .stride = {3, 4}},
          Pool2dOptions{.kernel = {4, 3}, .stride = {2, 1}, .padding = {2, 1}, .count_include_pad = false}}) {
      const Function largest = [&](const Tensors& in) { return max_pool2d(in[0], options); };
      const Function mean = [&](const Tensors& in) { return avg_pool2d(in[0], options); };
      for (const Function& function : {largest, mean}) {
        const Tensors there = outcome(function, {x}, gpu, dtype), here = outcome(function, {x}, Device{}, dtype);
        for (std::size_t k = 0; k < here.size(); ++k) expect_same_bits(cpu(there[k]), here[k], to_text(dtype));
      }
    }
  }
}

// Who computes sum_c do o depends on whether the gradient of the queries is wanted; the bits do not.
TEST_F(CudaKernels, AttentionGradientsOfKeysAlone) {
  manual_seed(4);
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const auto inputs = [&](Shape shape) { return randn(shape).to(dtype).to(gpu); };
    const Tensor q = inputs({2, 4, 37, 24}), k = inputs({2, 2, 41, 24}), v = inputs({2, 2, 41, 24});
    const Tensor dy = inputs({2, 4, 37, 24});
    const auto gradients = [&](bool of_queries) {
      const Tensors in{q.clone().requires_grad_(of_queries), k.clone().requires_grad_(), v.clone().requires_grad_()};
      scaled_dot_product_attention(in[0], in[1], in[2], {}, {.is_causal = true, .dropout = 0}).backward(dy);
      return in;
    };
    const Tensors without = gradients(false), all = gradients(true);
    ASSERT_TRUE(all[0].grad() && !without[0].grad());
    for (const std::size_t i : {1, 2}) expect_same_bits(all[i].grad(), without[i].grad(), to_text(dtype));
  }
}

// Few rows and many, in one group of blocks and in several; with vectors and without; and rows too long for a block's
// memory. Each gradient overwritten and added to, with and without the others.
TEST_F(CudaKernels, NormGradientsOfAllShapes) {
  struct Case {
    std::int64_t rows, n;
  };
  for (const auto& [rows, n] : {Case{1, 8}, {17, 24}, {300, 20}, {5000, 16}, {3, 10'000}, {3, 30'000}}) {
    const std::string what = "[" + std::to_string(rows) + ", " + std::to_string(n) + "]";
    manual_seed(11);
    const Tensors inputs{randn({rows, n}), randn({n}), randn({n})};
    const Function layer = [](const Tensors& in) { return layer_norm(in[0], in[1], in[2]); };
    const Function rms = [](const Tensors& in) { return rms_norm(in[0], in[1]); };
    const double terms = static_cast<double>(std::max(rows, n));
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      expect_close(layer, inputs, dtype, terms, "layer_norm " + what + " " + to_text(dtype), gpu);
      expect_close(rms, {inputs[0], inputs[1]}, dtype, terms, "rms_norm " + what + " " + to_text(dtype), gpu);
    }
    const auto gradients = [&](Device device, DType dtype, int wanted, bool accumulate) {
      const auto moved = [&](const Tensor& x) { return x.to(dtype).to(device); };
      const Tensor x = moved(inputs[0]), weight = moved(inputs[1]), dy = moved(mul(inputs[0], inputs[2]));
      const TensorOptions statistics{.dtype = dtype, .device = device};
      const Tensor mean = full({rows}, 0.125, statistics), rstd = full({rows}, 0.75, statistics);
      const Tensor dx = full({rows, n}, 2, statistics), dweight = full({n}, 3, statistics), dbias = full({n}, 4, statistics);
      const auto if_wanted = [&](int bit, const Tensor& to) { return wanted & bit ? TensorView(to) : TensorView{}; };
      kernel::layer_norm_backward(x, weight, mean, rstd, dy, if_wanted(1, dx), if_wanted(2, dweight), if_wanted(4, dbias),
                                  {.x = accumulate, .parameters = accumulate});
      return Tensors{dx, dweight, dbias};
    };
    for (int wanted = 1; wanted < 8; ++wanted)
      for (const bool accumulate : {false, true}) {
        const Tensors got = gradients(gpu, DType::f32, wanted, accumulate);
        const Tensors exact = gradients(Device{}, DType::f64, wanted, accumulate);
        for (std::size_t k = 0; k < exact.size(); ++k) {
          const std::vector<double> a = got[k].to_vector<double>(), b = exact[k].to_vector<double>();
          double largest = 1, furthest = 0;
          for (std::size_t i = 0; i < b.size(); ++i) {
            largest = std::max(largest, std::abs(b[i]));
            furthest = std::max(furthest, std::abs(a[i] - b[i]));
          }
          EXPECT_LE(furthest, 4 * epsilon(DType::f32) * std::sqrt(terms) * largest)
              << what << " wanted " << wanted << (accumulate ? " accumulated" : "") << ", gradient " << k;
        }
      }
  }
}

// A sum with its norm has the bits of the kernels one by one: rows with vectors and without, residuals that start where
// no vector does, rows too long for a block's memory, and draws of which a row starts within a block of four words.
TEST_F(CudaKernels, SumsWithTheirNorms) {
  struct Case {
    std::int64_t rows, n, start;
  };
  for (const auto& [rows, n, start] :
       {Case{5, 64, 0}, {5, 64, 1}, {3, 21, 0}, {40, 8, 0}, {2, 1032, 0}, {1, 20'000, 0}, {1, 60'000, 0}})
    for (const auto& [of_residual, of_branch] : {std::pair(DType::f32, DType::bf16),
                                                 {DType::f32, DType::f32},
                                                 {DType::f16, DType::f16},
                                                 {DType::f64, DType::f16},
                                                 {DType::f64, DType::f64}})
      for (const double p : {0.0, 0.4}) {
        manual_seed(21);
        const std::string what = "[" + std::to_string(rows) + ", " + std::to_string(n) + "] from " +
                                 std::to_string(start) + ", " + to_text(of_residual) + " + " + to_text(of_branch) +
                                 ", dropout " + std::to_string(p);
        const auto drawn = [&](DType dtype) {
          return randn({start + rows * n}).to(dtype).to(gpu).narrow(0, start, rows * n).view({rows, n});
        };
        const Tensor residual = drawn(of_residual), branch = drawn(of_branch);
        const DType of_sum = promote_types(of_residual, of_branch);
        const TensorOptions there{.dtype = of_sum, .device = gpu},
            statistics{.dtype = of_sum == DType::f64 ? DType::f64 : DType::f32, .device = gpu};
        const Tensor weight = randn({n}).to(gpu), bias = randn({n}).to(gpu);
        const PhiloxState draw{42, 7};
        Tensor dropped = branch.clone(), sum = zeros({rows, n}, there), y = zeros({rows, n}, there),
               mean = zeros({rows}, statistics), rstd = zeros({rows}, statistics);
        const Tensors expected{sum.clone(), y.clone(), mean.clone(), rstd.clone()};
        if (p > 0) kernel::dropout(branch, dropped, draw, p);
        kernel::binary_forward<formulas::Add>(residual, dropped, expected[0]);
        kernel::layer_norm(expected[0], weight, bias, expected[1], expected[2], expected[3], 1e-5);
        kernel::add_norm(residual, branch, weight, bias, sum, y, mean, rstd,
                         {.eps = 1e-5, .dropout = p, .state = draw});
        const Tensors got{sum, y, mean, rstd};
        for (std::size_t k = 0; k < got.size(); ++k) expect_same_bits(cpu(got[k]), cpu(expected[k]), what);
        kernel::rms_norm(expected[0], weight, expected[1], expected[3], 1e-5);
        kernel::add_norm(residual, branch, weight, {}, sum, y, {}, rstd, {.eps = 1e-5, .dropout = p, .state = draw});
        for (const std::size_t k : {0, 1, 3}) expect_same_bits(cpu(got[k]), cpu(expected[k]), what + ", rms_norm");
      }
}

TEST_F(CudaKernels, BatchNormOfWholeVectors) {
  manual_seed(9);
  const Tensors inputs{randn({4, 5, 6, 16}), randn({5}), randn({5})};
  for (const bool training : {true, false}) {
    const Function batch = [&](const Tensors& in) {
      const TensorOptions there{.dtype = in[0].dtype() == DType::f64 ? DType::f64 : DType::f32,
                                .device = in[0].device()};
      return batch_norm(in[0], in[1], in[2], full({5}, 0.25, there), full({5}, 2, there), {.training = training});
    };
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16})
      expect_close(batch, inputs, dtype, 4 * 6 * 16, "batch_norm " + to_text(dtype), gpu);
  }
  expect_error([&] { batch_norm(inputs[0].to(gpu), {}, {}, zeros({5}), ones({5})); },
               "batch_norm: running statistics must be on x's device: x is on cuda:0, they are on cpu");
}

}  // namespace

}  // namespace binade::test
