// Multi-tensor kernels against the CPU's: elementwise ones bit for bit, norms within the bound of their sums.
#include <gtest/gtest.h>

#include <limits>

#include "binade/core/autograd/rounded_copy.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/optim/optimizers.h"
#include "binade/core/tensor/tensor_impl.h"
#include "binade/tests/cuda/compare.h"

namespace binade::test {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
// More than one launch takes, of one chunk, several, a tail, less than a vector, and nothing.
const std::vector<std::int64_t> sizes = {3, 8192, 20'001, 1, 0, 8, 7, 16'384, 33};

struct Both {  // the same values on both devices
  Tensor here, there;
  Both(const Tensor& x, Device gpu) : here(x), there(x.to(gpu)) {}
};

class OptimizerKernels : public CudaDevice {
 protected:
  // One step sequence of the same optimizer on both devices; parameters, state and counters must have the same bits.
  template <class Make>
  void expect_same_steps(const std::string& what, const std::vector<DType>& dtypes, const Make& make) {
    if (!__builtin_cpu_supports("fma")) GTEST_SKIP() << "this CPU's vectors have no fused multiply-add";
    manual_seed(3);
    std::vector<Both> params;
    Tensors here, there;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const Both& p = params.emplace_back(randn({sizes[i]}).to(dtypes[i % dtypes.size()]).clone(), gpu);
      here.push_back(Tensor(p.here).requires_grad_());
      there.push_back(Tensor(p.there).requires_grad_());
    }
    const auto first = make(here), second = make(there);
    const Tensor skip = ones({1}), grad_scale = full({1}, 0.37, {.dtype = DType::f64});
    for (int step = 0; step < 4; ++step) {
      for (std::size_t i = 0; i < sizes.size(); ++i) {
        const Tensor grad = randn({sizes[i]}).to(here[i].dtype()).clone();
        here[i].set_grad(grad);
        there[i].set_grad(grad.to(gpu));
      }
      if (step == 2) {  // changed from outside: wins over a master copy
        here[2].detach().fill_(0.75);
        there[2].detach().fill_(0.75);
      }
      for (std::size_t i = 0; i < sizes.size(); ++i) {  // read, as a forward pass under autocast does
        if (here[i].dtype() != DType::f32) continue;
        for (const Tensor& x : {here[i], there[i]}) rounded_copy(x, i % 2 == 0 ? DType::bf16 : DType::f16);
      }
      const PhiloxState draw = random_state();
      const Tensor flag = step == 1 ? skip : Tensor(), factor = step == 3 ? grad_scale : Tensor();
      first->step(flag, factor);
      set_random_state(draw);
      second->step(flag ? flag.to(gpu) : flag, factor ? factor.to(gpu) : factor);
    }
    for (std::size_t i = 0; i < sizes.size(); ++i) expect_same_bits(cpu(there[i]), here[i], what + ", parameter");
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      if (here[i].dtype() != DType::f32) continue;
      const auto &kept = here[i].impl()->rounded, &kept_there = there[i].impl()->rounded;
      ASSERT_TRUE(kept && kept_there && kept_there->version == there[i].impl()->storage->version) << what;
      expect_same_bits(kept->values, here[i].detach().to(kept->values.dtype()), what + ", rounding of a parameter");
      expect_same_bits(cpu(kept_there->values), kept->values, what + ", rounding of a parameter on the device");
    }
    const optim::StateDict expected = first->state_dict(), got = second->state_dict();
    ASSERT_EQ(expected.size(), got.size());
    for (const auto& [name, value] : expected) expect_same_bits(cpu(got.at(name)), value, what + ", " + name);
    EXPECT_EQ(got.at("state.0.step").item<std::int64_t>(), 3) << what << ": one of four steps was skipped";
  }
};

const std::vector<std::vector<DType>> dtype_lists = {
    {DType::f32}, {DType::f64}, {DType::f16}, {DType::bf16}, {DType::f32, DType::f64, DType::bf16}};

