// TF32: the rounding bit by bit, and where MatmulPrecision::high applies it.
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "binade/core/amp/autocast.h"
#include "binade/core/backend/matmul_precision.h"
#include "binade/core/base/random.h"
#include "binade/ops/cpu/convert.h"
#include "binade/ops/ops.h"
#include "binade/tests/core/rounding.h"
#include "binade/tests/cuda/find_simulator.h"

namespace binade::test {

namespace {

struct High {  // MatmulPrecision::high for the time of a scope
  High() { set_float32_matmul_precision(MatmulPrecision::high); }
  ~High() { set_float32_matmul_precision(MatmulPrecision::highest); }
  High(const High&) = delete;
  High& operator=(const High&) = delete;
};

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }
std::vector<float> tf32(std::vector<float> x) {
  for (float& v : x) v = static_cast<float>(round_to(tf32_format, static_cast<double>(v)));
  return x;
}
Tensor tf32(const Tensor& x) { return from_vector(tf32(x.to_vector<float>()), x.shape()); }

// Every exponent and sign with the kept bits and the dropped bits around ties; infinities and NaNs come with exponent
// 255; then random bit patterns.
std::vector<float> adversarial() {
  std::vector<float> values;
  for (std::uint32_t exponent = 0; exponent < 256; ++exponent)
    for (const std::uint32_t kept : {0U, 1U, 2U, 0x155U, 0x3feU, 0x3ffU})
      for (const std::uint32_t dropped : {0U, 1U, 0xfffU, 0x1000U, 0x1001U, 0x1fffU})
        for (const std::uint32_t sign : {0U, 1U})
          values.push_back(std::bit_cast<float>(sign << 31 | exponent << 23 | kept << 13 | dropped));
  std::mt19937 generator(3);
  for (int i = 0; i < 3'000'000; ++i) values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(generator())));
  return values;
}

TEST(TF32, RoundsToNearestEvenAsDoubleArithmeticDoes) {
  int wrong = 0;
  for (const float x : adversarial()) {
    const float got = round_to_tf32(x);
    const double expected = round_to(tf32_format, static_cast<double>(x));
    if (same_value(static_cast<double>(got), expected) && (bits_of(got) & 0x1fffU) == 0) continue;
    if (++wrong <= 5) ADD_FAILURE() << std::hexfloat << x << " became " << got << ", expected " << expected;
  }
  EXPECT_EQ(wrong, 0);
}

TEST(TF32, NamedValues) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(round_to_tf32(1 + 0x1p-11F), 1);                 // ties to even
  EXPECT_EQ(round_to_tf32(1 + 0x1.8p-10F), 1 + 0x1p-9F);
  EXPECT_EQ(round_to_tf32(1 + 0x1.002p-11F), 1 + 0x1p-10F);
  EXPECT_EQ(round_to_tf32(0x1.ffcp127F), 0x1.ffcp127F);
  EXPECT_EQ(round_to_tf32(0x1.ffdffep127F), 0x1.ffcp127F);
  EXPECT_EQ(round_to_tf32(0x1.ffep127F), inf);               // half a unit beyond the largest
  EXPECT_EQ(round_to_tf32(-0x1.fffffep127F), -inf);
  EXPECT_EQ(round_to_tf32(0x1p-136F), 0x1p-136F);            // the smallest TF32 subnormal
  EXPECT_EQ(round_to_tf32(0x1p-137F), 0);
  EXPECT_EQ(bits_of(round_to_tf32(-0x1p-149F)), 0x80000000U);
  EXPECT_EQ(bits_of(round_to_tf32(std::bit_cast<float>(0xff800001U))), 0xffc00000U);  // signalling: stays NaN, quiet
  EXPECT_EQ(bits_of(round_to_tf32(std::bit_cast<float>(0x7fd55fffU))), 0x7fd54000U);  // the upper payload stays
}

