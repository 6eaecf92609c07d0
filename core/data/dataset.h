// Dataset: numbered samples, fetched as whole batches.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "binade/core/base/random.h"
#include "binade/core/tensor/tensor.h"

namespace binade::data {

struct Batch {  // const auto& [inputs, targets] = batch
  Tensor inputs, targets;
};

struct Dataset {
  virtual ~Dataset() = default;
  virtual std::int64_t size() const = 0;
  // Samples in the order of `indices`, stacked along a new first dim, on the CPU. Called from a loader's thread.
  virtual Batch get(std::span<const std::int64_t> indices) const = 0;
};

class TensorDataset : public Dataset {  // sample i is row i of both tensors
 public:
  TensorDataset(Tensor inputs, Tensor targets);  // on the CPU
  std::int64_t size() const override { return inputs_.size(0); }
  Batch get(std::span<const std::int64_t> indices) const override;
  const Tensor& inputs() const { return inputs_; }
  const Tensor& targets() const { return targets_; }

 private:
  Tensor inputs_, targets_;
};

// 0 .. n-1 in an order that depends on the state alone.
std::vector<std::int64_t> permutation(std::int64_t n, PhiloxState state);

}  // namespace binade::data