TEST_F(OptimizerKernels, AdamHasTheCpusBits) {
  for (const auto& dtypes : dtype_lists)
    expect_same_steps("adam", dtypes, [](const Tensors& p) {
      return std::make_unique<optim::Adam>(p, optim::AdamOptions{.lr = 0.01, .weight_decay = 0.1});
    });
}
TEST_F(OptimizerKernels, AdamWHasTheCpusBits) {
  for (const auto& dtypes : dtype_lists)
    for (const DType state : {DType::f32, DType::bf16})
      expect_same_steps("adamw", dtypes, [=](const Tensors& p) {
        return std::make_unique<optim::AdamW>(p, optim::AdamWOptions{.lr = 0.01, .state_dtype = state});
      });
}
TEST_F(OptimizerKernels, SgdHasTheCpusBits) {
  for (const auto& dtypes : dtype_lists)
    for (const auto& [momentum, dampening, nesterov] :
         {std::tuple{0.0, 0.0, false}, {0.9, 0.0, false}, {0.9, 0.25, false}, {0.9, 0.0, true}})
      expect_same_steps("sgd", dtypes, [m = momentum, d = dampening, n = nesterov](const Tensors& p) {
        return std::make_unique<optim::SGD>(
            p, optim::SGDOptions{.lr = 0.1, .momentum = m, .dampening = d, .weight_decay = 0.01, .nesterov = n});
      });
}
TEST_F(OptimizerKernels, StochasticRoundingUsesTheSameWords) {
  for (const DType dtype : {DType::bf16, DType::f16})
    expect_same_steps("adamw, stochastic", {dtype, DType::f32}, [](const Tensors& p) {
      return std::make_unique<optim::AdamW>(p, optim::AdamWOptions{.lr = 1e-3, .stochastic_rounding = true});
    });
}
TEST_F(OptimizerKernels, WithoutMastersUpdatesAreRoundedToNearest) {
  for (const DType dtype : {DType::bf16, DType::f16})
    expect_same_steps("sgd, rounded", {dtype}, [](const Tensors& p) {
      return std::make_unique<optim::SGD>(p, optim::SGDOptions{.lr = 1e-2, .momentum = 0.9, .master_weights = false});
    });
}

class GradientKernels : public CudaDevice {
 protected:
  // Gradients of mixed dtypes, some of them not aligned for vectors; `change` is called with each device's list.
  void expect_same_gradients(const std::string& what, double bad,
                             const std::function<void(std::span<const kernel::GradItem>, Device)>& change) {
    constexpr DType dtypes[] = {DType::f32, DType::bf16, DType::f64, DType::f16};
    manual_seed(5);
    std::vector<Both> all;
    std::vector<kernel::GradItem> here, there;
    for (std::size_t i = 0; i < 40; ++i) {
      const std::int64_t n = sizes[i % sizes.size()], start = i % 3 == 0 ? 1 : 0;
      Tensor x = randn({n + start}).to(dtypes[i % 4]).clone();
      if (i == 38) x.set(n / 2, bad);
      const Both& both = all.emplace_back(x, gpu);
      here.push_back({both.here.narrow(0, start, n)});
      there.push_back({both.there.narrow(0, start, n)});
    }
    change(here, Device{});
    change(there, gpu);
    for (const Both& both : all) expect_same_bits(cpu(both.there), both.here, what);
  }
};

TEST_F(GradientKernels, UnscaleHasTheCpusBitsAndFindsWhatIsNotFinite) {
  for (const double bad : {1.0, infinity, -infinity, std::nan("")}) {
    Tensor found_here, found_there;
    expect_same_gradients("unscale", bad, [&](std::span<const kernel::GradItem> items, Device device) {
      Tensor& found = device == gpu ? found_there : found_here;
      found = zeros({1}, {.device = device});
      kernel::unscale(items, full({1}, 3, {.device = device}), found);
    });
    EXPECT_EQ(found_here.at(0), std::isfinite(bad) ? 0 : 1);
    EXPECT_EQ(found_there.at(0), found_here.at(0));
  }
}

