// fp8_linear: gradients against float64 products of operands quantised here, and delayed scaling against a simulation.
#include <gtest/gtest.h>
#include <omp.h>

#include <deque>
#include <functional>

#include "binade/core/amp/autocast.h"
#include "binade/core/base/random.h"
#include "binade/core/tensor/grad_mode.h"
#include "binade/ops/fp8_linear.h"
#include "binade/tests/core/expect_error.h"
#include "binade/tests/core/rounding.h"
#include "binade/tests/core/test_device.h"

namespace binade::test {

namespace {

using amp::Fp8Scaling;
using Values = std::vector<double>;

struct Sizes {
  std::size_t rows, in, out;
};
Values turned(const Values& x, std::size_t columns) {
  const std::size_t rows = x.size() / columns;
  Values y(x.size());
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t j = 0; j < columns; ++j) y[j * rows + i] = x[i * columns + j];
  return y;
}
double amax_of(const double* begin, const double* end) {
  double amax = 0;
  for (const double* v = begin; v != end; ++v) amax = std::max(amax, std::abs(*v));
  return amax;
}

// x [rows, n] as an FP8 product that sums over n sees it.
Values as_seen(Values x, std::size_t n, const Format& format, Fp8Scaling scaling) {
  if (scaling != Fp8Scaling::block) {
    const float scale = static_cast<float>(format.max) / static_cast<float>(amax_of(x.data(), x.data() + x.size()));
    const double inverse = static_cast<double>(1 / scale);
    for (double& v : x) v = round_to_saturated(format, static_cast<double>(static_cast<float>(v) * scale)) * inverse;
    return x;
  }
  for (std::size_t row = 0; row < x.size(); row += n)
    for (std::size_t start = row; start < row + n; start += 32) {
      const std::size_t end = std::min(start + 32, row + n);
      const double amax = amax_of(x.data() + start, x.data() + end);
      const double scale = std::ldexp(1, std::ilogb(amax) - (format.mantissa == 3 ? 8 : 15));
      for (std::size_t i = start; i < end; ++i) x[i] = round_to_saturated(format, x[i] / scale) * scale;
    }
  return x;
}

// c [m, n] = a [m, k] b^T, b [n, k]; `magnitude` sums the absolute products.
void product(const Values& a, const Values& b, std::size_t k, Values& c, Values& magnitude) {
  const std::size_t m = a.size() / k, n = b.size() / k;
  c.assign(m * n, 0);
  magnitude = c;
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t j = 0; j < n; ++j)
      for (std::size_t l = 0; l < k; ++l) {
        c[i * n + j] += a[i * k + l] * b[j * k + l];
        magnitude[i * n + j] += std::abs(a[i * k + l] * b[j * k + l]);
      }
}

void expect_close(const Tensor& got, const Values& expected, const Values& magnitude, std::size_t k, const char* what) {
  const Values values = got.to_vector<double>();
  const double output = got.dtype() == DType::f32 ? 0 : epsilon(got.dtype()) / 2;
  ASSERT_EQ(values.size(), expected.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double allowed = static_cast<double>(k + 4) * 0x1p-24 * magnitude[i] + 1.001 * output * std::abs(expected[i]);
    ASSERT_NEAR(values[i], expected[i], allowed) << what << " element " << i;
  }
}

using Case = std::tuple<Fp8Scaling, DType>;
class Fp8Gradients : public ::testing::TestWithParam<Case> {};

