// The example programs as MPI jobs.
#pragma once
#include <csignal>
#include <filesystem>

#include "binade/core/io/checkpoint.h"
#include "binade/tests/distributed/job.h"
#include "binade/tests/examples/json_lines.h"
#include "binade/tests/examples/small_data.h"

namespace binade::test {

using nlohmann::json;

class LaunchedExamples : public LaunchedTest {
 protected:
  void SetUp() override {
    LaunchedTest::SetUp();
    if (!std::filesystem::exists(example_program("gpt"))) GTEST_SKIP() << "the examples are not built";
  }
};

inline Arguments operator+(Arguments a, const Arguments& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline Arguments gpt_flags(const DataFolder& folder, const std::string& name, int steps, const std::string& precision) {
  return {"--data",   folder / "kjv.txt",       "--size",    "tiny", "--context",    "16",
          "--batch",  "16",                     "--seed",    "3",    "--dropout",    "0.1",
          "--steps",  std::to_string(steps),    "--metrics", folder / (name + ".jsonl"),
          "--checkpoint", folder / (name + ".ckpt"), "--precision", precision, "--evaluate-every", "1000"};
}

inline void expect_same_lines(const std::vector<json>& a, const std::vector<json>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    for (const char* field : {"step", "loss", "lr", "grad_norm", "loss_scale", "skipped"})
      ASSERT_EQ(a[i].at(field), b[i].at(field)) << field << " of step " << i;
}

inline std::vector<pid_t> ranks_of(const std::string& mark) {  // the processes called gpt with `mark` among their arguments
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string pid = entry.path().filename().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string command = read_file(entry.path().string() + "/cmdline");
    if (read_file(entry.path().string() + "/comm") == "gpt\n" && command.find(mark) != std::string::npos) found.push_back(std::stoi(pid));
  }
  return found;
}

// Starts gpt in so many ranks and kills one of them once there is a checkpoint: the job ends, and not well.
inline void kill_once_saved(std::size_t ranks, const Arguments& flags, const std::string& checkpoint) {
  Process job(mpiexec, Arguments{"-n", std::to_string(ranks), example_program("gpt")} + flags);
  while (job.running() && !std::filesystem::exists(checkpoint)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const std::vector<pid_t> found = ranks_of(checkpoint);
  ASSERT_EQ(found.size(), ranks);
  ::kill(found.back(), SIGKILL);
  const Job killed = finish(job, 30);
  EXPECT_TRUE(killed.ended) << "the job goes on without a rank";
  EXPECT_NE(killed.finished.exit_code, 0) << killed.finished.out;
}

// A gpt job of 2 ranks is killed and resumed with 4: "killed" then has the losses and the checkpoint of "whole", a run of
// one rank that nobody disturbed.
inline void expect_a_killed_job_resumes(const DataFolder& folder, int steps, const Arguments& more) {
  const auto flags = [&](const std::string& name) {
    return gpt_flags(folder, name, steps, "fp16") + Arguments{"--deterministic-reduction", "--every", "5"} + more;
  };
  const Job whole = run_job(1, example_program("gpt"), flags("whole"));
  ASSERT_EQ(whole.finished.exit_code, 0) << whole.output();
  kill_once_saved(2, flags("killed"), folder / "killed.ckpt");
  const std::int64_t saved = io::load_checkpoint(folder / "killed.ckpt").step;  // it is whole
  ASSERT_GT(saved, 0);
  ASSERT_LT(saved, steps);
  const json first = json_lines(folder / "killed.jsonl").at(0);  // with its times, which another run would not repeat
  const Job resumed = run_job(4, example_program("gpt"), flags("killed") + Arguments{"--resume"});
  ASSERT_EQ(resumed.finished.exit_code, 0) << resumed.output();
  EXPECT_EQ(json_lines(folder / "killed.jsonl").at(0), first) << "it has started anew";
  expect_same_lines(json_lines(folder / "killed.jsonl"), json_lines(folder / "whole.jsonl"));
  EXPECT_TRUE(read_file(folder / "killed.ckpt") == read_file(folder / "whole.ckpt"));
}

}  // namespace binade::test
