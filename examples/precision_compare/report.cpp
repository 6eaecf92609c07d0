// What a comparison shows: a table on the terminal, JSON, and a self-contained HTML report.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <span>

#include "binade/core/io/atomic_file.h"
#include "precision_compare/comparison.h"
#include "precision_compare/report_page.h"

namespace example {

namespace {

using nlohmann::json;

double relative_difference(const ModeResult& mode, const ModeResult* reference) {
  if (!reference) return NAN;
  return mode.final_validation_loss() / reference->final_validation_loss() - 1;
}

json finite(double value) { return std::isfinite(value) ? json(value) : json(nullptr); }

json to_json(const Comparison& c) {
  json out{{"model", c.model},   {"size", c.size},   {"device", c.device}, {"unit", c.unit},
           {"steps", c.steps},   {"batch", c.batch}, {"lr", c.lr},         {"seeds", c.modes.front().seeds.size()},
           {"modes", json::array()}};
  for (const ModeResult& m : c.modes) {
    json by_seed = json::array(), curves = json::array();
    for (const SeedRun& run : m.seeds) {
      by_seed.push_back(finite(run.final_validation_loss()));
      json train = json::array(), validation = json::array(), scale = json::array();
      for (const double loss : run.train_loss) train.push_back(finite(loss));
      for (const auto& [step, loss] : run.validation_loss) validation.push_back({{"step", step}, {"loss", finite(loss)}});
      for (const double s : run.loss_scale) scale.push_back(finite(s));
      curves.push_back({{"seed", run.seed}, {"train_loss", train}, {"val_loss", validation}, {"loss_scale", scale}});
    }
    json tags = json::object();
    const binade::MemoryStats& memory = m.seeds.front().memory;
    for (int t = 0; t < binade::memory_tags; ++t)
      tags[std::string(binade::name(static_cast<binade::MemoryTag>(t)))] = memory.at_peak[static_cast<std::size_t>(t)];
    out["modes"].push_back({{"mode", m.mode.name},
                            {"final_train_loss", finite(m.final_train_loss())},
                            {"final_val_loss", finite(m.final_validation_loss())},
                            {"val_loss_vs_fp32", finite(relative_difference(m, c.reference()))},
                            {"val_loss_by_seed", by_seed},
                            {c.unit + "_per_s", m.items_per_s()},
                            {"peak_bytes", m.peak_bytes()},
                            {"peak_bytes_by_tag", tags},
                            {"skipped_steps", m.skipped_steps()},
                            {"loss_scale_final", m.mode.loss_scaling ? json(m.final_loss_scale()) : json(nullptr)},
                            {"runs", curves}});
  }
  return out;
}

void write_file(const std::string& path, const std::string& text) {
  binade::io::AtomicFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
  fmt::print("wrote {}\n", path);
}

}  // namespace

void print_table(const Comparison& c) {
  fmt::print("\n{} ({}), {} steps of {} samples, {} seed(s)\n", c.model, c.size, c.steps, c.batch,
             c.modes.front().seeds.size());
  fmt::print("{:<6} {:>12} {:>12} {:>10} {:>12} {:>12} {:>9} {:>12}\n", "mode", "train loss", "val loss", "vs fp32",
             c.unit + "/s", "peak memory", "skipped", "loss scale");
  for (const ModeResult& m : c.modes) {
    const double difference = relative_difference(m, c.reference());
    fmt::print("{:<6} {:>12.4f} {:>12.4f} {:>10} {:>12.0f} {:>12} {:>9} {:>12}\n", m.mode.name, m.final_train_loss(),
               m.final_validation_loss(), std::isfinite(difference) ? fmt::format("{:+.2f} %", 100 * difference) : "-",
               m.items_per_s(), human_bytes(m.peak_bytes()), m.skipped_steps(),
               m.mode.loss_scaling ? fmt::format("{:.0f}", m.final_loss_scale()) : "-");
  }
  fmt::print("\n");
}

void write_json(const Comparison& comparison, const std::string& path) {
  write_file(path, to_json(comparison).dump(1) + "\n");
}

void write_html(const Comparison& comparison, const std::string& path) {
  std::string data = to_json(comparison).dump();
  for (std::size_t at = 0; (at = data.find("</", at)) != std::string::npos; at += 3) data.replace(at, 2, "<\\/");
  write_file(path, report_page(data));
}

}  // namespace example
