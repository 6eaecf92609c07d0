// The one exception type, and check(): every rule broken by a caller becomes a message "operation: rule: what came".
#pragma once
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace binade {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string to_text(std::string_view text) { return std::string(text); }
inline std::string to_text(const char* text) { return text; }
inline std::string to_text(bool value) { return value ? "true" : "false"; }
inline std::string to_text(int value) { return std::to_string(value); }
inline std::string to_text(long value) { return std::to_string(value); }
inline std::string to_text(long long value) { return std::to_string(value); }
inline std::string to_text(unsigned value) { return std::to_string(value); }
inline std::string to_text(unsigned long value) { return std::to_string(value); }
std::string to_text(double value);  // shortest text that reads back to the same value

[[noreturn]] void fail(std::initializer_list<std::string> parts);

// check(a == b, "matmul: inner sizes differ: a is ", a.shape(), ", b is ", b.shape());
// The parts are turned into text only when the check fails.
template <class... Parts>
void check(bool ok, const Parts&... parts) {
  if (!ok) [[unlikely]]
    fail({to_text(parts)...});
}

}  // namespace binade
