// The example programs as MPI jobs: the same results for any number of ranks, one voice, and a killed job resumed.
#include <csignal>
#include <filesystem>

#include "binade/core/io/checkpoint.h"
#include "binade/tests/distributed/job.h"
#include "binade/tests/examples/json_lines.h"
#include "binade/tests/examples/small_data.h"

namespace {

using namespace binade;
using namespace binade::test;
using nlohmann::json;

class LaunchedExamples : public LaunchedTest {
 protected:
  void SetUp() override {
    LaunchedTest::SetUp();
    if (!std::filesystem::exists(example_program("gpt"))) GTEST_SKIP() << "the examples are not built";
  }
};

Arguments operator+(Arguments a, const Arguments& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Arguments gpt_flags(const DataFolder& folder, const std::string& name, int steps, const std::string& precision) {
  return {"--data",   folder / "kjv.txt",       "--size",    "tiny", "--context",    "16",
          "--batch",  "16",                     "--seed",    "3",    "--dropout",    "0.1",
          "--steps",  std::to_string(steps),    "--metrics", folder / (name + ".jsonl"),
          "--checkpoint", folder / (name + ".ckpt"), "--precision", precision, "--evaluate-every", "1000"};
}

void expect_same_lines(const std::vector<json>& a, const std::vector<json>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    for (const char* field : {"step", "loss", "lr", "grad_norm", "loss_scale", "skipped"})
      ASSERT_EQ(a[i].at(field), b[i].at(field)) << field << " of step " << i;
}

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

std::vector<pid_t> ranks_of(const std::string& mark) {  // the processes called gpt with `mark` among their arguments
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string pid = entry.path().filename().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string command = read_file(entry.path().string() + "/cmdline");
    if (read_file(entry.path().string() + "/comm") == "gpt\n" && command.find(mark) != std::string::npos) found.push_back(std::stoi(pid));
  }
  return found;
}

TEST_F(LaunchedExamples, AKilledJobResumesWithAnotherNumberOfRanks) {
  const DataFolder folder;
  constexpr int steps = 60;
  const auto flags = [&](const std::string& name) {
    return gpt_flags(folder, name, steps, "fp16") + Arguments{"--deterministic-reduction", "--every", "5"};
  };
  const Job whole = run_job(1, example_program("gpt"), flags("whole"));
  ASSERT_EQ(whole.finished.exit_code, 0) << whole.output();
  {
    Process job(mpiexec, Arguments{"-n", "2", example_program("gpt")} + flags("killed"));
    while (job.running() && !std::filesystem::exists(folder / "killed.ckpt")) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const std::vector<pid_t> ranks = ranks_of(folder / "killed.ckpt");
    ASSERT_EQ(ranks.size(), 2U);
    ::kill(ranks.back(), SIGKILL);
    const auto start = std::chrono::steady_clock::now();
    while (job.running() && std::chrono::steady_clock::now() - start < std::chrono::seconds(30)) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    ASSERT_FALSE(job.running()) << "the job goes on without a rank";
    const Finished killed = job.wait();
    EXPECT_NE(killed.exit_code, 0) << killed.out;
  }
  const std::int64_t saved = io::load_checkpoint(folder / "killed.ckpt").step;  // it is whole
  ASSERT_GT(saved, 0);
  ASSERT_LT(saved, steps);
  const Job resumed = run_job(4, example_program("gpt"), flags("killed") + Arguments{"--resume"});
  ASSERT_EQ(resumed.finished.exit_code, 0) << resumed.output();
  expect_same_lines(json_lines(folder / "killed.jsonl"), json_lines(folder / "whole.jsonl"));
  EXPECT_TRUE(read_file(folder / "killed.ckpt") == read_file(folder / "whole.ckpt"));
}

}  // namespace
