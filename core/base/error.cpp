#include "binade/core/base/error.h"

#include <charconv>

namespace binade {

std::string to_text(double value) {
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  return {text, end};
}

void fail(std::initializer_list<std::string> parts) {
  std::string message;
  for (const std::string& part : parts) message += part;
  throw Error(message);
}

}  // namespace binade
