#include "binade/core/data/dataset.h"

#include <cstring>
#include <limits>
#include <numeric>

#include "binade/core/tensor/grad_mode.h"

namespace binade::data {

TensorDataset::TensorDataset(Tensor inputs, Tensor targets) {
  check(inputs.defined() && targets.defined(), "TensorDataset: inputs and targets must be defined");
  check(inputs.dim() > 0 && targets.dim() > 0 && inputs.size(0) == targets.size(0),
        "TensorDataset: inputs and targets must have as many rows: ", inputs.shape(), " and ", targets.shape());
  check(inputs.device() == Device{} && targets.device() == Device{}, "TensorDataset: tensors must be on the CPU, got ",
        inputs.device(), " and ", targets.device());
  const NoGrad guard;
  inputs_ = inputs.detach().contiguous();
  targets_ = targets.detach().contiguous();
}

namespace {
Tensor rows(const Tensor& x, std::span<const std::int64_t> indices) {
  Shape shape = x.shape();
  shape[0] = static_cast<std::int64_t>(indices.size());
  const Tensor y = empty(shape, {.dtype = x.dtype()});
  if (y.numel() == 0) return y;
  const auto row_bytes = static_cast<std::size_t>(x.numel() / x.size(0) * size_of(x.dtype()));
  const std::byte* from = TensorView(x).data;
  std::byte* to = TensorView(y).data;
  for (const std::int64_t i : indices) {
    check(i >= 0 && i < x.size(0), "TensorDataset: index ", i, " out of range for ", x.size(0), " samples");
    std::memcpy(to, from + static_cast<std::size_t>(i) * row_bytes, row_bytes);
    to += row_bytes;
  }
  return y;
}
}  // namespace

Batch TensorDataset::get(std::span<const std::int64_t> indices) const {
  return {rows(inputs_, indices), rows(targets_, indices)};
}

std::vector<std::int64_t> permutation(std::int64_t n, PhiloxState state) {
  check(n >= 0 && n <= std::numeric_limits<std::uint32_t>::max(), "permutation: at most 2^32 - 1 elements, got ", n);
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  Philox4 words{};
  for (std::size_t left = order.size(), i = 0; left > 1; --left, ++i) {  // Fisher-Yates
    if (i % 4 == 0) words = philox(state, i / 4);
    const auto j = static_cast<std::size_t>(std::uint64_t{words.x[i % 4]} * left >> 32);  // uniform in [0, left)
    std::swap(order[left - 1], order[j]);
  }
  return order;
}

}  // namespace binade::data
