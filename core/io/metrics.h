// Metrics of a run as JSON lines: one object per step, on disk as soon as it is written.
#pragma once
#include <cstdint>
#include <fstream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace binade::io {

using MetricValue = std::variant<double, std::int64_t, bool, std::string>;
using Metrics = std::vector<std::pair<std::string, MetricValue>>;

class MetricsWriter {
 public:
  explicit MetricsWriter(const std::string& path, bool append = false);  // throws when the file cannot be written
  // {"step": 7, "loss": 2.31}, names in the order given. JSON has no inf and NaN: they become "inf", "-inf", "nan".
  void write(std::int64_t step, const Metrics& metrics);

 private:
  std::string path_;
  std::ofstream file_;
};

}  // namespace binade::io
