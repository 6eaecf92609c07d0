// What the numerics monitor found, as a few lines for people and as JSON.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "binade/core/amp/numerics_monitor.h"

namespace binade::amp {

namespace {

using nlohmann::json;

constexpr DType formats[] = {DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2};

json error_json(const Fp8Error& error, const ExponentHistogram& histogram) {
  const double nonzero = static_cast<double>(std::max<std::int64_t>(histogram.nonzero(), 1));
  return {{"mean_squared_error", error.mean_squared_error()},
          {"underflow_share", static_cast<double>(error.zeros) / nonzero},
          {"saturated", error.saturated}};
}

json histogram_json(const ExponentHistogram& histogram) {  // without the empty binades at both ends
  std::size_t first = 0, end = histogram.counts.size();
  while (first < end && histogram.counts[first] == 0) ++first;
  while (end > first && histogram.counts[end - 1] == 0) --end;
  return {{"first_exponent", static_cast<int>(first) + kernel::lowest_exponent},
          {"counts", std::vector<std::int64_t>(histogram.counts.begin() + static_cast<std::ptrdiff_t>(first),
                                               histogram.counts.begin() + static_cast<std::ptrdiff_t>(end))}};
}

json record_json(const TensorRecord& record) {
  const ExponentHistogram& h = record.all;
  json out = {{"name", record.name},
              {"operation", record.operation},
              {"kind", name(record.kind)},
              {"steps", record.steps},
              {"values", h.total()},
              {"zeros", h.zeros},
              {"infs", h.infs},
              {"nans", h.nans},
              {"amax", h.amax},
              {"amin", h.amin},
              {"dynamic_range", h.dynamic_range()},
              {"squared_norm", h.squared_norm()},
              {"amax_of_steps", {record.amax_low, record.amax_high}},
              {"largest_jump", record.largest_jump},
              {"longest_zero_run", record.longest_zero_run},
              {"histogram", histogram_json(h)}};
  for (const DType format : formats) {
    const FormatShares shares = h.shares(format);
    out["formats"][to_text(format)] = {{"below_normal", shares.below_normal},
                                       {"to_zero", shares.to_zero},
                                       {"above_largest", shares.above_largest},
                                       {"lost_squared_norm", h.lost_squared_norm(format)}};
  }
  if (record.fp8)
    out["fp8"] = {{"format", name(record.fp8_format)},
                  {"scale_inv", {record.scale_inv_low(), record.scale_inv_high()}},
                  {"current", error_json(record.current, h)},
                  {"delayed", error_json(record.delayed, h)}};
  return out;
}

std::string window_text(const std::optional<LossScaleWindow>& window, bool saw_float16) {
  if (!window) return "FP16 loss scales: no gradients were observed.\n";
  const std::string who = fmt::format("lower edge 2^{} set by {}, upper 2^{} by {}", window->log2_lower,
                                      window->lower_set_by, window->log2_upper, window->upper_set_by);
  if (window->empty()) return "FP16 loss scales: none is safe (" + who + "): use BF16, or keep the two apart in FP32.\n";
  const bool unscaled = window->log2_lower <= 0 && window->log2_upper >= 0;
  return fmt::format("FP16 loss scales: 2^{} to 2^{} are safe ({}).{}\n", window->log2_lower, window->log2_upper, who,
                     saw_float16 ? " Seen in an FP16 run: what it had lost before does not count, the lower edge may be "
                                   "too low. Observe an FP32 run."
                     : unscaled  ? " FP16 would do without scaling."
                                 : "");
}

}  // namespace

std::string NumericsMonitor::advice() const {
  std::string text = fmt::format("Observed {} of {} steps, {} tensors.\n", observed_, step_, records_.size());
  text += window_text(loss_scale_window(), saw_float16_);
  for (const DeadLayer& layer : dead_layers())
    text += fmt::format("ALARM: the gradient of {} was exactly zero for {} observed steps since step {}{}.\n", layer.name,
                        layer.steps, layer.since_step, layer.still ? " and still is" : "");
  const std::vector<LayerAtRisk> risks = layers_at_risk();
  for (std::size_t i = 0; i < std::min<std::size_t>(risks.size(), 5); ++i)
    text += fmt::format("At risk in FP16 without a loss scale: {} loses {:.0f} % of its squared gradient norm{}.\n",
                        risks[i].label, 100 * risks[i].lost_share,
                        risks[i].severe() ? " (expect a delay; with L2 decay in the gradient, a collapse)" : "");
  if (risks.size() > 5) text += fmt::format("  and {} more.\n", risks.size() - 5);
  std::int64_t broken = 0;
  for (const TensorRecord& record : records_) broken += record.all.infs + record.all.nans > 0;
  if (broken > 0) text += fmt::format("{} tensors held infinities or NaNs: see amp::PostMortem.\n", broken);
  if (const auto advice = fp8_recipe())
    text += fmt::format("FP8: {} scaling. Reason: {}.\n", name(advice->recipe), advice->reason);
  return text;
}

std::string NumericsMonitor::json() const {
  nlohmann::json out = {{"steps", step_}, {"observed_steps", observed_}, {"saw_float16", saw_float16_}, {"advice", advice()}};
  out["loss_scale_window"] = nullptr;
  if (const auto window = loss_scale_window())
    out["loss_scale_window"] = {{"log2_lower", window->log2_lower}, {"lower_set_by", window->lower_set_by},
                                {"log2_upper", window->log2_upper}, {"upper_set_by", window->upper_set_by},
                                {"empty", window->empty()}};
  out["dead_layers"] = nlohmann::json::array();
  for (const DeadLayer& layer : dead_layers())
    out["dead_layers"].push_back(
        {{"name", layer.name}, {"since_step", layer.since_step}, {"steps", layer.steps}, {"still", layer.still}});
  out["layers_at_risk"] = nlohmann::json::array();
  for (const LayerAtRisk& layer : layers_at_risk())
    out["layers_at_risk"].push_back({{"name", layer.label}, {"lost_share", layer.lost_share}, {"severe", layer.severe()}});
  out["fp8"] = nullptr;
  if (const auto advice = fp8_recipe()) out["fp8"] = {{"recipe", name(advice->recipe)}, {"reason", advice->reason}};
  out["tensors"] = nlohmann::json::array();
  for (const TensorRecord& record : records_) out["tensors"].push_back(record_json(record));
  return out.dump();
}

}  // namespace binade::amp
