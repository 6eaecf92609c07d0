// Jobs with one rank on each of two hosts, which are network namespaces of this machine (hosts.sh).
#pragma once
#include <unistd.h>

#include "binade/tests/distributed/job.h"

namespace binade::test {

class Hosts {
 public:
  Hosts() { ready_ = call({"up"}); }
  ~Hosts() { call({"down"}); }
  Hosts(const Hosts&) = delete;
  Hosts& operator=(const Hosts&) = delete;

  // Empty, or why this machine cannot play two hosts.
  std::string problem() const { return ready_.exit_code == 0 ? "" : ready_.err.substr(0, ready_.err.find('\n')); }
  std::int64_t bytes_sent() const { return std::stoll(call({"bytes"}).out); }  // by the first host

  // mpiexec runs on the first host and reaches the second through hosts.sh in place of ssh.
  Job run(const std::string& program, const Arguments& arguments, const Environment& environment = {},
          double limit_s = 150) const {
    Environment variables{{"BINADE_HOSTS", name_}};
    variables.insert(environment.begin(), environment.end());
    Arguments all{"on", "1", mpiexec, "-n", "2"};
    const auto add = [&](const Arguments& more) { all.insert(all.end(), more.begin(), more.end()); };
    if (open_mpi()) {
      add({"--host", "10.77.0.1,10.77.0.2", "-mca", "plm_rsh_agent", script, "-mca", "btl_tcp_if_include", "net0"});
      for (const auto& [name, value] : variables) add({"-x", name});
    } else {
      add({"-hosts", "10.77.0.1,10.77.0.2", "-ppn", "1", "-launcher", "ssh", "-launcher-exec", script});
    }
    all.push_back(program);
    add(arguments);
    Process process(script, all, variables);
    return finish(process, limit_s);
  }

  static bool open_mpi() {
    static const bool found = Process(mpiexec, {"--version"}).wait().out.find("OpenRTE") != std::string::npos;
    return found;
  }

 private:
  Finished call(const Arguments& arguments) const { return Process(script, arguments, {{"BINADE_HOSTS", name_}}).wait(); }

  inline static const std::string script = std::string(BINADE_SOURCE_DIR) + "/tests/distributed/hosts.sh";
  inline static int count = 0;
  std::string name_ = "binade-" + std::to_string(getpid()) + "-" + std::to_string(++count);
  Finished ready_;
};

}  // namespace binade::test
