// Small models and data for tests of data parallelism, and the training loop they share.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "binade/core/amp/autocast.h"
#include "binade/core/amp/grad_scaler.h"
#include "binade/core/base/random.h"
#include "binade/core/data/loader.h"
#include "binade/core/optim/clip.h"
#include "binade/core/optim/optimizers.h"
#include "binade/distributed/data_parallel.h"
#include "binade/ops/nn/nn.h"
#include "binade/ops/ops.h"
#include "binade/tests/distributed/ranks.h"

namespace binade::test {

inline const std::shared_ptr<dist::ProcessGroup>& alone() {
  static const std::shared_ptr<dist::ProcessGroup> one = dist::single_group({.device = device()});
  return one;
}

inline nn::Sequential small_mlp(std::uint64_t seed = 7) {
  manual_seed(seed);
  nn::Sequential model(nn::Linear(20, 48), nn::ReLU(), nn::Linear(48, 48), nn::Tanh(), nn::Linear(48, 5));
  model.to(device());
  return model;
}
inline data::TensorDataset small_data(std::int64_t samples = 192) {
  manual_seed(11);
  return data::TensorDataset(randn({samples, 20}), randint(0, 5, {samples}));
}
inline data::Batch small_batch(std::int64_t samples) {  // the same, where the model is
  const data::TensorDataset set = small_data(samples);
  return {set.inputs().to(device()), set.targets().to(device())};
}
inline dist::DataParallelOptions small_buckets(std::shared_ptr<dist::ProcessGroup> g, std::int64_t micro_batches = 0) {
  return {.group = std::move(g), .first_bucket_bytes = 970, .bucket_bytes = 4096, .micro_batches = micro_batches};
}

struct TrainOptions {
  std::shared_ptr<dist::ProcessGroup> group = {};
  std::int64_t steps = 20, batch = 32, micro_batches = 0;
  DType autocast = DType::f32;
  DType dtype = DType::f32;  // of parameters
  double clip_norm = 0;
  std::function<void(std::int64_t step, amp::GradScaler& scaler)> after_step = {};
  std::function<void(std::int64_t step, Tensor& loss)> spoil = {};  // the loss, before backward
};
struct Trained {
  Tensors parameters;
  std::vector<double> losses;
  std::int64_t skipped = 0;
};

// SGD with momentum on small_mlp: what every test compares.
inline Trained train(const TrainOptions& o) {
  const nn::Sequential made = small_mlp(7 + static_cast<std::uint64_t>(o.group->rank()));  // rank 0's weights win
  nn::Sequential model = made;
  model.to(o.dtype);
  const dist::DataParallel parallel(model, small_buckets(o.group, o.micro_batches));
  optim::SGD optimizer(model.parameters(), {.lr = 0.05, .momentum = 0.9});
  amp::GradScaler scaler({.init_scale = 1024, .enabled = o.autocast == DType::f16, .agree = dist::agree_on_overflow(o.group)});
  data::Loader loader(small_data(), {.batch_size = o.batch, .shuffle = true, .seed = 5, .device = device(), .rank = o.group->rank(), .world_size = o.group->size()});
  Trained out;
  for (std::int64_t step = 0; step < o.steps;) {
    for (const data::Batch& batch : loader) {
      std::vector<double> losses;
      for (const auto& [x, y] : parallel.split(batch)) {
        Tensor loss;
        {
          const amp::Autocast autocast(o.autocast);
          loss = cross_entropy(model(x.to(o.dtype)), y);
        }
        losses.push_back(loss.item<double>());
        if (o.spoil) o.spoil(step, loss);
        scaler.scale(loss).backward();
      }
      scaler.unscale_(optimizer);
      if (o.clip_norm > 0) optim::clip_grad_norm_(model.parameters(), o.clip_norm);
      scaler.step(optimizer);
      scaler.update();
      optimizer.zero_grad();
      out.losses.push_back(parallel.mean(losses));
      if (o.after_step) o.after_step(step, scaler);
      if (++step == o.steps) break;
    }
  }
  for (const Tensor& x : model.parameters()) out.parameters.push_back(x.detach().to(Device{}).clone());
  out.skipped = scaler.skipped_steps();
  return out;
}

inline void expect_same_bits(const Tensors& a, const Tensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].shape(), b[i].shape());
    const auto bytes = static_cast<std::size_t>(a[i].numel() * size_of(a[i].dtype()));
    const Tensor x = a[i].to(Device{}), y = b[i].to(Device{});
    EXPECT_EQ(std::memcmp(TensorView(x).data, TensorView(y).data, bytes), 0) << "parameter " << i;
  }
}
inline double largest_difference(const Tensor& a, const Tensor& b) {  // relative to b's largest value
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double most = 0, scale = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    most = std::max(most, std::abs(x[i] - y[i]));
    scale = std::max(scale, std::abs(y[i]));
  }
  return most / scale;
}

}  // namespace binade::test
