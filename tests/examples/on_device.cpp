// mlp and gpt on the device BINADE_TEST_DEVICE names: the losses of the CPU.
#include <gtest/gtest.h>

#include "binade/core/base/dtype.h"
#include "binade/tests/core/test_device.h"
#include "binade/tests/examples/json_lines.h"
#include "binade/tests/examples/process.h"
#include "binade/tests/examples/small_data.h"

namespace {

using namespace binade;
using namespace binade::test;

std::vector<double> losses(const std::string& program, Arguments arguments, const std::string& device, const std::string& file) {
  arguments.insert(arguments.end(), {"--device", device, "--metrics", file});
  const Finished run = test::run(program, arguments);
  EXPECT_EQ(run.exit_code, 0) << run.err;
  std::vector<double> found;
  for (const nlohmann::json& step : json_lines(file)) {
    found.push_back(step.at("loss"));
    if (step.contains("val_loss")) found.push_back(step.at("val_loss"));
  }
  return found;
}

class OnTheDevice : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(, OnTheDevice, testing::Values("fp32", "bf16", "fp16"),
                         [](const auto& parameter) { return parameter.param; });

// Both devices round the same sums, taken in different orders: where the dtype is narrow, a value now and then becomes its
// neighbour, and the loss, a mean over many, moves by less than such a rounding. FP32's bound is that of sums of 2^8 terms.
TEST_P(OnTheDevice, ExamplesHaveTheLossesOfTheCpu) {
  if (tests_the_cpu()) GTEST_SKIP() << "BINADE_TEST_DEVICE names no device besides the CPU";
  const double tolerance = GetParam() == "fp32" ? 0x1p-16 : GetParam() == "fp16" ? 0x1p-11 : 0x1p-8;
  const DataFolder folder;
  const Arguments mlp{"--data", folder.path(), "--batch", "20", "--steps", "4", "--precision", GetParam()};
  const Arguments gpt{"--data", folder / "kjv.txt", "--context", "16", "--batch", "2", "--evaluate-every", "2",
                      "--steps", "3", "--precision", GetParam()};
  for (const auto& [program, arguments] : {std::pair("mlp", mlp), std::pair("gpt", gpt)}) {
    const std::vector<double> cpu = losses(program, arguments, "cpu", folder / "cpu.jsonl"),
                              device = losses(program, arguments, "cuda", folder / "device.jsonl");
    ASSERT_EQ(cpu.size(), device.size()) << program;
    ASSERT_FALSE(cpu.empty());
    for (std::size_t i = 0; i < cpu.size(); ++i) EXPECT_NEAR(device[i], cpu[i], tolerance * cpu[i]) << program << " " << i;
  }
}

}  // namespace