TEST(TF32, VectorisedRoundingHasTheSameBits) {
  const std::vector<float> x = adversarial();
  std::vector<float> y(x.size());
  cpu::round_to_tf32(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
  int wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) wrong += bits_of(y[i]) != bits_of(round_to_tf32(x[i])) ? 1 : 0;
  EXPECT_EQ(wrong, 0);
  for (std::int64_t count = 0; count < 35; ++count) {  // remainders, in place
    std::vector<float> part(x.begin() + 5000, x.begin() + 5040);
    cpu::round_to_tf32(part.data(), part.data(), count);
    for (std::size_t i = 0; i < part.size(); ++i) {
      const float before = x[5000 + i];
      EXPECT_EQ(bits_of(part[i]), bits_of(static_cast<std::int64_t>(i) < count ? round_to_tf32(before) : before));
    }
  }
}

using Function = std::function<Tensor(Inputs)>;
struct Outcome {
  std::vector<float> y;
  std::vector<std::vector<float>> gradients;
  bool operator==(const Outcome&) const = default;
};
// A linear function of each input: dy may be any fixed tensor.
Outcome outcome(const Function& function, const Tensors& inputs, const Tensor& dy) {
  Tensors leaves;
  for (const Tensor& x : inputs) leaves.push_back(x.to(test_device()).clone().requires_grad_());
  const Tensor y = function(leaves);
  y.backward(dy.to(test_device()));
  Outcome result{y.to_vector<float>(), {}};
  for (const Tensor& x : leaves) result.gradients.push_back(x.grad().to_vector<float>());
  return result;
}

// The result and the gradients in f64 on the CPU.
std::vector<std::vector<double>> exact_outcome(const Function& function, const Tensors& inputs, const Tensor& dy) {
  Tensors leaves;
  for (const Tensor& x : inputs) leaves.push_back(x.to(DType::f64).clone().requires_grad_());
  const Tensor y = function(leaves);
  y.backward(dy.to(DType::f64));
  std::vector<std::vector<double>> all{y.to_vector<double>()};
  for (const Tensor& x : leaves) all.push_back(x.grad().to_vector<double>());
  return all;
}
Tensors mapped(const Tensors& all, const std::function<double(float)>& f) {
  Tensors results;
  for (const Tensor& x : all) {
    std::vector<double> values;
    for (const float v : x.to_vector<float>()) values.push_back(f(v));
    results.push_back(from_vector(values, x.shape(), {.dtype = DType::f64}));
  }
  return results;
}

// A GPU's library takes TF32 as a permission: each product is that of the rounded operands or that of the operands as
// they are, within the bound of an f32 sum of its terms. Ties may be rounded to even or away from zero (PTX's
// cvt.rna.tf32, the only one before sm_90).
void expect_rounded_or_exact(const Outcome& high, const Function& function, const Tensors& inputs, const Tensor& dy) {
  Tensors all = inputs;
  all.push_back(dy);
  const auto of = [&](const std::function<double(float)>& f) {
    Tensors in = mapped(all, f);
    const Tensor last = in.back();
    in.pop_back();
    return exact_outcome(function, in, last);
  };
  const auto to_even = [](float x) { return round_to(tf32_format, static_cast<double>(x)); };
  const auto away = [](float x) {
    return static_cast<double>(std::bit_cast<float>((bits_of(x) + 0x1000U) & ~0x1fffU));
  };
  const auto rounded = of(to_even), plain = of([](float x) { return x; });
  const auto terms = of([](float) { return 1; }), magnitudes = of([](float x) { return std::abs(x); });
  const auto even_magnitudes = of([&](float x) { return std::abs(to_even(x)); });
  const auto away_magnitudes = of([&](float x) { return std::abs(away(x)); });
  for (std::size_t t = 0; t < rounded.size(); ++t) {
    const std::vector<float>& got = t == 0 ? high.y : high.gradients[t - 1];
    const auto beyond = [&](const std::vector<double>& expected) {
      std::size_t count = 0;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const double sums = (terms[t][i] + 4) * 0x1p-24 * 1.001 * magnitudes[t][i];
        const double ties = (away_magnitudes[t][i] - even_magnitudes[t][i]) * 1.001;
        count += std::abs(static_cast<double>(got[i]) - expected[i]) <= sums + ties ? 0 : 1;
      }
      return count;
    };
    const std::size_t beyond_rounded = beyond(rounded[t]), beyond_plain = beyond(plain[t]);
    EXPECT_TRUE(beyond_rounded == 0 || beyond_plain == 0)
        << "tensor " << t << ", of " << got.size() << " elements: " << beyond_rounded << " are not the TF32 product's, "
        << beyond_plain << " not the FP32 product's";
  }
}

