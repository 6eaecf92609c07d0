// The example programs as MPI jobs: the same results for any number of ranks, one voice, and a killed job resumed.
#include "binade/tests/distributed/launched_examples.h"

namespace {

using namespace binade;
using namespace binade::test;

TEST_F(LaunchedExamples, DeterministicGptIsTheSameForAnyNumberOfRanks) {
  const DataFolder folder;
  for (const char* precision : {"fp32", "fp16"}) {
    for (const int ranks : {1, 2, 4}) {
      const std::string name = precision + std::to_string(ranks);
      const Job job = run_job(ranks, example_program("gpt"), gpt_flags(folder, name, 6, precision) + Arguments{"--deterministic-reduction"});
      ASSERT_EQ(job.finished.exit_code, 0) << job.output();
      expect_same_lines(json_lines(folder / (name + ".jsonl")), json_lines(folder / (precision + std::string("1.jsonl"))));
      EXPECT_TRUE(read_file(folder / (name + ".ckpt")) == read_file(folder / (precision + std::string("1.ckpt")))) << name;
    }
  }
}

TEST_F(LaunchedExamples, GptAgreesToRounding) {
  const DataFolder folder;
  std::vector<std::vector<json>> runs;
  for (const int ranks : {1, 2, 4}) {
    const std::string name = std::to_string(ranks);
    Arguments flags = gpt_flags(folder, name, 6, "fp32");
    flags[11] = "0";  // without dropout, whose masks belong to ranks
    const Job job = run_job(ranks, example_program("gpt"), flags);
    ASSERT_EQ(job.finished.exit_code, 0) << job.output();
    runs.push_back(json_lines(folder / (name + ".jsonl")));
    ASSERT_EQ(runs.back().size(), 6U);
  }
  for (std::size_t i = 0; i < 6; ++i) {
    const double one = runs[0][i].at("loss");
    // 2^-24 for sums over 16 * 16 tokens and 128 channels (growth sqrt(32768) = 181), compounded over the steps
    for (const auto& run : runs) EXPECT_NEAR(run[i].at("loss").get<double>(), one, 0x1p-24 * 181 * static_cast<double>(i + 1) * one);
  }
}

TEST_F(LaunchedExamples, OnlyTheFirstRankSpeaks) {
  const DataFolder folder;
  const auto lines = [](const std::string& text) { return std::ranges::count(text, '\n'); };
  const Job one = run_job(1, example_program("mlp"), {"--data", folder.path(), "--batch", "20", "--steps", "5"});
  const Job two = run_job(2, example_program("mlp"), {"--data", folder.path(), "--batch", "20", "--steps", "5", "--metrics", folder / "m"});
  ASSERT_EQ(two.finished.exit_code, 0) << two.output();
  EXPECT_EQ(lines(two.finished.out), lines(one.finished.out) + 1) << two.finished.out;  // "2 processes (mpi) ..."
  EXPECT_EQ(two.finished.err, "");
  EXPECT_EQ(json_lines(folder / "m").size(), 5U);
  const Job wrong = run_job(2, example_program("mlp"), {"--data", folder.path(), "--batch", "21"});
  EXPECT_NE(wrong.finished.exit_code, 0);
  const std::string said = "error: --batch: must be a multiple of the 2 processes, got 21";
  const std::size_t at = wrong.finished.err.find(said);
  ASSERT_NE(at, std::string::npos) << wrong.output();
  EXPECT_EQ(wrong.finished.err.find(said, at + 1), std::string::npos) << wrong.output();
}

TEST_F(LaunchedExamples, PrecisionCompare) {
  const DataFolder folder;
  std::vector<json> results;
  for (const int ranks : {1, 2}) {
    const std::string path = folder / std::to_string(ranks);
    const Job job = run_job(ranks, example_program("precision_compare"),
                            {"--model", "gpt", "--batch", "4", "--steps", "2", "--modes", "fp32,bf16-sr", "--no-observe", "--json", path},
                            {{"BINADE_DATA", folder.path()}}, 120);
    ASSERT_EQ(job.finished.exit_code, 0) << job.output();
    const std::string table = "mode    train loss";
    const std::size_t at = job.finished.out.find(table);
    EXPECT_NE(at, std::string::npos) << job.output();
    EXPECT_EQ(job.finished.out.find(table, at + 1), std::string::npos) << job.output();
    results.push_back(json::parse(read_file(path)));
  }
  for (const std::size_t mode : {0U, 1U}) {  // the first step, before stochastic rounding has drawn anything
    const auto loss = [&](std::size_t run) { return results[run].at("modes")[mode].at("runs")[0].at("train_loss")[0].get<double>(); };
    EXPECT_NEAR(loss(0), loss(1), 1e-3 * loss(0));
  }
}

TEST_F(LaunchedExamples, AKilledJobResumesWithAnotherNumberOfRanks) {
  const DataFolder folder;
  expect_a_killed_job_resumes(folder, 60, {});
}

}  // namespace
