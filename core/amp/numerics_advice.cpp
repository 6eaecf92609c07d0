#include "binade/core/amp/numerics_advice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace binade::amp {

bool is_fp16_gradient(const TensorRecord& record) {
  return record.narrow && (record.kind == TensorKind::weight_gradient || record.kind == TensorKind::activation_gradient);
}

namespace {

// The smallest k at which f16 loses at most `share` of the squared norm of 2^k times the values.
int lower_edge(const ExponentHistogram& histogram, double share) {
  const int zero_below = FormatRange(DType::f16).subnormal - 1;  // exponents below it round to zero
  int k = zero_below - kernel::highest_exponent - 1;             // here everything is lost
  while (histogram.lost_squared_norm(DType::f16, k) > share) ++k;
  return k;
}
int upper_edge(double amax) {
  const double overflow = FormatRange(DType::f16).overflow;
  int k = std::ilogb(overflow) - std::ilogb(amax) + 1;
  while (std::ldexp(amax, k) >= overflow) --k;
  return k;
}

}  // namespace

std::optional<LossScaleWindow> loss_scale_window(std::span<const TensorRecord> records, double lost_share) {
  LossScaleWindow window{std::numeric_limits<int>::min(), std::numeric_limits<int>::max(), {}, {}};
  bool found = false;
  for (const TensorRecord& record : records) {
    if (!is_fp16_gradient(record) || record.all.amax == 0) continue;
    found = true;
    if (const int upper = upper_edge(record.all.amax); upper < window.log2_upper) {
      window.log2_upper = upper;
      window.upper_set_by = record.label();
    }
    if (record.early.amax == 0) continue;
    if (const int lower = lower_edge(record.early, lost_share); lower > window.log2_lower) {
      window.log2_lower = lower;
      window.lower_set_by = record.label();
    }
  }
  if (!found || window.lower_set_by.empty()) return {};
  return window;
}

std::vector<DeadLayer> dead_layers(std::span<const TensorRecord> records, std::int64_t min_steps) {
  std::vector<DeadLayer> out;
  for (const TensorRecord& record : records)
    if (record.kind == TensorKind::weight_gradient && record.longest_zero_run >= min_steps)
      out.push_back({record.name, record.longest_zero_since, record.longest_zero_run,
                     record.zero_since == record.longest_zero_since});
  return out;
}

std::vector<LayerAtRisk> layers_at_risk(std::span<const TensorRecord> records) {
  std::vector<LayerAtRisk> out;
  for (const TensorRecord& record : records) {
    if (!is_fp16_gradient(record)) continue;
    // Gradients are often smallest at first, and a layer that dies then does not come back.
    const double lost = std::max(record.all.lost_squared_norm(DType::f16), record.early.lost_squared_norm(DType::f16));
    if (lost >= 0.15) out.push_back({record.label(), lost});
  }
  std::stable_sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.lost_share > b.lost_share; });
  return out;
}

std::optional<Fp8Advice> fp8_recipe(std::span<const TensorRecord> records) {
  const TensorRecord *widest = nullptr, *jumpiest = nullptr;
  double most_lost = 0, most_jumps = 0, jump = 1, amax_low = 0, amax_high = 0;
  const auto share = [](std::int64_t part, std::int64_t whole) {
    return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
  };
  for (const TensorRecord& record : records) {
    if (!record.fp8 || record.all.amax == 0) continue;
    amax_low = amax_low == 0 ? record.amax_low : std::min(amax_low, record.amax_low);
    amax_high = std::max(amax_high, record.amax_high);
    jump = std::max(jump, record.largest_jump);
    const double lost = share(record.current.zeros, record.all.nonzero()), jumps = share(record.jumps, record.pairs);
    if (!widest || lost > most_lost) {
      widest = &record;
      most_lost = lost;
    }
    if (!jumpiest || jumps > most_jumps) {
      jumpiest = &record;
      most_jumps = jumps;
    }
  }
  if (!widest) return {};
  if (most_lost > 0.01)
    return Fp8Advice{Fp8Scaling::block,
                     fmt::format("{} ({}) spans {} binades, {} holds {:.0f}: with one scale {:.1f} % of its values become "
                                 "zero, so every block needs its own",
                                 widest->label(), name(widest->kind), widest->all.range_without(0.001),
                                 name(widest->fp8_format), FormatRange(widest->fp8_format).width(), 100 * most_lost)};
  if (most_jumps > 0.05)
    return Fp8Advice{Fp8Scaling::current,
                     fmt::format("amax of {} ({}) changes by more than 2x in {:.0f} % of the steps, at most {:.1f}x: the "
                                 "last steps do not tell the next one's scale",
                                 jumpiest->label(), name(jumpiest->kind), 100 * most_jumps, jumpiest->largest_jump)};
  return Fp8Advice{Fp8Scaling::delayed,
                   fmt::format("amax is stable from step to step (largest change {:.1f}x) and no tensor is wider than its "
                               "format; between tensors it spans {:.0f} binades, so each needs its own scale",
                               jump, std::log2(amax_high) - std::log2(amax_low))};
}

}  // namespace binade::amp
