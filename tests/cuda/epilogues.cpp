// What cuBLASLt's epilogues compute beside a product, bias gradients and GELU: which calls become one launch, which do
// not and why, and that both give the same. The library's numerics are its stand-in's.
#include <gtest/gtest.h>

#include "binade/core/amp/autocast.h"
#include "binade/core/backend/kernels.h"
#include "binade/tests/cuda/simulated.h"
#include "binade/tests/cuda/traced.h"

namespace binade::test {

namespace {

constexpr const char* sums_fused = "row sums: cuBLASLt's epilogue";
constexpr const char* gelu_fused = "gelu: cuBLASLt's epilogue";

Function dense(Activation activation) {
  return [activation](const Tensors& in) { return linear(in[0], in[1], in.size() > 2 ? in[2] : Tensor(), activation); };
}

// Small integers, whose sums are exact.
Tensor integers(const Shape& shape, DType dtype, Device device) { return randint(-3, 4, shape).to(dtype).to(device); }

class Epilogues : public SimulatedDevice {
 protected:
  std::uint64_t launches(const std::function<void()>& body) {
    const std::uint64_t before = simulator->counters().launches;
    body();
    return simulator->counters().launches - before;
  }
  // c = a b + bias, and the row sums of a, unless they are left; what the trace says.
  std::string product(const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& sums, bool* left,
                      const Tensor& bias = {}) {
    kernel::MatmulEpilogue epilogue{.row_sums = sums, .gelu = {}};
    const std::string lines = traced([&] { kernel::matmul(a, b, bias, c, {.epilogue = &epilogue}); });
    *left = static_cast<bool>(epilogue.row_sums);
    return lines;
  }
};

TEST_F(Epilogues, BiasGradientsComeWithTheWeights) {
  manual_seed(1);
  const Tensors inputs{randn({3, 11, 24}), randn({16, 24}), randn({16})};
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    EXPECT_TRUE(contains(traced([&] { outcome(dense(Activation::none), inputs, gpu, dtype); }), sums_fused));
    expect_close(dense(Activation::none), inputs, dtype, 33, to_text(dtype), gpu);
    expect_close(dense(Activation::relu), inputs, dtype, 33, "relu " + to_text(dtype), gpu);
    const auto backward = [&](bool biased) {
      Tensors in{inputs[0].to(dtype).to(gpu), inputs[1].to(gpu).requires_grad_(), {}};
      if (biased) in[2] = inputs[2].to(gpu).requires_grad_();
      const amp::Autocast autocast(dtype);
      const Tensor y = dense(Activation::none)(in);
      const Tensor dy = ones(y.shape(), {.dtype = y.dtype(), .device = gpu});
      return launches([&] { y.backward(dy); });
    };
    EXPECT_EQ(backward(true), backward(false)) << to_text(dtype);
  }
}

// Of 16-bit products, under autocast, straight into FP32 gradients; and what was there is kept where it is added to.
TEST_F(Epilogues, BiasGradientsAreFp32AndAccumulate) {
  manual_seed(2);
  const Tensor x = integers({9, 8}, DType::f32, gpu), dy = integers({9, 16}, DType::f32, gpu);
  Tensor weight = integers({16, 8}, DType::f32, gpu).requires_grad_();
  Tensor bias = integers({16}, DType::f32, gpu).requires_grad_();
  const std::vector<double> terms = dy.to_vector<double>();
  std::vector<double> sums(16);
  for (std::size_t i = 0; i < terms.size(); ++i) sums[i % 16] += terms[i];
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    weight.zero_grad();
    bias.zero_grad();
    for (const int times : {1, 2}) {
      const amp::Autocast autocast(dtype);
      const Tensor y = linear(x, weight, bias);
      const std::string lines = traced([&] { y.backward(dy.to(y.dtype())); });
      EXPECT_TRUE(contains(lines, sums_fused)) << to_text(dtype) << ' ' << times << ": " << lines;
      ASSERT_EQ(bias.grad().dtype(), DType::f32);
      for (std::size_t i = 0; i < sums.size(); ++i)
        EXPECT_EQ(bias.grad().at(static_cast<std::int64_t>(i)), times * sums[i]) << to_text(dtype) << ' ' << times;
    }
  }
  weight.requires_grad_(false);  // no product to come with
  bias.zero_grad();
  linear(x, weight, bias).backward(dy);
  for (std::size_t i = 0; i < sums.size(); ++i) EXPECT_EQ(bias.grad().at(static_cast<std::int64_t>(i)), sums[i]);
}