// `high` on any operands is `highest` on rounded ones, bit for bit, in forward and in backward; of a GPU's library less
// is asked.
enum class By { library, own_kernels };
void expect_rounded_operands(const Function& function, const Tensors& inputs, By by = By::library) {
  const Tensor dy = randn(function(inputs).shape());
  Tensors rounded;
  for (const Tensor& x : inputs) rounded.push_back(tf32(x));
  const Outcome exact = outcome(function, inputs, dy), expected = outcome(function, rounded, tf32(dy));
  Outcome high;
  {
    const High scope;
    high = outcome(function, inputs, dy);
  }
  if (by == By::library && tests_a_real_gpu()) return expect_rounded_or_exact(high, function, inputs, dy);
  EXPECT_EQ(high, expected);
  EXPECT_NE(high.y, exact.y);
  for (std::size_t i = 0; i < inputs.size(); ++i) EXPECT_NE(high.gradients[i], exact.gradients[i]) << i;
}

TEST(TF32, MatmulRoundsItsOperands) {
  manual_seed(1);
  const auto product = [](Inputs in) { return matmul(in[0], in[1]); };
  expect_rounded_operands(product, {randn({33, 70}), randn({70, 37})});
  expect_rounded_operands(product, {randn({3, 5, 7}), randn({7, 4})});
  expect_rounded_operands(product, {randn({2, 1, 5, 7}), randn({3, 7, 4})});
  expect_rounded_operands([](Inputs in) { return matmul(in[0].t(), in[1].t()); }, {randn({70, 33}), randn({37, 70})});
  expect_rounded_operands(product, {randn({3, 4500}), randn({4500, 5})});  // cut along k
}
TEST(TF32, LinearRoundsItsOperandsButNotItsBias) {
  manual_seed(2);
  const Function without = [](Inputs in) { return linear(in[0], in[1]); };
  expect_rounded_operands(without, {randn({9, 70}), randn({37, 70})});
  const Tensor x = randn({9, 70}), weight = randn({37, 70}), bias = randn({37});
  const Tensor expected = linear(tf32(x), tf32(weight), bias);
  const High scope;
  EXPECT_EQ(linear(x, weight, bias).to_vector<float>(), expected.to_vector<float>());
}
TEST(TF32, ConvolutionRoundsItsOperands) {
  manual_seed(3);
  expect_rounded_operands([](Inputs in) { return conv2d(in[0], in[1], {}, {.padding = {1, 1}}); },
                          {randn({2, 3, 9, 8}), randn({5, 3, 3, 3})}, By::own_kernels);
  expect_rounded_operands([](Inputs in) { return conv_transpose2d(in[0], in[1], {}, {.stride = {2, 2}}); },
                          {randn({2, 3, 5, 4}), randn({3, 4, 3, 3})}, By::own_kernels);
}
TEST(TF32, OtherDtypesAndAutocastAreNotTouched) {
  manual_seed(4);
  const Tensor a = randn({9, 70}), b = randn({70, 8});
  const auto all = [&] {
    std::vector<double> values = matmul(a.to(DType::f64), b.to(DType::f64)).to_vector<double>();
    const amp::Autocast autocast(DType::bf16);
    for (const double v : matmul(a, b).to_vector<double>()) values.push_back(v);
    return values;
  };
  const std::vector<double> highest = all();
  const High scope;
  EXPECT_EQ(all(), highest);
}

