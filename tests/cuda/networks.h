// Small trainings that run on any device, from the same weights on the same data: what tests of the CUDA backend watch.
#pragma once
#include <functional>
#include <optional>

#include "binade/binade.h"

namespace binade::test {

enum class Mode { fp32, bf16, fp16, fp8_delayed, fp8_current, fp8_block };
inline constexpr Mode all_modes[] = {Mode::fp32, Mode::bf16, Mode::fp16, Mode::fp8_delayed, Mode::fp8_current, Mode::fp8_block};
inline std::string name_of(Mode mode) {
  constexpr const char* names[] = {"fp32", "bf16", "fp16", "fp8_delayed", "fp8_current", "fp8_block"};
  return names[static_cast<int>(mode)];
}
inline DType autocast_dtype(Mode mode) {
  return mode == Mode::fp32 ? DType::f32 : mode == Mode::fp16 ? DType::f16 : DType::bf16;
}

// A classifier of points by the signs of two sums, trained by AdamW with clipping and, in fp16, dynamic loss scaling.
struct MlpTraining {
  static constexpr std::int64_t features = 32, hidden = 64, classes = 4, batch = 64;

  MlpTraining(Mode precision, Device on) : mode(precision), device(on) {
    if (mode >= Mode::fp8_delayed)
      nn::use_fp8(model, {.scaling = mode == Mode::fp8_delayed   ? amp::Fp8Scaling::delayed
                                     : mode == Mode::fp8_current ? amp::Fp8Scaling::current
                                                                 : amp::Fp8Scaling::block});
    model.to(device);
    optimizer.emplace(model.parameters(), optim::AdamWOptions{.lr = 3e-3});
    for (int i = 0; i < 8; ++i) {
      const Tensor x = randn({batch, features});
      const auto side = [&](int first) {
        return gt(sum(x.narrow(1, first, features / 2), {1}), zeros({batch})).to(DType::i64);
      };
      inputs.push_back(x.to(device));
      targets.push_back(add(mul(side(0), full({1}, 2, {.dtype = DType::i64})), side(features / 2)).to(device));
    }
  }

  // The loss, on the device. `factor` multiplies it before backward: infinity makes an overflow.
  Tensor step(double factor = 1) {
    const std::size_t i = next;
    next = (next + 1) % inputs.size();
    return step_on(inputs[i], targets[i], factor == 1 ? Tensor() : full({}, factor, {.device = device}));
  }
  Tensor step_on(const Tensor& x, const Tensor& y, const Tensor& factor = {}) {
    Tensor loss;
    {
      const amp::Autocast autocast(autocast_dtype(mode));
      loss = cross_entropy(model(x), y);
    }
    scaler.scale(factor ? loss * factor : loss).backward();
    scaler.step(*optimizer, {.max_norm = 1.0});
    scaler.update();
    optimizer->zero_grad();
    return loss;
  }

  Mode mode;
  Device device;
  int seeded = (manual_seed(17), 0);  // before the layers draw their weights
  nn::Sequential model{nn::Linear(features, hidden), nn::ReLU(), nn::Linear(hidden, hidden), nn::ReLU(),
                       nn::Linear(hidden, classes)};
  std::optional<optim::AdamW> optimizer;
  amp::GradScaler scaler{{.init_scale = 1024, .growth_interval = 20, .enabled = mode == Mode::fp16}};
  std::vector<Tensor> inputs, targets;
  std::size_t next = 0;
};

}  // namespace binade::test