TEST_P(Fp8Gradients, AreProductsOfQuantisedOperands) {
  const Fp8Scaling scaling = std::get<0>(GetParam());
  const DType dtype = std::get<1>(GetParam());
  manual_seed(3);
  const Sizes s{37, 70, 33};
  const Format e4m3 = format_of<Float8E4M3>(), e5m2 = format_of<Float8E5M2>();
  const Device device = test_device();
  const Tensor x = randn({37, 70}).to(dtype).to(device).requires_grad_();
  const Tensor weight = randn({33, 70}).to(device).requires_grad_(), bias = randn({33}).to(device).requires_grad_();
  const Tensor dy = randn({37, 33}).to(dtype).to(device);
  Fp8LinearOptions options{.recipe = {.scaling = scaling}, .state = {}};
  const auto forward = [&] {
    const amp::Autocast autocast(dtype);
    return fp8_linear(x, weight, bias, options);
  };
  const Tensor y = forward();
  EXPECT_EQ(y.dtype(), dtype);
  y.backward(dy, {.retain_graph = true});
  EXPECT_EQ(x.grad().dtype(), dtype);
  EXPECT_EQ(weight.grad().dtype(), DType::f32);

  const Values xs = x.to_vector<double>(), ws = weight.to(dtype).to_vector<double>(), gs = dy.to_vector<double>();
  Values expected, magnitude;
  // dx sums over out, dweight over rows.
  product(as_seen(gs, s.out, e5m2, scaling), as_seen(turned(ws, s.in), s.out, e4m3, scaling), s.out, expected, magnitude);
  expect_close(x.grad(), expected, magnitude, s.out, "dx");
  product(as_seen(turned(gs, s.out), s.rows, e5m2, scaling), as_seen(turned(xs, s.in), s.rows, e4m3, scaling), s.rows,
          expected, magnitude);
  expect_close(weight.grad(), expected, magnitude, s.rows, "dweight");
  Values dbias(s.out, 0), dbias_magnitude(s.out, 0);
  for (std::size_t i = 0; i < gs.size(); ++i) {
    dbias[i % s.out] += gs[i];  // not quantised
    dbias_magnitude[i % s.out] += std::abs(gs[i]);
  }
  expect_close(bias.grad(), dbias, dbias_magnitude, s.rows, "dbias");

  y.backward(dy);  // adds to what is there
  for (double& v : expected) v *= 2;
  for (double& v : magnitude) v *= 2;
  expect_close(weight.grad(), expected, magnitude, s.rows, "dweight, accumulated");
}

INSTANTIATE_TEST_SUITE_P(Recipes, Fp8Gradients,
                         ::testing::Combine(::testing::Values(Fp8Scaling::current, Fp8Scaling::block),
                                            ::testing::Values(DType::f32, DType::bf16, DType::f16)),
                         [](const auto& param) {
                           return std::string(std::get<0>(param.param) == Fp8Scaling::block ? "block_" : "current_") +
                                  to_text(std::get<1>(param.param));
                         });

TEST(Fp8Linear, ActivationsHaveTheirGradient) {
  // y = relu(1 * w): where pre is negative nothing flows; the rest is exact in FP8.
  const Tensor x = ones({1, 1}).requires_grad_(), weight = from_vector<float>({2, -2}, {2, 1}).requires_grad_();
  const Fp8LinearOptions options{.recipe = {.scaling = Fp8Scaling::current}, .state = {}, .activation = Activation::relu};
  const Tensor y = fp8_linear(x, weight, {}, options);
  EXPECT_NEAR(y.at(0), 2, 2 * 0x1p-22);
  EXPECT_EQ(y.at(1), 0);
  y.backward(from_vector<float>({4, 8}, {1, 2}));
  EXPECT_NEAR(x.grad().at(0), 8, 8 * 0x1p-22);  // scales have rounded inverses
  EXPECT_NEAR(weight.grad().at(0), 4, 4 * 0x1p-22);
  EXPECT_EQ(weight.grad().at(1), 0);
}

