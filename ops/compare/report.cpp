#include "binade/ops/compare/report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "binade/core/backend/memory.h"
#include "binade/core/io/atomic_file.h"

namespace binade::compare {

// Written by the build from report.html and the distribution's Chart.js, in pieces a compiler accepts.
extern const char* const report_template[];
extern const char* const chart_library[];

namespace {

using Json = nlohmann::json;

double relative_difference(const ModeResult& mode, const ModeResult* reference) {
  return reference ? mode.final_validation_loss() / reference->final_validation_loss() - 1 : NAN;
}
// In standard deviations of FP32's final training loss over seeds.
double in_spreads(const ModeResult& mode, const Comparison& c) {
  return c.reference() ? (mode.final_train_loss() - c.reference()->final_train_loss()) / c.seed_spread : NAN;
}

Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json numbers(const std::vector<double>& values) {
  Json out = Json::array();
  for (const double x : values) out.push_back(finite(x));
  return out;
}

Json run_json(const SeedRun& run) {
  Json validation = Json::array();
  for (const auto& [step, loss] : run.validation_loss) validation.push_back({{"step", step}, {"loss", finite(loss)}});
  return {{"seed", run.seed},
          {"complete", run.complete},
          {"failure", run.failure},
          {"train_loss", numbers(run.train_loss)},
          {"val_loss", validation},
          {"loss_scale", numbers(run.loss_scale)},
          {"skipped_steps", run.skipped_steps}};
}

Json runs_json(const std::vector<SeedRun>& runs) {
  Json out = Json::array();
  for (const SeedRun& run : runs) out.push_back(run_json(run));
  return out;
}

Json mode_json(const ModeResult& m, const Comparison& c) {
  Json by_seed = Json::array(), tags = Json::object();
  for (const SeedRun& run : m.seeds) by_seed.push_back(finite(run.final_validation_loss()));
  if (!m.seeds.empty()) {
    for (int t = 0; t < memory_tags; ++t)
      tags[std::string(binade::name(static_cast<MemoryTag>(t)))] =
          m.seeds.front().memory.at_peak[static_cast<std::size_t>(t)];
  }
  const bool scaled = m.mode.loss_scaling || m.mode.static_scale > 0;
  Json out{{"mode", m.mode.name},
           {"verdict", std::string(name(m.verdict.label))},
           {"reason", m.verdict.reason},
           {"mean_difference", finite(m.verdict.mean_difference)},
           {"visible_difference", finite(m.verdict.visible)},
           {"difference_in_seed_spreads", finite(in_spreads(m, c))},
           {"final_train_loss", finite(m.final_train_loss())},
           {"final_val_loss", finite(m.final_validation_loss())},
           {"val_loss_vs_fp32", finite(relative_difference(m, c.reference()))},
           {"val_loss_by_seed", by_seed},
           {"tokens_per_s", finite(m.items_per_s())},
           {"peak_bytes", m.peak_bytes()},
           {"peak_bytes_by_tag", tags},
           {"skipped_steps", m.skipped_steps()},
           {"loss_scale_final", scaled ? Json(m.final_loss_scale()) : Json(nullptr)},
           {"shadow", m.shadow.empty() ? Json(nullptr) : Json::parse(m.shadow)},
           {"shadow_text", m.shadow_text},
           {"post_mortem", m.post_mortem},
           {"runs", runs_json(m.seeds)}};
  if (c.unit != "tokens") out[c.unit + "_per_s"] = out["tokens_per_s"];
  return out;
}

Json to_json(const Comparison& c) {
  Json out{{"model", c.model},
           {"size", c.size},
           {"device", c.device},
           {"unit", c.unit},
           {"steps", c.steps},
           {"batch", c.batch},
           {"lr", c.lr},
           {"seeds", c.seeds},
           {"interrupted", c.interrupted},
           {"seed_spread", finite(c.seed_spread)},
           {"modes", Json::array()},
           {"twins", runs_json(c.twins)},
           {"numerics", c.numerics.empty() ? Json(nullptr) : Json::parse(c.numerics)},
           {"numerics_text", c.numerics_text},
           {"gradients_lost_without_scaling", finite(c.gradients_lost)}};
  for (const ModeResult& m : c.modes) out["modes"].push_back(mode_json(m, c));
  return out;
}

void write_file(const std::string& path, const std::string& text) {
  io::AtomicFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

std::string joined(const char* const* pieces) {
  std::string text;
  for (; *pieces; ++pieces) text += *pieces;
  return text;
}

void fill(std::string& page, std::string_view mark, const std::string& with) {
  page.replace(page.find(mark), mark.size(), with);
}

std::string number_or_dash(double value, int digits, const char* unit = "") {
  return std::isfinite(value) ? fmt::format("{:.{}f}{}", value, digits, unit) : "-";
}

}  // namespace

std::string table(const Comparison& c) {
  std::size_t width = 4;
  for (const ModeResult& m : c.modes) width = std::max(width, m.mode.name.size());
  std::string out = fmt::format("\n{}{}, {} steps{}, {} seed{}{}\n", c.model, c.size.empty() ? "" : " (" + c.size + ")", c.steps,
                                c.batch > 0 ? fmt::format(" of {} samples", c.batch) : "", c.seeds,
                                c.seeds == 1 ? "" : "s", c.interrupted ? "; interrupted, this is what was done" : "");
  out += fmt::format("{:<{}} {:>10} {:>9} {:>9} {:>11} {:>11} {:>8} {:>10}  {}\n", "mode", width, "train loss", "val loss",
                     "vs fp32", c.unit + "/s", "memory", "skipped", "scale", "verdict");
  for (const ModeResult& m : c.modes) {
    const double difference = 100 * relative_difference(m, c.reference());
    out += fmt::format("{:<{}} {:>10} {:>9} {:>9} {:>11} {:>11} {:>8} {:>10}  {}\n", m.mode.name, width,
                       number_or_dash(m.final_train_loss(), 4), number_or_dash(m.final_validation_loss(), 4),
                       std::isfinite(difference) ? fmt::format("{:+.2f} %", difference) : "-",
                       number_or_dash(m.items_per_s(), 0), bytes_text(m.peak_bytes()), m.skipped_steps(),
                       m.final_loss_scale() > 0 ? fmt::format("{:g}", m.final_loss_scale()) : "-",
                       name(m.verdict.label));
  }
  out += "\n";
  for (const ModeResult& m : c.modes)
    if (m.verdict.label != Label::reference)
      out += fmt::format("{:<{}}  {}: {}\n", m.mode.name, width, name(m.verdict.label), m.verdict.reason);
  for (const ModeResult& m : c.modes)
    if (!m.post_mortem.empty()) out += fmt::format("\nwhere {} broke: {}\n", m.mode.name, m.post_mortem);
  return out + "\n";
}

std::string json(const Comparison& comparison) { return to_json(comparison).dump(1) + "\n"; }

void write_json(const Comparison& comparison, const std::string& path) { write_file(path, json(comparison)); }

void write_html(const Comparison& comparison, const std::string& path) {
  std::string data = to_json(comparison).dump();
  for (std::size_t at = 0; (at = data.find("</", at)) != std::string::npos; at += 3) data.replace(at, 2, "<\\/");
  std::string page = joined(report_template);
  fill(page, "/*CHART_LIBRARY*/", joined(chart_library));
  fill(page, "/*DATA*/", data);
  write_file(path, page);
}

}  // namespace binade::compare
