// The examples with --zero1: the results of the run without it, a part of the memory, checkpoints for any number of ranks.
#include "binade/core/io/checkpoint.h"
#include "binade/tests/distributed/launched_examples.h"

namespace {

using namespace binade;
using namespace binade::test;

using LaunchedZero1 = LaunchedExamples;

struct Memory {
  double own = 0, all = 0;  // KiB
};
Memory optimizer_memory(const std::string& output) {
  const auto kib = [&](const std::string& text) {
    std::size_t end = 0;
    const double number = std::stod(text, &end);
    return text.substr(end, 4) == " MiB" ? 1024 * number : number;
  };
  const std::string words = " of optimizer state in each process, ";
  const std::size_t at = output.find(words);
  if (at == std::string::npos) return {};
  const std::size_t begin = output.rfind(": ", at) + 2;
  return {kib(output.substr(begin)), kib(output.substr(at + words.size()))};
}

std::vector<std::string> files_of_optimizer(const DataFolder& folder, const std::string& name) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    if (const std::string file = entry.path().filename().string(); file.starts_with(name + ".ckpt.optimizer.")) found.push_back(file);
  std::ranges::sort(found);
  return found;
}

TEST_F(LaunchedZero1, GptHasTheResultsOfTheRunWithoutIt) {
  const DataFolder folder;
  for (const char* precision : {"fp32", "fp16"}) {
    const std::string plain = std::string("plain-") + precision;
    const Job whole = run_job(1, example_program("gpt"), gpt_flags(folder, plain, 6, precision) + Arguments{"--deterministic-reduction"});
    ASSERT_EQ(whole.finished.exit_code, 0) << whole.output();
    const auto model = io::load_checkpoint(folder / (plain + ".ckpt")).model;
    for (const int ranks : {1, 2, 4}) {
      const std::string name = precision + std::to_string(ranks);
      const Job job = run_job(ranks, example_program("gpt"),
                              gpt_flags(folder, name, 6, precision) + Arguments{"--deterministic-reduction", "--zero1"});
      ASSERT_EQ(job.finished.exit_code, 0) << job.output();
      // Clipping's norm is summed in FP64 in another order, then rounded to FP32: the same bits but for one in 2^28 sums.
      expect_same_lines(json_lines(folder / (name + ".jsonl")), json_lines(folder / (plain + ".jsonl")));
      for (const auto& [parameter, x] : io::load_checkpoint(folder / (name + ".ckpt")).model)
        EXPECT_EQ(x.to_vector<float>(), model.at(parameter).to_vector<float>()) << parameter << " of " << name;
      const Memory memory = optimizer_memory(job.finished.out);
      // Two moments in FP32. A size class of the allocator is up to an eighth more than was asked for; MiB are told to 0.1.
      const std::size_t count = job.finished.out.find(" parameters, ");
      const double least = 8.0 / 1024 * std::stod(job.finished.out.substr(job.finished.out.rfind(' ', count - 1)));
      EXPECT_GT(memory.all, least - 52) << job.output();
      EXPECT_LT(memory.all, 1.15 * least) << job.output();
      EXPECT_NEAR(memory.own, memory.all / ranks, 0.1 * memory.all / ranks) << job.output();
    }
  }
}

TEST_F(LaunchedZero1, MlpHasTheResultsOfTheRunWithoutIt) {
  const DataFolder folder;
  const auto train = [&](const std::string& name, int ranks, const Arguments& more) {
    const Job job = run_job(ranks, example_program("mlp"),
                            Arguments{"--data", folder.path(), "--batch", "16", "--steps", "8", "--deterministic-reduction",
                                      "--metrics", folder / name} + more);
    EXPECT_EQ(job.finished.exit_code, 0) << job.output();
    return json_lines(folder / name);
  };
  const auto plain = train("plain", 1, {}), sharded = train("sharded", 2, {"--zero1"});
  ASSERT_EQ(plain.size(), 8U);
  expect_same_lines(sharded, plain);
}

TEST_F(LaunchedZero1, AKilledJobResumesWithAnotherNumberOfRanks) {
  const DataFolder folder;
  constexpr int steps = 60;
  ASSERT_NO_FATAL_FAILURE(expect_a_killed_job_resumes(folder, steps, {"--zero1"}));
  EXPECT_EQ(files_of_optimizer(folder, "whole"), (std::vector<std::string>{"whole.ckpt.optimizer.60.0-of-1"}));
  EXPECT_EQ(files_of_optimizer(folder, "killed").size(), 4U) << "those of earlier steps are gone";
  // The optimizer's state is not in the checkpoint, nor a whole one beside it.
  const Job without = run_job(1, example_program("gpt"), gpt_flags(folder, "killed", 2 * steps, "fp16") + Arguments{"--resume"});
  EXPECT_NE(without.finished.exit_code, 0);
  EXPECT_NE(without.finished.err.find("error: --resume: "), std::string::npos) << without.output();
}

}  // namespace