TEST(Fp8Linear, SameBitsForOneAndTwoThreads) {
  const auto bits = [](int threads, Fp8Scaling scaling) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    manual_seed(9);
    const Tensor x = randn({300, 130}).requires_grad_(), weight = randn({170, 130}).requires_grad_();
    const amp::Fp8Recipe recipe{.scaling = scaling};
    const Fp8LinearOptions options{.recipe = recipe, .state = amp::make_fp8_state(recipe), .update = true};
    std::vector<float> all;
    for (int step = 0; step < 2; ++step) {
      const Tensor y = fp8_linear(x, weight, {}, options);
      y.backward(randn({300, 170}));
      for (const Tensor& t : {y, x.grad(), weight.grad()})
        for (const float v : t.to_vector<float>()) all.push_back(v);
    }
    omp_set_num_threads(before);
    return all;
  };
  for (const Fp8Scaling scaling : {Fp8Scaling::delayed, Fp8Scaling::current, Fp8Scaling::block})
    EXPECT_EQ(bits(1, scaling), bits(2, scaling));
}

// E5M2's smallest number is 2^-16: without a scale a gradient of 2^-17 or less is zero.
TEST(Fp8Linear, TinyGradientsNeedAScale) {
  manual_seed(4);
  const Tensor x = randn({32, 32}).requires_grad_(), dy = full({32, 32}, 0x1p-18);
  Tensor weight = randn({32, 32}).requires_grad_();
  const Tensor exact = matmul(dy.t(), x.detach());
  // The smallest part of the weight gradient that is lost, as relative error in the Euclidean norm.
  const auto error = [&](const amp::Fp8Recipe& recipe, bool update, int steps) {
    const Fp8LinearOptions options{.recipe = recipe, .state = amp::make_fp8_state(recipe), .update = update};
    for (int step = 0; step < steps; ++step) {
      weight.zero_grad();
      fp8_linear(x, weight, {}, options).backward(dy);
    }
    const NoGrad guard;
    return norm(weight.grad() - exact).item<double>() / norm(exact).item<double>();
  };
  EXPECT_EQ(error({}, false, 1), 1) << "without scaling, all of it is lost";
  // What is left is x rounded to E4M3: at most half a unit, 2^-4, of every value.
  EXPECT_LT(error({.scaling = Fp8Scaling::current}, false, 1), 0x1p-4);
  EXPECT_LT(error({.scaling = Fp8Scaling::block}, false, 1), 0x1p-4);
  EXPECT_EQ(error({}, true, 1), 1) << "delayed scaling starts with 1";
  EXPECT_LT(error({}, true, 2), 0x1p-4);
}

// ---- delayed scaling -------------------------------------------------------------------------------------------------

struct Simulated {  // one operand of one layer, by hand
  amp::Fp8Recipe recipe;
  float largest;
  std::deque<float> history = {};
  float scale = 1;
  int count = 0;

  void use(float amax) {
    history.push_front(amax);
    while (static_cast<std::int64_t>(history.size()) > recipe.amax_history) history.pop_back();
    if (++count % recipe.interval != 0) return;
    float reached = 0;
    for (std::size_t i = 0; i < (recipe.amax_algorithm == amp::Fp8Amax::max ? history.size() : 1); ++i)
      if (std::isfinite(history[i]) && history[i] > reached) reached = history[i];
    if (reached > 0) scale = largest / reached / std::exp2(static_cast<float>(recipe.margin));
  }
};

class DelayedScaling : public ::testing::TestWithParam<amp::Fp8Recipe> {};

