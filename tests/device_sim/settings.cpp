#include "settings.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace simt {

namespace {

[[noreturn]] void refuse(const char* name, std::string_view value) {
  std::fprintf(stderr, "simulated device: %s: unknown value '%.*s'\n", name, static_cast<int>(value.size()),
               value.data());
  std::exit(2);
}

long long number(const char* name, long long fallback, long long low, long long high) {
  const char* text = std::getenv(name);
  if (!text) return fallback;
  char* end = nullptr;
  const long long value = std::strtoll(text, &end, 10);
  if (end == text || *end || value < low || value > high) refuse(name, text);
  return value;
}

// The position of the variable's value among `words`, separated by '|'.
int choice(const char* name, std::string_view words) {
  const char* text = std::getenv(name);
  if (!text) return 0;
  for (int i = 0; !words.empty(); ++i) {
    const std::string_view word = words.substr(0, words.find('|'));
    if (word == text) return i;
    words.remove_prefix(std::min(words.size(), word.size() + 1));
  }
  refuse(name, text);
}

}  // namespace

Settings settings_from_environment() {
  Settings s;
  s.order = static_cast<ThreadOrder>(choice("BINADE_SIM_ORDER", "forward|reverse|shuffled"));
  s.seed = static_cast<std::uint64_t>(number("BINADE_SIM_SEED", 1, 0, 1LL << 62));
  s.lazy = choice("BINADE_SIM_QUEUES", "lazy|eager") == 0;
  s.protect = choice("BINADE_SIM_PROTECT", "1|0") == 0;
  s.check = choice("BINADE_SIM_CHECK", "1|0") == 0;
  s.leaks = choice("BINADE_SIM_LEAKS", "1|0") == 0;
  s.devices = static_cast<int>(number("BINADE_SIM_DEVICES", 2, 0, 8));
  s.memory = static_cast<std::size_t>(number("BINADE_SIM_MEMORY", 4096, 1, 4096)) << 20;
  s.capability = static_cast<int>(number("BINADE_SIM_CAPABILITY", 90, 50, 200));
  if (const char* launches = std::getenv("BINADE_SIM_LAUNCHES")) s.launches = launches;
  if (const char* fail = std::getenv("BINADE_SIM_FAIL")) s.fail = fail;
  if (const char* absent = std::getenv("BINADE_SIM_ABSENT")) s.absent = absent;
  return s;
}

Settings& settings() {
  static Settings current = settings_from_environment();
  return current;
}

}  // namespace simt
