// Conclusions from a monitor's records: loss scales that are safe, layers that die, which FP8 recipe fits.
// The rules were measured on deep fully connected nets; see docs/observatory.md.
#pragma once
#include <optional>
#include <vector>

#include "binade/core/amp/fp8.h"
#include "binade/core/amp/numerics_record.h"

namespace binade::amp {

// Whether FP16 training scales the tensor with its loss: weight gradients, and activation gradients that are FP16.
bool is_fp16_gradient(const TensorRecord& record);

// FP16 loss scales 2^log2_lower to 2^log2_upper. Upper: the largest at which no gradient of any observed step
// overflows, amax * 2^k < 65520. Lower: the smallest at which no tensor of gradients loses more than `lost_share` of
// its squared norm, in the early steps. Empty where lower > upper.
struct LossScaleWindow {
  int log2_lower = 0, log2_upper = 0;
  std::string lower_set_by, upper_set_by;  // the tensors that decide
  bool empty() const { return log2_lower > log2_upper; }
};
std::optional<LossScaleWindow> loss_scale_window(std::span<const TensorRecord> records, double lost_share = 0.01);

struct DeadLayer {  // a parameter whose whole gradient was exactly zero for many observed steps on end
  std::string name;
  std::int64_t since_step, steps;
  bool still;  // in the last observed step
};
std::vector<DeadLayer> dead_layers(std::span<const TensorRecord> records, std::int64_t min_steps = 20);

// Tensors of gradients of whose squared norm FP16 loses at least 15 % without a loss scale, over all steps or in the early
// ones; below that nothing was seen. From 90 % on training was delayed or, with L2 decay in the gradient, usually collapsed.
struct LayerAtRisk {
  std::string label;
  double lost_share;
  bool severe() const { return lost_share > 0.9; }
};
std::vector<LayerAtRisk> layers_at_risk(std::span<const TensorRecord> records);  // worst first

struct Fp8Advice {
  Fp8Scaling recipe;
  std::string reason;
};
// block: of one tensor, over 1 % of the values are lost to zero though its largest fits the format; current: some
// tensor's amax jumps by more than 2x in over 5 % of successive steps; else delayed. Nothing without FP8 tensors.
std::optional<Fp8Advice> fp8_recipe(std::span<const TensorRecord> records);

}  // namespace binade::amp