// What is added at the end of the pass: every use of a bias, those of more biases than a launch takes, and none where a
// hook is to see the whole gradient.
TEST_F(Epilogues, AccumulatedBiasGradientsAreAddedTogether) {
  for (const Device device : {Device{}, gpu})
    for (const bool hooked : {false, true}) {
      manual_seed(4);
      const Tensor x = integers({6, 8}, DType::f32, device), weight = integers({8, 8}, DType::f32, device).requires_grad_();
      Tensors biases;
      std::vector<std::vector<double>> seen(23);
      for (std::size_t i = 0; i < seen.size(); ++i) {
        biases.push_back(integers({8}, DType::f32, device).requires_grad_());
        if (hooked) {
          biases[i].register_hook([&, i](const Tensor& grad) {
            seen[i] = grad.to_vector<double>();
            return Tensor();
          });
        }
      }
      for (const int times : {1, 2, 3}) {
        Tensor total;
        for (std::size_t i = 0; i < biases.size(); ++i) {
          const Tensor y = sum(linear(x, weight, biases[i])) + sum(linear(x, weight, biases[i])) * 2.0;
          total = total ? total + y * static_cast<double>(i) : y * static_cast<double>(i);
        }
        total.backward();
        for (std::size_t i = 0; i < biases.size(); ++i) {
          const std::vector<double> expected(8, 6.0 * 3.0 * static_cast<double>(i) * times);
          EXPECT_EQ(biases[i].grad().to_vector<double>(), expected) << to_text(device) << ' ' << i << ' ' << times;
          EXPECT_EQ(seen[i], hooked ? expected : std::vector<double>()) << to_text(device) << ' ' << i << ' ' << times << ", as the hook saw it";
        }
      }
    }
}

TEST_F(Epilogues, RowSumsThatTheLibraryCannotWriteAreLeft) {
  manual_seed(3);
  struct Case {
    const char* reason;
    Tensor a, b, c, sums, bias = {};
  };
  const auto make = [&](std::int64_t m, std::int64_t k, DType dtype, DType out) {  // a as dy lies, transposed
    return Case{"", integers({k, m}, dtype, gpu).t(), integers({k, 8}, dtype, gpu),
                empty({m, 8}, {.dtype = out, .device = gpu}), full({m}, 77, {.dtype = out, .device = gpu})};
  };
  std::vector<Case> cases(9, make(16, 5, DType::bf16, DType::bf16));
  cases[0] = make(16, 5, DType::f64, DType::f64), cases[0].reason = "f64";
  cases[1].sums = full({16}, 77, {.device = gpu}), cases[1].reason = "not of the product's dtype";
  cases[2].sums = full({17}, 77, {.dtype = DType::bf16, .device = gpu}).narrow(0, 1, 16);
  cases[2].reason = "not aligned to 16 bytes";
  cases[3].sums = full({32}, 77, {.dtype = DType::bf16, .device = gpu}).slice(0, 0, 32, 2);
  cases[3].reason = "not aligned to 16 bytes";
  cases[4] = make(16, 1, DType::f32, DType::f32), cases[4].reason = "a sum of one element";
  cases[5] = make(1, 5, DType::f32, DType::f32), cases[5].reason = "the operand does not lie transposed";
  cases[6].a = cases[6].a.contiguous(), cases[6].reason = "the operand does not lie transposed";
  cases[7].bias = integers({8}, DType::bf16, gpu), cases[7].reason = "a bias is added";
  cases[8].c = empty({16, 9}, {.dtype = DType::bf16, .device = gpu}).narrow(1, 1, 8);
  cases[8].reason = "the result is not one that cuBLASLt writes";
  for (const Case& t : cases) {
    bool left = false;
    const std::string lines = product(t.a, t.b, t.c, t.sums, &left, t.bias);
    EXPECT_TRUE(contains(lines, std::string("row sums: own kernel: ") + t.reason)) << t.reason << ": " << lines;
    EXPECT_TRUE(left) << t.reason;
    for (const double x : t.sums.to_vector<double>()) EXPECT_EQ(x, 77) << t.reason;
    Tensor expected = matmul(cpu(t.a), cpu(t.b));
    if (t.bias) expected = add(expected, cpu(t.bias));
    expect_same_bits(cpu(t.c), expected, t.reason);
  }
  Case t = make(16, 5, DType::bf16, DType::f32);
  bool left = true;
  EXPECT_TRUE(contains(product(t.a, t.b, t.c, t.sums, &left), sums_fused));
  EXPECT_FALSE(left);
  expect_same_bits(cpu(t.sums), sum(cpu(t.a).to(DType::f32), {1}), "of bf16, into f32");
  const Tensor first = t.sums;
  t.sums = full({24}, 77, {.device = gpu}).narrow(0, 4, 16);  // less aligned than the algorithm was chosen for
  EXPECT_TRUE(contains(product(t.a, t.b, t.c, t.sums, &left), sums_fused));
  expect_same_bits(cpu(t.sums), cpu(first), "another alignment");
}

