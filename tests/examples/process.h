// Runs a program as a user does: arguments, environment, output, exit code.
#pragma once
#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace binade::test {

using Arguments = std::vector<std::string>;
using Environment = std::map<std::string, std::string>;

struct Finished {
  int exit_code = -1;  // -1: ended by a signal
  int signal = 0;
  std::string out, err;
};

// A started program; its output goes to two files in a folder of its own.
class Process {
 public:
  Process(const std::string& program, const Arguments& arguments, const Environment& environment = {});
  ~Process();  // kills what still runs
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  bool running();
  void kill() const;  // SIGKILL
  Finished wait();

 private:
  std::string folder_;
  pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

// An example program by its name.
std::string example_program(const std::string& name);
Finished run(const std::string& example, const Arguments& arguments, const Environment& environment = {});

}  // namespace binade::test
