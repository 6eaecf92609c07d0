// This very program once more, with other variables and some of its tests: what it printed and how it ended.
#pragma once
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <string>

namespace binade::test {

inline constexpr const char* child_variable = "BINADE_TEST_CHILD";  // a test that only children run looks for it

struct Child {
  std::string output;
  int exit_code = -1;
};
inline Child run_child(const std::string& variables, const std::string& filter) {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command =
      std::string(child_variable) + "=1 " + variables + " '" + program + "' --gtest_filter='" + filter + "' 2>&1";
  Child child;
  FILE* const pipe = popen(command.c_str(), "r");
  if (!pipe) return child;
  char part[1024];
  for (std::size_t n = 0; (n = fread(part, 1, sizeof part, pipe)) > 0;) child.output.append(part, n);
  const int status = pclose(pipe);
  child.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return child;
}

}  // namespace binade::test
