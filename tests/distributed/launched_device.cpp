// Jobs of ranks on devices, simulated ones in most places: joining without MPI, and everything that can go wrong.
#include <unistd.h>

#include "binade/tests/core/test_device.h"
#include "binade/tests/distributed/job.h"

namespace {

using namespace binade;
using namespace binade::test;

class DeviceJobs : public testing::Test {
 protected:
  void SetUp() override {
    if (tests_the_cpu()) GTEST_SKIP() << "BINADE_TEST_DEVICE names no device";
    if (group().size() > 1) GTEST_SKIP() << "starts jobs of its own";
    if (mpiexec.empty()) GTEST_SKIP() << "no MPI was found when binade was built";
  }
  static void expect_failed(const Job& job, const std::string& words) {
    EXPECT_TRUE(job.ended) << "still running after " << job.seconds << " s";
    EXPECT_NE(job.finished.exit_code, 0) << job.output();
    EXPECT_LT(job.seconds, 30);
    EXPECT_NE(job.output().find(words), std::string::npos) << "'" << words << "' is not in:\n" << job.output();
  }
};

// Ranks that no MPI launcher started, with the variables torchrun sets; each in a process of its own.
std::vector<Job> play_torchrun(int ranks, const std::string& scenario, const Environment& more = {}) {
  static int jobs = 0;
  const int port = 20000 + (static_cast<int>(getpid()) * 7 + ++jobs) % 30000;
  std::vector<std::unique_ptr<Process>> processes;
  for (int r = 0; r < ranks; ++r) {
    Environment environment{{"BINADE_SCENARIO", scenario}, {"RANK", std::to_string(r)}, {"WORLD_SIZE", std::to_string(ranks)},
                            {"LOCAL_RANK", std::to_string(r)}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", std::to_string(port)}};
    for (const auto& [name, value] : more) environment[name] = value;
    processes.push_back(std::make_unique<Process>(std::string(BINADE_BINARY_DIR) + "/tests/test_distributed", Arguments{}, environment));
  }
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  std::vector<Job> jobs_of_ranks;
  for (const auto& process : processes) {
    while (process->running() && seconds() < 6) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    Job job{.finished = {}, .ended = !process->running(), .seconds = seconds()};
    if (!job.ended) process->kill();
    job.finished = process->wait();
    jobs_of_ranks.push_back(std::move(job));
  }
  return jobs_of_ranks;
}

TEST_F(DeviceJobs, EndWell) {
  const Job job = play(4, "nothing happens");
  EXPECT_TRUE(job.ended);
  EXPECT_EQ(job.finished.exit_code, 0) << job.output();
  EXPECT_NE(job.finished.out.find("all 4 ranks are done"), std::string::npos) << job.output();
}

TEST_F(DeviceJobs, MeetAtTheMasterAddressWithoutMpi) {
  for (const Job& job : play_torchrun(3, "nothing happens")) {
    EXPECT_TRUE(job.ended);
    EXPECT_EQ(job.finished.exit_code, 0) << job.output();
  }
}

TEST_F(DeviceJobs, StoppedRankIsNamed) {
  const Job job = play(3, "stopped");
  const auto said_by = [&](int rank) {
    return job.output().find("all_reduce #4 (sum of f32 [1000]): rank " + std::to_string(rank) +
                             " waited for 2 s: not arrived: rank 1\n") != std::string::npos;
  };
  expect_failed(job, "all_reduce #4 (sum of f32 [1000])");
  EXPECT_TRUE(said_by(0) || said_by(2)) << job.output();
}

TEST_F(DeviceJobs, StoppedInBackward) { expect_failed(play(2, "stopped in backward"), "waited for 2 s: not arrived: rank 1"); }

TEST_F(DeviceJobs, StoppedRankWithoutMpi) {
  const std::vector<Job> jobs = play_torchrun(2, "stopped");
  expect_failed(jobs[0], "all_reduce #4 (sum of f32 [1000]): rank 0 waited for 2 s: which ranks have not arrived is known only");
  EXPECT_FALSE(jobs[1].ended);
}

TEST_F(DeviceJobs, ThrowingRankIsHeard) {
  expect_failed(play_unnoticed(3, "throws"), "error: all_reduce #4 (sum of f32 [1000]): rank 1 has ended: it was ended by an exception");
}

TEST_F(DeviceJobs, RankThatLeavesEarly) {
  expect_failed(play_unnoticed(2, "leaves"), "all_reduce #4 (sum of f32 [1000]): rank 1 has left: its last collective was #3");
}

TEST_F(DeviceJobs, DifferentCollectives) {
  expect_failed(play_unnoticed(2, "other collective"), "the ranks call different collectives");
}

// What NCCL finds out by itself: the communicator is aborted, and reading the result is an error, not whatever lies there.
TEST_F(DeviceJobs, AsynchronousErrors) {
  const std::string words = "NCCL: remote process exited or there was a network error";
  expect_failed(play_torchrun(2, "asynchronous error")[1], words);
}

TEST_F(DeviceJobs, OneProcessForADevice) {
  const auto with_devices = [](const char* count) {
    return run_job(3, std::string(BINADE_BINARY_DIR) + "/tests/test_distributed", {},
                   {{"BINADE_SCENARIO", "nothing happens"}, {"BINADE_SIM_DEVICES", count}});
  };
  expect_failed(with_devices("2"), "dist::init: rank 2 is to use cuda:2, but this machine has 2 CUDA devices");
  expect_failed(with_devices("1"), "Duplicate GPU detected");
}

TEST_F(DeviceJobs, AMissingRankWhileJoining) {
  expect_failed(play_torchrun(1, "nothing happens", {{"WORLD_SIZE", "2"}})[0],
                "ncclCommInitRankConfig: rank 0 waited 2 s for the other ranks to connect");
}

}  // namespace