TEST_F(GradientKernels, ClippingHasTheCpusBits) {
  for (const double norm : {0.5, 100.0, std::nan("")})
    expect_same_gradients("clip by norm", 1, [&](std::span<const kernel::GradItem> items, Device device) {
      kernel::clip_by_norm(items, full({1}, norm, {.device = device}), 2.0);
    });
  for (const double bad : {infinity, -infinity, std::nan("")})
    expect_same_gradients("clip by value", bad, [&](std::span<const kernel::GradItem> items, Device) {
      kernel::clip_by_value(items, 0.3);
    });
}

TEST_F(GradientKernels, TheNormIsThatOfAllElementsAndTheSameEachTime) {
  std::vector<double> norms;
  for (int again = 0; again < 2; ++again)
    expect_same_gradients("norm", 1, [&](std::span<const kernel::GradItem> items, Device device) {
      const Tensor norm = empty({1}, {.dtype = DType::f64, .device = device});
      kernel::inspect_gradients(items, {}, norm, {});
      norms.push_back(norm.at(0));
      const Tensor single = empty({1}, {.device = device});
      kernel::inspect_gradients(items, {}, single, {});
      EXPECT_EQ(single.at(0), static_cast<double>(static_cast<float>(norms.back())));
    });
  // Squares of floats are exact in double; n additions err by at most n units of 2^-53.
  EXPECT_NEAR(norms[1], norms[0], norms[0] * 4e5 * 0x1p-53);
  EXPECT_EQ(norms[1], norms[3]);
  EXPECT_GT(norms[0], 1);
}

TEST_F(GradientKernels, NormsOfLargeGradientsDoNotOverflow) {
  const Tensor x = full({100}, 1e30, {.device = gpu});
  const kernel::GradItem items[] = {{x}};
  const Tensor norm = empty({1}, {.device = gpu}), found = ones({1}, {.device = gpu});
  kernel::inspect_gradients(items, {}, norm, found);
  EXPECT_NEAR(norm.at(0), 1e31, 1e31 * epsilon(DType::f32));
  EXPECT_EQ(found.at(0), 0) << "cleared";
}

