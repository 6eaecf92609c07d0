// mlp and gpt: accuracy, metrics, and a run that is killed and resumed.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "binade/core/io/checkpoint.h"
#include "binade/core/tensor/tensor.h"
#include "binade/tests/examples/json_lines.h"
#include "binade/tests/examples/process.h"
#include "binade/tests/examples/small_data.h"

namespace {

using namespace binade;
using namespace binade::test;
using nlohmann::json;

double number_after(const std::string& text, const std::string& words) {
  const std::size_t at = text.find(words);
  return at == std::string::npos ? std::nan("") : std::stod(text.substr(at + words.size()));
}

std::string digits_folder() {  // empty: not there
  const char* given = std::getenv("BINADE_DATA");
  for (const std::string& folder : {std::string(given ? given : ""), std::string(BINADE_SOURCE_DIR) + "/data"}) {
    if (!folder.empty() && std::filesystem::exists(folder + "/digits.csv.gz")) return folder;
  }
  return {};
}

class Precision : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(, Precision, testing::Values("fp32", "bf16", "fp16"),
                         [](const auto& parameter) { return parameter.param; });

TEST_P(Precision, MlpLearnsDigits) {
  const std::string data = digits_folder();
  if (data.empty()) GTEST_SKIP() << "digits.csv.gz is absent: run scripts/get_data.sh";
  const Finished run = test::run("mlp",
                                 {"--dataset", "digits", "--hidden", "128", "--lr", "3e-3", "--steps", "800", "--batch",
                                  "64", "--precision", GetParam()},
                                 {{"BINADE_DATA", data}});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_GE(number_after(run.out, "test accuracy "), 97) << run.out;
}

TEST_P(Precision, MetricsHaveOneObjectPerStep) {
  const DataFolder folder;
  struct Case {
    std::string program, rate;
    Arguments arguments;
  };
  for (const Case& c :
       {Case{"mlp", "images_per_s", {"--data", folder.path(), "--batch", "20"}},
        Case{"gpt",
             "tokens_per_s",
             {"--data", folder / "kjv.txt", "--context", "16", "--batch", "2", "--evaluate-every", "4"}}}) {
    SCOPED_TRACE(c.program);
    Arguments arguments{"--steps", "6", "--precision", GetParam(), "--metrics", folder / "m.jsonl"};
    arguments.insert(arguments.end(), c.arguments.begin(), c.arguments.end());
    const Finished run = test::run(c.program, arguments);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const std::vector<json> lines = json_lines(folder / "m.jsonl");
    ASSERT_EQ(lines.size(), 6U);
    for (std::size_t step = 0; step < lines.size(); ++step) {
      const json& line = lines[step];
      SCOPED_TRACE(line.dump());
      EXPECT_EQ(line.at("step"), step);
      EXPECT_GT(line.at("loss").get<double>(), 0);
      EXPECT_GT(line.at("lr").get<double>(), 0);
      EXPECT_TRUE(line.contains("grad_norm"));
      EXPECT_EQ(line.at("loss_scale").get<double>() > 1, GetParam() == "fp16");
      EXPECT_TRUE(line.at("skipped").is_boolean());
      EXPECT_GT(line.at(c.rate).get<double>(), 0);
      EXPECT_GT(line.at("bytes_peak").get<std::int64_t>(), 0);
      const bool evaluated = step == 5 || (c.program == "gpt" && step == 3);
      EXPECT_EQ(line.contains("val_loss"), evaluated);
    }
  }
}

void expect_same(const io::TensorMap& a, const io::TensorMap& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, x] : a) {
    const Tensor& y = b.at(name);
    ASSERT_EQ(x.shape(), y.shape()) << name;
    ASSERT_EQ(x.dtype(), y.dtype()) << name;
    const auto bytes = static_cast<std::size_t>(x.numel() * size_of(x.dtype()));
    EXPECT_EQ(std::memcmp(TensorView(x).data, TensorView(y).data, bytes), 0) << name;
  }
}

