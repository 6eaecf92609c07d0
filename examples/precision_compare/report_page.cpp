#include "precision_compare/report_page.h"

#include <string_view>

namespace example {

// Written by CMake from report.html and the distribution's Chart.js, in pieces a compiler accepts.
extern const char* const report_template[];
extern const char* const chart_library[];

namespace {

std::string joined(const char* const* pieces) {
  std::string text;
  for (; *pieces; ++pieces) text += *pieces;
  return text;
}

void fill(std::string& page, std::string_view mark, const std::string& with) {
  page.replace(page.find(mark), mark.size(), with);
}

}  // namespace

std::string report_page(const std::string& comparison_json) {
  std::string page = joined(report_template);
  fill(page, "/*CHART_LIBRARY*/", joined(chart_library));
  fill(page, "/*DATA*/", comparison_json);
  return page;
}

}  // namespace example
