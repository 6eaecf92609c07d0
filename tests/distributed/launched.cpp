// Jobs in which a rank dies, hangs, throws or leaves: every other rank ends in bounded time, with a message that names
// the collective and who is missing, and the job's exit code is not 0. And the variables that launchers set.
#include <map>

#include "binade/tests/core/expect_error.h"
#include "binade/tests/distributed/job.h"

namespace {

using namespace binade;
using namespace binade::test;

class LaunchedFailure : public LaunchedTest {
 protected:
  // 2 s timeout in the scenarios; starting and cleaning up take their time on a busy machine.
  static void expect_ended(const Job& job) {
    EXPECT_TRUE(job.ended) << "still running after " << job.seconds << " s";
    EXPECT_NE(job.finished.exit_code, 0) << job.output();
    EXPECT_LT(job.seconds, 30);
  }
  static void expect_says(const Job& job, const std::string& words) {
    EXPECT_NE(job.output().find(words), std::string::npos) << "'" << words << "' is not in:\n" << job.output();
  }
};

// Of the ranks that wait for rank 1, the first to end takes the others with it: one of them says so.
void expect_waited_for_rank_1(const Job& job, const std::string& collective) {
  const auto said_by = [&](int rank) {
    return job.output().find(collective + ": rank " + std::to_string(rank) + " waited for 2 s: not arrived: rank 1\n") !=
           std::string::npos;
  };
  EXPECT_TRUE(said_by(0) || said_by(2)) << job.output();
}

TEST_F(LaunchedTest, JobsEndWell) {
  for (const int ranks : {1, 2, 4}) {
    const Job job = play(ranks, "nothing happens");
    EXPECT_TRUE(job.ended);
    EXPECT_EQ(job.finished.exit_code, 0) << job.output();
    EXPECT_NE(job.finished.out.find("all " + std::to_string(ranks) + " ranks are done"), std::string::npos) << job.output();
    EXPECT_EQ(job.finished.err.find("error: "), std::string::npos) << job.finished.err;  // an MPI may have remarks of its own
  }
}

TEST_F(LaunchedFailure, StoppedRank) {
  const Job job = play(3, "stopped");
  expect_ended(job);
  expect_waited_for_rank_1(job, "all_reduce #4 (sum of f32 [1000])");
}

TEST_F(LaunchedFailure, KilledRank) {
  expect_ended(play(3, "killed"));  // the launcher ends the others
  const Job job = play_unnoticed(3, "killed");
  expect_ended(job);
  expect_waited_for_rank_1(job, "all_reduce #4 (sum of f32 [1000])");
}

TEST_F(LaunchedFailure, ThrowingRank) {
  const Job job = play(3, "throws");
  expect_ended(job);
  expect_says(job, "error: the data are damaged");
  const Job heard = play_unnoticed(3, "throws");
  expect_ended(heard);
  expect_says(heard, "error: all_reduce #4 (sum of f32 [1000]): rank 1 has ended: it was ended by an exception");
}

TEST_F(LaunchedFailure, RankThatLeavesEarly) {
  const Job job = play_unnoticed(3, "leaves");
  expect_ended(job);
  expect_says(job, "all_reduce #4 (sum of f32 [1000]): rank 1 has left: its last collective was #3");
}

TEST_F(LaunchedFailure, LateRank) {
  const Job job = play_unnoticed(2, "late");
  expect_ended(job);
  expect_says(job, "all_reduce #4 (sum of f32 [1000]): rank 0 waited for 2 s: not arrived: rank 1");
}

TEST_F(LaunchedFailure, DifferentCollectives) {
  const Job job = play_unnoticed(2, "other collective");
  expect_ended(job);
  expect_says(job, "the ranks call different collectives");
  const Job size = play_unnoticed(2, "other size");
  expect_ended(size);
  expect_says(size, "all_reduce #4 (sum of f32 [");
  expect_says(size, "the ranks call different collectives");
}

TEST_F(LaunchedFailure, StoppedInBackward) {
  const Job job = play(2, "stopped in backward");
  expect_ended(job);
  expect_says(job, "all_reduce #");
  expect_says(job, "waited for 2 s: not arrived: rank 1");
}

TEST_F(LaunchedFailure, ThrowsInBackward) {
  const Job job = play_unnoticed(2, "throws in backward");
  expect_ended(job);
  expect_says(job, "error: backward broke");
}

// ---- launchers' variables

using Variables = std::map<std::string, std::string>;
dist::Launch launched_with(const Variables& variables) {
  return dist::read_launch([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(LaunchVariables, NoLauncher) {
  const dist::Launch launch = launched_with({});
  EXPECT_EQ(launch.launcher, "");
  EXPECT_EQ(launch.size, 1);
}

TEST(LaunchVariables, EveryLauncher) {
  const std::vector<std::pair<std::string, Variables>> cases{
      {"Open MPI", {{"OMPI_COMM_WORLD_RANK", "5"}, {"OMPI_COMM_WORLD_SIZE", "8"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}}},
      {"MPICH", {{"PMI_RANK", "5"}, {"PMI_SIZE", "8"}, {"MPI_LOCALRANKID", "1"}}},
      {"torchrun",
       {{"RANK", "5"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "1"}, {"MASTER_ADDR", "node0"}, {"MASTER_PORT", "29500"}}},
      {"Slurm", {{"SLURM_PROCID", "5"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "1"}, {"SLURM_STEP_ID", "0"}}}};
  for (const auto& [name, variables] : cases) {
    const dist::Launch launch = launched_with(variables);
    EXPECT_EQ(launch.launcher, name);
    EXPECT_EQ(launch.rank, 5) << name;
    EXPECT_EQ(launch.size, 8) << name;
    EXPECT_EQ(launch.local_rank, 1) << name;
    if (name != "torchrun") continue;
    EXPECT_EQ(launch.master_address, "node0");
    EXPECT_EQ(launch.master_port, 29500);
  }
}

TEST(LaunchVariables, AnMpiLauncherInsideSlurmComesFirst) {
  const dist::Launch launch = launched_with(
      {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "64"}, {"SLURM_STEP_ID", "0"}});
  EXPECT_EQ(launch.launcher, "MPICH");
  EXPECT_EQ(launch.size, 2);
  // A batch script's own process is alone, whatever its allocation has.
  EXPECT_EQ(launched_with({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "64"}}).size, 1);
}

TEST(LaunchVariables, Mistakes) {
  const auto expect = [](const Variables& variables, const std::string& start) {
    const std::string text = error_of([&] { launched_with(variables); });
    EXPECT_TRUE(text.starts_with("dist::init: " + start)) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos);
  };
  expect({{"RANK", "0"}}, "RANK is set but WORLD_SIZE is not");
  expect({{"WORLD_SIZE", "2"}}, "WORLD_SIZE is set but RANK is not");
  expect({{"PMI_RANK", "0"}}, "PMI_RANK is set but PMI_SIZE is not");
  expect({{"RANK", "2"}, {"WORLD_SIZE", "2"}}, "RANK must be below WORLD_SIZE, got 2 and 2");
  expect({{"RANK", "one"}, {"WORLD_SIZE", "2"}}, "RANK must be a number that is not negative, got \"one\"");
  expect({{"RANK", "-1"}, {"WORLD_SIZE", "2"}}, "RANK must be a number that is not negative, got \"-1\"");
  expect({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "1"}}, "RANK and WORLD_SIZE are set but MASTER_ADDR is not");
  expect({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}, "RANK and WORLD_SIZE are set but MASTER_PORT is not");
  expect({{"PMI_RANK", "1"}, {"PMI_SIZE", "4"}, {"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "1"}},
         "MPICH says rank 1 of 4, torchrun's variables say rank 1 of 2");
}

}  // namespace
