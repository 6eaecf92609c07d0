// Jobs of ranks on devices, simulated ones in most places: joining without MPI, and everything that can go wrong.
#include <unistd.h>

#include <functional>

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
int free_port() {
  static int jobs = 0;
  return 20000 + (static_cast<int>(getpid()) * 14 + 2 * ++jobs) % 30000;
}
std::vector<Job> play_torchrun(int ranks, const std::string& scenario, const std::function<Environment(int rank)>& more = {}) {
  const int port = free_port();
  std::vector<std::unique_ptr<Process>> processes;
  for (int r = 0; r < ranks; ++r) {
    Environment environment{{"BINADE_SCENARIO", scenario}, {"RANK", std::to_string(r)}, {"WORLD_SIZE", std::to_string(ranks)},
                            {"LOCAL_RANK", std::to_string(r)}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", std::to_string(port)}};
    for (const auto& [name, value] : more ? more(r) : Environment()) environment[name] = value;
    processes.push_back(std::make_unique<Process>(std::string(BINADE_BINARY_DIR) + "/tests/test_distributed", Arguments{}, environment));
  }
  std::vector<Job> jobs_of_ranks;
  for (const auto& process : processes) jobs_of_ranks.push_back(finish(*process, 6));
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
  expect_failed(play_torchrun(1, "nothing happens", [](int) { return Environment{{"WORLD_SIZE", "2"}}; })[0],
                "ncclCommInitRankConfig: rank 0 waited 2 s for the other ranks to connect");
}

// torchrun's agent holds MASTER_PORT itself when it is elastic: its ranks meet at the next one.
TEST_F(DeviceJobs, ElasticRanksMeetAtTheNextPort) {
  const int port = free_port();
  const auto with = [&](const char* agent, int first, int second) {
    return play_torchrun(2, "nothing happens", [=](int rank) {
      Environment variables{{"MASTER_PORT", std::to_string(rank == 0 ? first : second)}};
      if (rank == 0) variables["TORCHELASTIC_USE_AGENT_STORE"] = agent;
      return variables;
    });
  };
  for (const Job& job : with("True", port, port + 1)) EXPECT_EQ(job.finished.exit_code, 0) << job.output();
  for (const Job& job : with("False", port, port)) EXPECT_EQ(job.finished.exit_code, 0) << job.output();
  expect_failed(with("True", port, port)[0], "ncclCommInitRankConfig: rank 0 waited 2 s for the other ranks to connect");
}

TEST_F(DeviceJobs, AMissingLibraryIsNamed) {
  const Job job = run_job(2, std::string(BINADE_BINARY_DIR) + "/tests/test_distributed", {},
                          {{"BINADE_SCENARIO", "nothing happens"}, {"BINADE_SIM_ABSENT", "libnccl"}});
  expect_failed(job, "error: NCCL: libnccl.so.2 is missing: install NCCL (Debian and Ubuntu: libnccl2, PyPI: nvidia-nccl-cu");
  expect_failed(job, "and add it to LD_LIBRARY_PATH: ");
}

TEST_F(DeviceJobs, RecordedStepsTakeNoCollectives) {
  const Job job = play(2, "recorded step");
  expect_failed(job, "GraphedStep: the step communicates with other ranks while it is recorded, which is not supported");
  EXPECT_NE(job.output().find("step 3\n"), std::string::npos) << "eager steps do communicate:\n" << job.output();
}

TEST_F(DeviceJobs, MicroBatchesRefuseLibrarySums) {
  const Job job = play(2, "library sums with micro_batches");
  expect_failed(job, "error: DataParallel: micro_batches needs sums in a fixed tree: do not set library_sums\n");
  expect_failed(job, "without micro_batches: taken\n");
}

}  // namespace
