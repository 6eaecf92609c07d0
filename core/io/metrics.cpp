#include "binade/core/io/metrics.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "binade/core/base/error.h"

namespace binade::io {

namespace {
nlohmann::ordered_json to_json(const MetricValue& value) {
  return std::visit(
      [](const auto& v) -> nlohmann::ordered_json {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, double>) {
          if (std::isnan(v)) return "nan";
          if (std::isinf(v)) return v > 0 ? "inf" : "-inf";
        }
        return v;
      },
      value);
}
}  // namespace

MetricsWriter::MetricsWriter(const std::string& path, bool append) : path_(path) {
  errno = 0;
  file_.open(path, append ? std::ios::app : std::ios::trunc);
  check(file_.is_open(), "metrics: cannot write ", path, ": ", std::strerror(errno));
}

void MetricsWriter::write(std::int64_t step, const Metrics& metrics) {
  nlohmann::ordered_json line;
  line["step"] = step;
  for (const auto& [name, value] : metrics) line[name] = to_json(value);
  file_ << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n' << std::flush;
  check(file_.good(), "metrics: writing failed: ", path_);
}

}  // namespace binade::io