// Starts a run, kills it once it has written a checkpoint, resumes it, and compares with a run that was left alone.
void expect_resumed_run_is_the_same(const std::string& program, Arguments arguments, std::int64_t steps) {
  const Folder folder;
  arguments.insert(arguments.end(), {"--steps", std::to_string(steps), "--every", "7"});
  const auto with = [&](const std::string& name, Arguments more) {
    more.insert(more.end(), {"--checkpoint", folder / (name + ".ckpt"), "--metrics", folder / (name + ".jsonl")});
    more.insert(more.end(), arguments.begin(), arguments.end());
    return more;
  };
  const Finished whole = run(program, with("whole", {}));
  ASSERT_EQ(whole.exit_code, 0) << whole.err;

  {
    Process process(example_program(program), with("killed", {}));
    while (process.running() && !std::filesystem::exists(folder / "killed.ckpt")) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    process.kill();
    const Finished killed = process.wait();
    ASSERT_EQ(killed.signal, SIGKILL) << "ended before it was killed: " << killed.err;
  }
  const std::int64_t saved = io::load_checkpoint(folder / "killed.ckpt").step;
  ASSERT_GT(saved, 0);
  ASSERT_LT(saved, steps);

  const Finished resumed = run(program, with("killed", {"--resume"}));
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  const std::vector<json> expected = json_lines(folder / "whole.jsonl"), got = json_lines(folder / "killed.jsonl");
  ASSERT_EQ(expected.size(), static_cast<std::size_t>(steps));
  ASSERT_EQ(got.size(), expected.size());  // each step once, although some ran twice
  for (std::size_t i = 0; i < got.size(); ++i) {
    for (const char* field : {"step", "loss", "lr", "grad_norm", "loss_scale", "skipped"}) {
      ASSERT_EQ(got[i].at(field), expected[i].at(field)) << field << " of step " << i << ", resumed at " << saved;
    }
  }
  EXPECT_EQ(got.back().at("val_loss"), expected.back().at("val_loss"));

  const io::Checkpoint a = io::load_checkpoint(folder / "whole.ckpt"), b = io::load_checkpoint(folder / "killed.ckpt");
  expect_same(a.model, b.model);
  expect_same(a.optimizer, b.optimizer);
  expect_same(a.scaler, b.scaler);
  EXPECT_EQ(a.random.seed, b.random.seed);
  EXPECT_EQ(a.random.offset, b.random.offset);
  EXPECT_EQ(a.loader.epoch, b.loader.epoch);
  EXPECT_EQ(a.loader.next_batch, b.loader.next_batch);
  EXPECT_EQ(a.step, steps);
  EXPECT_EQ(b.step, steps);
}

TEST_P(Precision, GptResumesBitForBit) {
  const DataFolder folder;
  expect_resumed_run_is_the_same("gpt",
                                 {"--data", folder / "kjv.txt", "--context", "16", "--batch", "2", "--dropout", "0.2",
                                  "--evaluate-every", "1000", "--precision", GetParam()},
                                 150);
}

TEST_P(Precision, MlpResumesBitForBit) {
  const DataFolder folder;  // 12 batches in an epoch: the checkpoints fall in the middle of one
  expect_resumed_run_is_the_same(
      "mlp", {"--data", folder.path(), "--hidden", "512", "--batch", "16", "--precision", GetParam()}, 600);
}

TEST(Mlp, AsManyClassesAsLabels) {  // a set may have more than MNIST's ten
  const DataFolder folder;
  std::string labels = idx_labels(40);
  labels.back() = 46;
  write_file(folder / "t10k-labels-idx1-ubyte", labels);
  const Finished run = test::run("mlp", {"--data", folder.path(), "--hidden", "8", "--batch", "16", "--steps", "3"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find(std::to_string(64 * 8 + 8 + 47 * 8 + 47) + " parameters"), std::string::npos) << run.out;
}

TEST(Gpt, WritesText) {
  const DataFolder folder;
  const Finished run = test::run("gpt", {"--data", folder / "kjv.txt", "--context", "16", "--batch", "4", "--steps",
                                         "3", "--generate", "30", "--prompt", "the "});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("unigram"), std::string::npos);
  EXPECT_NE(run.out.find("---- 30 tokens from the model ----\nthe "), std::string::npos) << run.out;
}

TEST(Gpt, AShortTextIsEnough) {  // shorter than the stretch the counting models are counted over
  const Folder folder;
  write_file(folder / "text", small_text(20));
  const Finished run = test::run("gpt", {"--data", folder / "text", "--context", "16", "--batch", "2", "--steps", "2"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
}

TEST(Help, EveryProgram) {
  for (const char* program : {"mlp", "gpt", "precision_compare"}) {
    const Finished run = test::run(program, {"--help"});
    EXPECT_EQ(run.exit_code, 0) << program;
    EXPECT_NE(run.out.find("--steps"), std::string::npos) << program;
    EXPECT_EQ(run.err, "") << program;
  }
}

}  // namespace
