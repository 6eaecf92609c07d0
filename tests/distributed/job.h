// An MPI job started by a test, with a limit on its time.
#pragma once
#include <chrono>
#include <thread>

#include "binade/tests/distributed/ranks.h"
#include "binade/tests/examples/process.h"

namespace binade::test {

inline const std::string mpiexec = BINADE_MPIEXEC;  // empty: binade was built without MPI

struct Job {
  Finished finished;
  bool ended = false;  // by itself, within the limit
  double seconds = 0;
  std::string output() const { return finished.out + finished.err; }
};

inline Job finish(Process& process, double limit_s) {
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  while (process.running() && seconds() < limit_s) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  Job job{.finished = {}, .ended = !process.running(), .seconds = seconds()};
  if (!job.ended) process.kill();
  job.finished = process.wait();
  return job;
}

inline Job run_job(int ranks, const std::string& program, const Arguments& arguments, const Environment& environment = {},
                   double limit_s = 150) {
  Arguments all{"-n", std::to_string(ranks), program};
  all.insert(all.end(), arguments.begin(), arguments.end());
  Process process(mpiexec, all, environment);
  return finish(process, limit_s);
}

// This program in the role of scenarios.cpp.
inline Job play(int ranks, const std::string& scenario) {
  return run_job(ranks, std::string(BINADE_BINARY_DIR) + "/tests/test_distributed", {}, {{"BINADE_SCENARIO", scenario}});
}
// The same with a launcher that learns of a failure only seconds later, as when a machine or its network fails: until
// then the other ranks are on their own. A launcher that notices ends them at once, before they can be heard.
inline Job play_unnoticed(int ranks, const std::string& scenario) {
  return run_job(ranks, "/bin/sh", {"-c", "\"$0\"; code=$?; [ $code = 0 ] || sleep 5; exit $code",
                                    std::string(BINADE_BINARY_DIR) + "/tests/test_distributed"},
                 {{"BINADE_SCENARIO", scenario}});
}

class LaunchedTest : public testing::Test {
 protected:
  void SetUp() override {
    if (mpiexec.empty()) GTEST_SKIP() << "no MPI was found when binade was built";
    if (group().size() > 1) GTEST_SKIP() << "starts jobs of its own";
  }
};

}  // namespace binade::test
