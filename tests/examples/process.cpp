#include "binade/tests/examples/process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "binade/core/base/error.h"
#include "binade/tests/data/folder.h"

extern char** environ;

namespace binade::test {

Process::Process(const std::string& program, const Arguments& arguments, const Environment& environment) {
  std::string pattern = (std::filesystem::temp_directory_path() / "binade_run_XXXXXX").string();
  check(mkdtemp(pattern.data()) != nullptr, "test: cannot make a folder");
  folder_ = pattern;
  const std::string out = folder_ + "/out", err = folder_ + "/err";

  std::vector<std::string> words{program}, variables;
  words.insert(words.end(), arguments.begin(), arguments.end());
  for (char** at = environ; *at != nullptr; ++at) {
    const std::string variable = *at;
    if (!environment.contains(variable.substr(0, variable.find('=')))) variables.push_back(variable);
  }
  for (const auto& [name, value] : environment) variables.push_back(name + "=" + value);
  const auto pointers = [](std::vector<std::string>& strings) {
    std::vector<char*> all;
    for (std::string& s : strings) all.push_back(s.data());
    all.push_back(nullptr);
    return all;
  };

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int error =
      posix_spawn(&pid_, program.c_str(), &actions, nullptr, pointers(words).data(), pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  ended_ = error != 0;
  check(error == 0, "test: cannot start ", program);
}

Process::~Process() {
  if (!ended_) {
    kill();
    waitpid(pid_, &status_, 0);
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

bool Process::running() {
  if (!ended_) ended_ = waitpid(pid_, &status_, WNOHANG) == pid_;
  return !ended_;
}

void Process::kill() const { ::kill(pid_, SIGKILL); }

Finished Process::wait() {
  if (!ended_) ended_ = waitpid(pid_, &status_, 0) == pid_;
  Finished result;
  if (WIFEXITED(status_)) result.exit_code = WEXITSTATUS(status_);
  if (WIFSIGNALED(status_)) result.signal = WTERMSIG(status_);
  result.out = read_file(folder_ + "/out");
  result.err = read_file(folder_ + "/err");
  return result;
}

std::string example_program(const std::string& name) { return std::string(BINADE_BINARY_DIR) + "/examples/" + name; }

Finished run(const std::string& example, const Arguments& arguments, const Environment& environment) {
  return Process(example_program(example), arguments, environment).wait();
}

}  // namespace binade::test