TEST_F(Epilogues, WithoutAnAlgorithmTheProductIsMadeWithoutIt) {
  manual_seed(4);
  const Tensor a = integers({21, 40}, DType::f16, gpu).t(), b = integers({21, 56}, DType::f16, gpu);
  const Tensor c = empty({40, 56}, {.device = gpu}), sums = full({40}, 77, {.device = gpu});
  for (const bool asked : {true, false}) {  // the second time it is known
    if (asked) simulator->fail_call("cublasLtMatmulAlgoGetHeuristic", 1, 801);  // cudaErrorNotSupported
    bool left = false;
    const std::uint64_t count = launches([&] {
      EXPECT_TRUE(contains(product(a, b, c, sums, &left), "row sums: own kernel: cuBLASLt has no algorithm"));
    });
    EXPECT_EQ(count, 1U);
    EXPECT_TRUE(left);
    expect_same_bits(cpu(c), matmul(cpu(a).to(DType::f32), cpu(b).to(DType::f32)), "without");
  }
  const Tensor x = randn({7, 40}).to(DType::bf16).to(gpu), weight = randn({24, 40}).to(DType::bf16).to(gpu);
  const Tensor fused = linear(x, weight, {}, Activation::gelu_tanh), wide = randn({5, 40}).to(DType::bf16).to(gpu);
  simulator->fail_call("cublasLtMatmulAlgoGetHeuristic", 1, 801);
  const auto forward = [&] { return launches([&] { linear(wide, weight, {}, Activation::gelu_tanh); }); };
  EXPECT_EQ(forward(), 2U);
  EXPECT_EQ(launches([&] { linear(x, weight, {}, Activation::gelu_tanh); }), 1U);
}

TEST_F(Epilogues, GeluOf16Bits) {
  manual_seed(5);
  for (const bool biased : {true, false}) {
    Tensors inputs{randn({2, 9, 24}), randn({16, 24})};
    if (biased) inputs.push_back(randn({16}));
    const Function gelu = dense(Activation::gelu_tanh);
    for (const DType dtype : {DType::bf16, DType::f16}) {
      EXPECT_TRUE(contains(traced([&] { outcome(gelu, inputs, gpu, dtype); }), gelu_fused));
      expect_close(gelu, inputs, dtype, 24, to_text(dtype), gpu);  // gradients: what was saved before the GELU
      Tensors moved;
      for (const Tensor& x : inputs) moved.push_back(x.to(dtype).to(gpu));
      EXPECT_EQ(launches([&] { gelu(moved); }), 1U);
      moved[1] = moved[1].narrow(0, 0, 12).contiguous();
      if (biased) moved[2] = moved[2].narrow(0, 0, 12).contiguous();
      EXPECT_TRUE(contains(traced([&] { gelu(moved); }), "gelu: own kernel: rows are not multiples of 8 elements"));
      EXPECT_FALSE(contains(traced([&] { dense(Activation::gelu_erf)(moved); }), "gelu:")) << "another formula";
    }
    expect_close(gelu, inputs, DType::f32, 24, "f32", gpu);
    const auto f32 = [&] { return traced([&] { outcome(gelu, inputs, gpu, DType::f32); }); };
    EXPECT_TRUE(contains(f32(), "gelu: own kernel: f32, for which the library promises no accuracy"));
    set_float32_matmul_precision(MatmulPrecision::high);
    EXPECT_TRUE(contains(f32(), gelu_fused)) << "products of TF32 are no more accurate";
    set_float32_matmul_precision(MatmulPrecision::highest);
    EXPECT_TRUE(contains(traced([&] { outcome(gelu, inputs, gpu, DType::f64); }), "gelu: own kernel: f64"));
  }
}

}  // namespace

}  // namespace binade::test
