// The HTML page around a comparison's JSON.
#pragma once
#include <string>

namespace example {

std::string report_page(const std::string& comparison_json);  // Chart.js and the page's own code are embedded

}  // namespace example
