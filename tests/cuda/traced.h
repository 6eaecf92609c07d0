// What BINADE_TRACE=dispatch says while something runs.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <string>

namespace binade::test {

class Variable {  // of the environment, for the time of this object
 public:
  Variable(const char* name, const std::string& value) : name_(name) { setenv(name, value.c_str(), 1); }
  ~Variable() { unsetenv(name_); }

 private:
  const char* name_;
};

inline std::string traced(const std::function<void()>& body) {
  const Variable wish("BINADE_TRACE", "dispatch");
  testing::internal::CaptureStderr();
  body();
  return testing::internal::GetCapturedStderr();
}
inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

}  // namespace binade::test