TEST_P(DelayedScaling, FollowsTheSimulation) {
  const amp::Fp8Recipe recipe = GetParam();
  const amp::Fp8State state = amp::make_fp8_state(recipe);
  const Fp8LinearOptions options{.recipe = recipe, .state = state, .update = true};
  Simulated x{recipe, 448}, weight{recipe, 448}, dy{recipe, 57344};
  const float amaxes[] = {1, 3, 0.1F, 0, 7000, 2, INFINITY, 0.3F, 0, 0, 0, 0, 0, 0x1p-30F, 5, NAN, 0.7F, 0.6F, 0.5F, 1e-3F};
  int step = 0;
  for (const float amax : amaxes) {
    const float of_weight = 1 + static_cast<float>(step % 7), of_dy = amax * 0x1p-10F;
    const Tensor w = full({4, 4}, of_weight).requires_grad_();
    Tensor values = full({2, 4}, amax / 2);
    values.set(5, -amax);
    const Tensor input = values.requires_grad_();
    const Tensor y = fp8_linear(input, w, {}, options);
    x.use(amax);
    weight.use(of_weight);
    y.backward(full({2, 4}, of_dy));
    dy.use(of_dy);
    EXPECT_EQ(state.scale.to_vector<float>(), (std::vector<float>{x.scale, weight.scale, dy.scale})) << "step " << step;
    EXPECT_EQ(state.count.to_vector<std::int64_t>(), std::vector<std::int64_t>(3, ++step));
  }
}

// The scale of a step is the one the steps before left.
TEST(DelayedScaling, QuantisesWithTheScaleOfEarlierSteps) {
  const amp::Fp8State state = amp::make_fp8_state({});
  const Fp8LinearOptions options{.recipe = {}, .state = state, .update = true};
  const Tensor weight = ones({1, 1}).requires_grad_();
  const auto y = [&](float x) { return fp8_linear(full({1, 1}, x), weight, {}, options).item<double>(); };
  EXPECT_EQ(y(1000), 448);                   // scale 1: saturates
  EXPECT_NEAR(y(1000), 1000, 1000 * 0x1p-22);  // scale 0.448
  EXPECT_NEAR(y(2000), 1000, 1000 * 0x1p-22);  // saturates once more, at 448 / 0.448
  EXPECT_NEAR(y(2000), 2000, 2000 * 0x1p-22);
}

INSTANTIATE_TEST_SUITE_P(
    Recipes, DelayedScaling,
    ::testing::Values(amp::Fp8Recipe{}, amp::Fp8Recipe{.margin = 2, .amax_history = 4},
                      amp::Fp8Recipe{.amax_history = 3, .interval = 3}, amp::Fp8Recipe{.amax_history = 1},
                      amp::Fp8Recipe{.margin = -1, .amax_history = 5, .amax_algorithm = amp::Fp8Amax::most_recent}));

TEST(Fp8Linear, ExplainsBadInputs) {
  const Tensor x = ones({2, 4}), weight = ones({3, 4});
  const auto with = [&](amp::Fp8Recipe recipe) {
    return [=] { fp8_linear(x, weight, {}, {.recipe = recipe, .state = {}}); };
  };
  expect_error(with({}), "fp8_linear: delayed scaling needs a state");
  expect_error(with({.amax_history = 0}), "Fp8Recipe: amax_history must be positive, got 0");
  expect_error(with({.interval = 0}), "Fp8Recipe: interval must be positive, got 0");
  expect_error(with({.margin = 100}), "Fp8Recipe: margin must be");
  const Fp8LinearOptions current{.recipe = {.scaling = Fp8Scaling::current}, .state = {}};
  expect_error([&] { fp8_linear(ones({2, 5}), weight, {}, current); }, "fp8_linear: x's last dimension");
  expect_error([&] { fp8_linear(x, weight, ones({4}), current); }, "fp8_linear: bias must be [3]");
  expect_error([&] { fp8_linear(x, weight.to(DType::bf16), {}, current); }, "fp8_linear: dtypes differ");
}

TEST(Fp8Linear, AnOverflowShowsWithCurrentAndBlockScaling) {
  Tensor x = ones({2, 32});
  x.set(3, INFINITY);
  for (const Fp8Scaling scaling : {Fp8Scaling::current, Fp8Scaling::block}) {
    const Tensor y = fp8_linear(x, ones({1, 32}), {}, {.recipe = {.scaling = scaling}, .state = {}});
    EXPECT_TRUE(std::isnan(y.at(0)));
  }
}

}  // namespace

}  // namespace binade::test
