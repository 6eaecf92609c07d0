// Ranks on two hosts with a network between them: the same results as in one process, and an end in bounded time when the
// network or the other host fails.
#include <memory>

#include "binade/tests/distributed/hosts.h"
#include "binade/tests/distributed/launched_examples.h"

namespace {

using namespace binade;
using namespace binade::test;

class LaunchedHosts : public LaunchedTest {
 protected:
  void SetUp() override {
    LaunchedTest::SetUp();
    if (IsSkipped()) return;
    hosts = std::make_unique<Hosts>();
    if (const std::string problem = hosts->problem(); !problem.empty())
      GTEST_SKIP() << "this machine cannot play two hosts (root and iproute2 are needed): " << problem;
  }
  static std::string itself() { return std::string(BINADE_BINARY_DIR) + "/tests/test_distributed"; }
  Job play(const std::string& scenario) const { return hosts->run(itself(), {}, {{"BINADE_SCENARIO", scenario}}); }
  // With a launcher that learns of a failure only seconds later.
  Job play_unnoticed(const std::string& scenario) const {
    return hosts->run("/bin/sh", {"-c", "\"$0\"; code=$?; [ $code = 0 ] || sleep 5; exit $code", itself()},
                      {{"BINADE_SCENARIO", scenario}});
  }
  static void expect_failed(const Job& job, const std::string& words) {
    EXPECT_TRUE(job.ended) << "still running after " << job.seconds << " s";
    EXPECT_NE(job.finished.exit_code, 0) << job.output();
    EXPECT_LT(job.seconds, 30);
    EXPECT_NE(job.output().find(words), std::string::npos) << "'" << words << "' is not in:\n" << job.output();
  }
  std::unique_ptr<Hosts> hosts;
};

TEST_F(LaunchedHosts, ATrainingHasTheBitsOfOneProcess) {
  if (!std::filesystem::exists(example_program("gpt"))) GTEST_SKIP() << "the examples are not built";
  const DataFolder folder;
  const auto flags = [&](const std::string& name) {
    return gpt_flags(folder, name, 6, "fp16") + Arguments{"--deterministic-reduction"};
  };
  const Finished one = run("gpt", flags("one"));
  ASSERT_EQ(one.exit_code, 0) << one.err;
  const std::int64_t before = hosts->bytes_sent();
  const Job two = hosts->run(example_program("gpt"), flags("two"));
  ASSERT_EQ(two.finished.exit_code, 0) << two.output();
  // Each step a rank sends half of the gradients to be summed, and half of the sums: at least 0.8 M in FP32.
  EXPECT_GT(hosts->bytes_sent() - before, 6 * 4 * 800'000) << "the ranks did not talk over the network";
  EXPECT_NE(two.finished.out.find("2 processes (mpi)"), std::string::npos) << two.output();
  ASSERT_EQ(json_lines(folder / "one.jsonl").size(), 6U);
  expect_same_lines(json_lines(folder / "two.jsonl"), json_lines(folder / "one.jsonl"));
  EXPECT_TRUE(read_file(folder / "one.ckpt") == read_file(folder / "two.ckpt"));
}

TEST_F(LaunchedHosts, JobsEndWell) {
  const Job job = play("nothing happens");
  EXPECT_TRUE(job.ended);
  EXPECT_EQ(job.finished.exit_code, 0) << job.output();
  EXPECT_NE(job.finished.out.find("all 2 ranks are done"), std::string::npos) << job.output();
}

TEST_F(LaunchedHosts, CutLink) {
  if (Hosts::open_mpi()) GTEST_SKIP() << "Open MPI's mpirun waits for a host that it cannot reach";
  expect_failed(play("cuts the link"), "all_reduce #4 (sum of f32 [1000]): rank 0 waited for 2 s: not arrived: rank 1\n");
}

TEST_F(LaunchedHosts, KilledRank) {
  expect_failed(play("killed"), "");  // the launcher ends the other at once
  expect_failed(play_unnoticed("killed"), "all_reduce #4 (sum of f32 [1000]): rank 0 waited for 2 s: not arrived: rank 1\n");
}

TEST_F(LaunchedHosts, ThrowingRankIsHeard) {
  expect_failed(play_unnoticed("throws"), "error: all_reduce #4 (sum of f32 [1000]): rank 1 has ended: it was ended by an exception");
}

}  // namespace