// Norm and check in one pass, of gradients as unscaling would leave them.
TEST_F(GradientKernels, InspectionFindsWhatTheCpuFinds) {
  for (const double bad : {1.0, infinity, -infinity, std::nan("")})
    for (const bool scaled : {false, true})
      for (const bool with_norm : {false, true}) {
        std::vector<double> norms, found;
        expect_same_gradients("inspection", bad, [&](std::span<const kernel::GradItem> items, Device device) {
          const Tensor norm = with_norm ? zeros({1}, {.dtype = DType::f64, .device = device}) : Tensor(),
                       found_inf = full({1}, 7, {.device = device});
          kernel::inspect_gradients(items, scaled ? full({1}, 3, {.device = device}) : Tensor(), norm, found_inf);
          norms.push_back(with_norm ? norm.at(0) : 0);
          found.push_back(found_inf.at(0));
        });
        for (const double flag : found) EXPECT_EQ(flag, std::isfinite(bad) ? 0 : 1);
        if (!std::isfinite(bad)) continue;
        EXPECT_NEAR(norms[1], norms[0], norms[0] * 4e5 * 0x1p-53);
        EXPECT_EQ(norms[0] > 0, with_norm);
      }
  // What is read is what unscale writes, for gradients that are not rounded to 16 bits on the way.
  const Both x(randn({20'001}), gpu);
  const Tensor scale = full({1}, 3, {.device = gpu}), norm = empty({1}, {.dtype = DType::f64, .device = gpu}), after = empty_like(norm);
  const kernel::GradItem items[] = {{x.there}};
  kernel::inspect_gradients(items, scale, norm, {});
  kernel::unscale(items, scale, zeros({1}, {.device = gpu}));
  kernel::inspect_gradients(items, {}, after, {});
  expect_same_bits(norm, after, "norm of unscaled gradients");
}

TEST_F(GradientKernels, TheirFactorHasTheCpusBits) {
  for (const double scale : {0.0, 3.0, 65536.0})  // 0: none
    for (const double norm : {-1.0, 0.5, 7.3, 1e30, infinity, std::nan("")}) {  // -1: none
      const auto factor = [&](Device device) {
        const Tensor out = empty({1}, {.dtype = DType::f64, .device = device});
        kernel::gradient_scale(out, scale > 0 ? full({1}, scale, {.device = device}) : Tensor(),
                               norm >= 0 || norm != norm ? full({1}, norm, {.device = device}) : Tensor(), 2.5);
        return out.at(0);
      };
      const double inverse = scale > 0 ? static_cast<double>(static_cast<float>(1 / scale)) : 1;
      const double rounded = static_cast<double>(static_cast<float>(norm));
      const double expected = inverse * (norm > 2.5 ? 2.5 / (rounded + 1e-6) : norm != norm ? norm : 1);
      for (const double got : {factor(Device{}), factor(gpu)}) {
        EXPECT_TRUE(got == expected || (norm != norm && got != got)) << scale << " " << norm << ": " << got;
      }
    }
}

TEST_F(GradientKernels, PartsOfAStep) {
  for (const double flag : {0.0, 1.0}) {
    const Tensor skip = full({1}, flag, {.device = gpu});
    const Both source(randn({1001}), gpu);
    const Tensor y = zeros({1001}, {.dtype = DType::bf16, .device = gpu});
    kernel::copy_unless(source.there, y, skip);
    expect_same_bits(cpu(y), flag != 0 ? zeros({1001}, {.dtype = DType::bf16}) : source.here.to(DType::bf16), "copy");
    const Tensor counter = full({1}, 41, {.dtype = DType::i64, .device = gpu});
    kernel::count_unless(counter, skip);
    EXPECT_EQ(counter.at(0), flag != 0 ? 41 : 42);
  }
  for (const DType dtype : {DType::f16, DType::bf16}) {
    const Both master(randn({1003}), gpu);
    Tensor param = master.here.to(dtype).clone();
    param.set(5, 0.0);
    param.set(1001, -3.0);
    const Tensor there = param.to(gpu);
    kernel::refresh_master(param, master.here);
    kernel::refresh_master(there, master.there);
    expect_same_bits(cpu(master.there), master.here, "refresh_master");
    EXPECT_EQ(master.there.at(1001), -3);
  }
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    const Both x(randn({3, 7}).to(dtype), gpu), factor(full({1}, 1024.5), gpu);
    const DType out = dtype == DType::f64 ? DType::f64 : DType::f32;
    const Tensor y = empty({3, 7}, {.dtype = out}), y_there = empty({3, 7}, {.dtype = out, .device = gpu});
    kernel::multiply_by(x.here, factor.here, y);
    kernel::multiply_by(x.there, factor.there, y_there);
    expect_same_bits(cpu(y_there), y, "multiply_by");
  }
}

TEST_F(GradientKernels, ScalesMoveAsOnTheCpu) {
  const kernel::LossScaleOptions options{.min_scale = 4, .growth_interval = 2, .hysteresis = 2};
  for (const double start : {1024.0, 3.0, 0x1p127}) {
    const Both scale(full({1}, start), gpu), last_good(zeros({1}), gpu);
    const Both tracker(from_vector<std::int64_t>({0, 2}, {2}), gpu), counters(zeros({2}, {.dtype = DType::i64}), gpu);
    for (const double bad : {0, 0, 0, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}) {
      const Both found(full({1}, bad), gpu);
      kernel::loss_scale_count(counters.here, last_good.here, scale.here, found.here);
      kernel::loss_scale_count(counters.there, last_good.there, scale.there, found.there);
      kernel::loss_scale_update(scale.here, tracker.here, found.here, options);
      kernel::loss_scale_update(scale.there, tracker.there, found.there, options);
      for (const Both* x : {&scale, &last_good, &tracker, &counters}) expect_same_bits(cpu(x->there), x->here, "scaler");
    }
    if (start < 0x1p20) {
      EXPECT_EQ(scale.there.at(0), 4) << "the minimum";
    }
  }
}

}  // namespace

}  // namespace binade::test
