#include "binade/core/backend/trace.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace binade {

bool traces(std::string_view topic) {
  const char* asked = std::getenv("BINADE_TRACE");
  std::string_view rest = asked ? asked : "";
  while (!rest.empty()) {
    const std::size_t end = rest.find(',');
    if (rest.substr(0, end) == topic) return true;
    rest = end == rest.npos ? std::string_view() : rest.substr(end + 1);
  }
  return false;
}

void trace(std::string_view topic, std::initializer_list<std::string_view> parts) {
  std::string line = "binade: ";
  line.append(topic).append(": ");
  for (const std::string_view part : parts) line += part;
  line += '\n';
  std::fputs(line.c_str(), stderr);  // one call: threads do not mix their lines
}

}  // namespace binade