// One query, two keys, head size 1: every product of attention by hand. p = softmax([s, 0]).
TEST(TF32, AttentionRoundsProbabilitiesAndScoreGradientsToo) {
  const float q0 = 0.7001F, k0 = 1.2345F, v0 = 1.3333F, g0 = 0.8765F;
  Tensor q = from_vector<float>({q0}, {1, 1, 1, 1}).requires_grad_();
  Tensor k = from_vector<float>({k0, 0}, {1, 1, 2, 1}).requires_grad_();
  Tensor v = from_vector<float>({v0, 0}, {1, 1, 2, 1}).requires_grad_();
  const Tensor dy = from_vector<float>({g0}, {1, 1, 1, 1});
  const auto t = [](double x) { return round_to(tf32_format, x); };
  struct Expected {
    double o, dv, dq, dk;
  };
  const auto by_hand = [&](const auto& r) {
    const double qq = r(q0), kk = r(k0), vv = r(v0), g = r(g0), s = qq * kk;
    const double unnormalised = std::exp(-s);  // of key 1, whose value is 0: its rounding is seen in nothing
    const double p = 1 / (1 + unnormalised), o = vv * p;
    const double ds = p * (g * vv - static_cast<double>(g0) * o);  // delta is no product of operands
    return Expected{o, r(p) * g, r(ds) * kk, r(ds) * qq};
  };
  const Expected rounded = by_hand(t), plain = by_hand([](double x) { return x; });
  const High scope;
  const Tensor y = scaled_dot_product_attention(q, k, v, {}, {.scale = 1.0});
  y.backward(dy);
  const auto expect = [](double got, double right, double without, const char* what) {
    EXPECT_NEAR(got, right, 8 * 0x1p-24) << what;
    EXPECT_GT(std::abs(right - without), 64 * 0x1p-24) << what << ": the example must show the rounding";
  };
  expect(y.item<double>(), rounded.o, plain.o, "o");
  expect(v.grad().at(0), rounded.dv, plain.dv, "dv");
  expect(q.grad().at(0), rounded.dq, plain.dq, "dq");
  expect(k.grad().at(0), rounded.dk, plain.dk, "dk");
  // o = (0 * 1 + v1 * p) / (1 + p) with an unnormalised p: the one that is rounded in forward.
  const Tensor other = scaled_dot_product_attention(from_vector<float>({1}, {1, 1, 1, 1}),
                                                    from_vector<float>({0, -0.3F}, {1, 1, 2, 1}),
                                                    from_vector<float>({0, 1}, {1, 1, 2, 1}), {}, {.scale = 1.0});
  const double p = std::exp(t(-0.3F));
  expect(other.item<double>(), t(p) / (1 + p), p / (1 + p), "o of a rounded probability");
}

TEST(TF32, BackwardUsesThePrecisionThatIsSetThen) {
  manual_seed(5);
  const Tensor a = randn({5, 40}), b = randn({40, 6}), dy = randn({5, 6});
  const auto gradient = [&](MatmulPrecision forward, MatmulPrecision backward) {
    const Tensor x = a.clone().requires_grad_();
    set_float32_matmul_precision(forward);
    const Tensor y = matmul(x, b);
    set_float32_matmul_precision(backward);
    y.backward(dy);
    set_float32_matmul_precision(MatmulPrecision::highest);
    return x.grad().to_vector<float>();
  };
  const auto highest = MatmulPrecision::highest, high = MatmulPrecision::high;
  EXPECT_EQ(gradient(high, highest), gradient(highest, highest));
  EXPECT_EQ(gradient(highest, high), gradient(high, high));
  EXPECT_NE(gradient(high, highest), gradient(high, high));
}

}  // namespace

}  // namespace binade::test
