// BINADE_CUBLASLT_TUNE: which algorithm a product takes, what is written, and what later processes make of it. The
// stand-in for the library offers several algorithms whose times its documentation says (tests/device_sim/cublaslt.h).
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "binade/core/backend/graphed_step.h"
#include "binade/core/backend/kernel_times.h"
#include "binade/core/backend/kernels.h"
#include "binade/core/backend/memory.h"
#include "binade/tests/cuda/child.h"
#include "binade/tests/cuda/simulated.h"
#include "binade/tests/cuda/traced.h"
#include "binade/tests/device_sim/durations.h"

namespace binade::test {

namespace {

using nlohmann::json;

constexpr const char* variable = "BINADE_CUBLASLT_TUNE";
constexpr double tolerance = 1e-9;
// Short sums are fastest in one piece, the last offer; long ones cut in two, the second. What is faster still rounds.
constexpr const char* last_offer = "algorithm 3 of 3 is the fastest: 4.0";
constexpr const char* second_offer = "algorithm 2 of 3 is the fastest: 2.0";
constexpr double last_seconds = simt::product_seconds / 2, second_seconds = simt::product_seconds / 4;

Tensor integers(const Shape& shape, DType dtype, Device device) { return randint(-3, 4, shape).to(dtype).to(device); }

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}
json json_of(const std::filesystem::path& path) { return json::parse(text_of(path)); }
void write(const std::filesystem::path& path, const std::string& text) { std::ofstream(path) << text; }

std::string checksum(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

class GemmTuning : public SimulatedDevice {
 protected:
  void SetUp() override {
    SimulatedDevice::SetUp();
    manual_seed(1);
    // A path is one file for the whole of a process: each test has its own.
    folder = std::filesystem::path(testing::TempDir()) /
             ("binade_tuning_" + std::to_string(getpid()) + testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    path = folder / "algorithms.json";
  }
  void TearDown() override { std::filesystem::remove_all(folder); }
  // Lines about a product of exact integers, and that it was right.
  std::string product(std::int64_t m, std::int64_t n, std::int64_t k, DType dtype = DType::bf16) {
    const Tensor a = integers({m, k}, dtype, gpu), b = integers({k, n}, dtype, gpu);
    const Tensor c = full({m, n}, 77, {.device = gpu});
    const std::string lines = traced([&] { kernel::matmul(a, b, {}, c, {}); });
    expect_same_bits(cpu(c), matmul(cpu(a).to(DType::f32), cpu(b).to(DType::f32)), "the product");
    return lines;
  }
  double seconds(std::int64_t m, std::int64_t n, std::int64_t k) {
    const Tensor a = zeros({m, k}, {.dtype = DType::bf16, .device = gpu}), b = zeros({k, n}, {.dtype = DType::bf16, .device = gpu});
    const Tensor c = zeros({m, n}, {.device = gpu});
    KernelTimes times;
    kernel::matmul(a, b, {}, c, {});
    return times.take().kernels.at("matmul").seconds;
  }
  std::filesystem::path folder, path;
};

TEST_F(GemmTuning, TheFastestIsTakenAndNoted) {
  const Variable tune(variable, path.string());
  EXPECT_TRUE(contains(product(8, 16, 24), last_offer));
  EXPECT_TRUE(contains(product(8, 16, 512), second_offer));
  const std::uint64_t before = simulator->counters().launches;
  EXPECT_FALSE(contains(product(8, 16, 24), "algorithm")) << "known by now";
  EXPECT_EQ(simulator->counters().launches - before, 2U) << "a fill and the product";
  EXPECT_NEAR(seconds(8, 16, 24), last_seconds, tolerance);
  EXPECT_NEAR(seconds(8, 16, 512), second_seconds, tolerance);
  const json all = json_of(path);
  EXPECT_EQ(all.at("choices").size(), 2U);
  EXPECT_TRUE(contains(all.at("gpu"), "Simulated device")) << all;
  for (const auto& [name, choice] : all.at("choices").items()) {
    EXPECT_TRUE(contains(name, "m 8 n 16 k ")) << name;
    EXPECT_NEAR(choice.at("first_seconds").get<double>(), simt::product_seconds, tolerance);
    EXPECT_NEAR(choice.at("seconds").get<double>(), contains(name, "k 24") ? last_seconds : second_seconds, tolerance);
  }
}

TEST_F(GemmTuning, WithoutTheVariableTheFirstOfferIsTaken) {
  const std::uint64_t before = simulator->counters().host_syncs;
  const Tensor x = ones({8, 40}, {.device = gpu});
  EXPECT_EQ(traced([&] { matmul(x, x.t()); }), "");
  EXPECT_EQ(simulator->counters().host_syncs, before);
  EXPECT_NEAR(seconds(8, 16, 264), simt::product_seconds, tolerance);
}

// What is timed writes elsewhere: results that are added to, and what epilogues write.
TEST_F(GemmTuning, NothingChangesWhileItIsTimed) {
  const Variable tune(variable, path.string());
  const Tensor a = integers({9, 24}, DType::bf16, gpu).t(), b = integers({9, 16}, DType::bf16, gpu);
  const Tensor c = full({24, 16}, 5, {.device = gpu}), sums = full({24}, 77, {.device = gpu});
  const Tensor once = matmul(cpu(a).to(DType::f32), cpu(b).to(DType::f32));
  kernel::MatmulEpilogue epilogue{.row_sums = sums, .gelu = {}};
  const std::string lines = traced([&] { kernel::matmul(a, b, {}, c, {.accumulate = true, .epilogue = &epilogue}); });
  EXPECT_TRUE(contains(lines, last_offer)) << lines;
  EXPECT_TRUE(contains(lines, "row sums: cuBLASLt's epilogue")) << lines;
  expect_same_bits(cpu(c), once + 5.0, "added once");
  expect_same_bits(cpu(sums), sum(cpu(a).to(DType::f32), {1}), "row sums");
  const Tensor x = integers({7, 24}, DType::bf16, gpu), weight = integers({16, 24}, DType::bf16, gpu);
  const Tensor tuned = linear(x, weight, {}, Activation::gelu_tanh), again = linear(x, weight, {}, Activation::gelu_tanh);
  expect_same_bits(cpu(tuned), cpu(again), "gelu");
  const Tensor padded = full({24, 48}, 3, {.device = gpu}), inside = padded.narrow(1, 16, 16);
  kernel::matmul(a, b, {}, inside, {});
  expect_same_bits(cpu(inside.contiguous()), once, "inside a larger tensor");
  EXPECT_EQ(padded.at(15), 3);
  EXPECT_EQ(padded.at(32), 3);
  const Tensor many = integers({3, 9, 24}, DType::f32, gpu), right = integers({3, 24, 16}, DType::f32, gpu);
  expect_same_bits(cpu(matmul(many, right)), matmul(cpu(many), cpu(right)), "a batch");
  const Tensor wide = integers({9, 24}, DType::f64, gpu);
  expect_same_bits(cpu(matmul(wide, wide.t())), matmul(cpu(wide), cpu(wide).t()), "f64");
}

TEST_F(GemmTuning, AnAlgorithmThatFailsIsNotTaken) {
  const Variable tune(variable, path.string());
  simulator->fail_call("cublasLtMatmul", 1 + 3 + 3, 701);  // the third offer's first run
  EXPECT_TRUE(contains(product(8, 24, 24), "algorithm 2 of 3 is the fastest: 6.0"));
}

TEST_F(GemmTuning, WithoutMemoryForASecondResultNothingIsTimed) {
  const Variable tune(variable, path.string());
  const Tensor a = integers({8, 24}, DType::bf16, gpu), b = integers({24, 32}, DType::bf16, gpu);
  const Tensor c = zeros({8, 32}, {.device = gpu});
  release_cached_memory(gpu);
  for (const int n : {1, 2}) simulator->fail_call("cudaMallocAsync", n, 2);  // cudaErrorMemoryAllocation
  const std::string lines = traced([&] { kernel::matmul(a, b, {}, c, {}); });
  simulator->forget_failures();
  EXPECT_TRUE(contains(lines, "not timed: memory: out of memory")) << lines;
  expect_same_bits(cpu(c), matmul(cpu(a).to(DType::f32), cpu(b).to(DType::f32)), "the product");
  EXPECT_FALSE(std::filesystem::exists(path));
}

// While a stream is captured nothing can be timed: a product first met there is timed when it is met outside.
TEST_F(GemmTuning, NothingIsTimedInACapture) {
  const Variable tune(variable, path.string());
  const Tensor x = integers({8, 24}, DType::bf16, gpu), y = integers({40, 24}, DType::bf16, gpu);
  int calls = 0;
  cuda::GraphedStep step([&](const Tensors& in) { return Tensors{matmul(in[0], calls++ == 0 ? x.t() : y.t())}; },
                         {.device = gpu, .warm_up = 1});
  EXPECT_TRUE(contains(traced([&] { step({x}); }), last_offer));
  Tensors captured;
  EXPECT_FALSE(contains(traced([&] { captured = step({x}); }), "fastest"));
  ASSERT_TRUE(step.captured());
  expect_same_bits(cpu(captured[0]), cpu(matmul(x, y.t())), "captured and eager");
  EXPECT_EQ(json_of(path).at("choices").size(), 2U) << "the eager one was timed";
}

// ---- several processes

// Two products, and how long they take on the device.
TEST(GemmTuningChild, Multiplies) {
  if (!std::getenv(child_variable) || !cuda_available()) GTEST_SKIP() << "run by GemmTuning";
  const Device gpu{DeviceType::cuda, 0};
  manual_seed(1);
  for (const std::int64_t k : {24, 512}) {
    const Tensor a = integers({8, k}, DType::bf16, gpu), b = integers({k, 16}, DType::bf16, gpu);
    const Tensor c = zeros({8, 16}, {.device = gpu});
    kernel::matmul(a, b, {}, c, {});
    expect_same_bits(cpu(c), matmul(cpu(a).to(DType::f32), cpu(b).to(DType::f32)), "the product");
    KernelTimes times;
    kernel::matmul(a, b, {}, c, {});
    std::fprintf(stderr, "k %d takes %.3f us\n", static_cast<int>(k), 1e6 * times.take().kernels.at("matmul").seconds);
  }
}

Child multiply(const std::filesystem::path& path) {
  return run_child("BINADE_TRACE=dispatch " + std::string(variable) + "='" + path.string() + "'", "GemmTuningChild.*");
}
bool takes(const Child& child, double short_sum, double long_sum) {
  char lines[2][40];
  std::snprintf(lines[0], sizeof lines[0], "k 24 takes %.3f us", 1e6 * short_sum);
  std::snprintf(lines[1], sizeof lines[1], "k 512 takes %.3f us", 1e6 * long_sum);
  return contains(child.output, lines[0]) && contains(child.output, lines[1]);
}

TEST_F(GemmTuning, ASecondProcessTakesWhatTheFirstFound) {
  const Child first = multiply(path);
  EXPECT_EQ(first.exit_code, 0) << first.output;
  EXPECT_TRUE(contains(first.output, last_offer) && contains(first.output, second_offer)) << first.output;
  EXPECT_TRUE(takes(first, last_seconds, second_seconds)) << first.output;
  const std::string written = text_of(path);
  const Child second = multiply(path);
  EXPECT_EQ(second.exit_code, 0) << second.output;
  EXPECT_FALSE(contains(second.output, "fastest")) << second.output;
  EXPECT_TRUE(contains(second.output, "algorithm of " + path.string())) << second.output;
  EXPECT_TRUE(takes(second, last_seconds, second_seconds)) << second.output;
  EXPECT_EQ(text_of(path), written);
}

TEST_F(GemmTuning, WhatOtherProcessesWroteMeanwhileStays) {
  const Variable tune(variable, path.string());
  product(16, 16, 24);
  EXPECT_EQ(multiply(path).exit_code, 0);
  EXPECT_EQ(json_of(path).at("choices").size(), 3U);
  product(16, 24, 24);
  EXPECT_EQ(json_of(path).at("choices").size(), 4U);
  for (const auto& entry : std::filesystem::directory_iterator(folder)) EXPECT_EQ(entry.path(), path) << "nothing is left behind";
}

TEST_F(GemmTuning, AFileThatDoesNotFitIsLeftAlone) {
  ASSERT_EQ(multiply(path).exit_code, 0);
  const json right = json_of(path);
  const auto changed = [&](const std::function<void(json&)>& change) {
    json all = right;
    change(all);
    return all.dump(1);
  };
  std::string digit = text_of(path);
  const std::size_t at = digit.find("\"algorithm\"");
  digit[digit.find_first_of("123456789", at)] = '0';
  const std::vector<std::pair<std::string, std::string>> cases = {
      {changed([](json& all) { all["gpu"] = "another GPU"; }), "is for another GPU and cuBLASLt 130000, this is Simulated device 0"},
      {changed([](json& all) { all["cublaslt"] = 120803; }), "and cuBLASLt 120803, this is "},
      {changed([](json& all) { all["format"] = 2; }), "it is of another kind or format"},
      {digit, "its checksum does not fit"},
      {text_of(path).substr(0, 300), "cannot be read ("},
      {"", "cannot be read ("},
      {changed([](json& all) {  // the fastest, which rounds its partial sums
         for (json& choice : all["choices"]) choice["algorithm"][3] = "0000000000000002";
         all["checksum"] = checksum(all["choices"].dump());
       }),
       "has an algorithm that cuBLASLt does not run, or that rounds partial sums, for m 8 n 16 k 24"},
      {changed([](json& all) {
         for (json& choice : all["choices"]) choice["algorithm"][1] = "0123456789abcdef";
         all["checksum"] = checksum(all["choices"].dump());
       }),
       "has an algorithm that cuBLASLt does not run"},
  };
  for (const auto& [text, reason] : cases) {
    write(path, text);
    const Child child = multiply(path);
    EXPECT_EQ(child.exit_code, 0) << child.output;
    const std::string warning = "binade: warning: BINADE_CUBLASLT_TUNE: " + path.string() + " ";
    const std::size_t line = child.output.find(warning);
    ASSERT_NE(line, std::string::npos) << reason << ": " << child.output;
    EXPECT_TRUE(contains(child.output.substr(line, child.output.find('\n', line) - line), reason)) << child.output;
    EXPECT_EQ(child.output.find(warning, line + 1), std::string::npos) << "said once";
    EXPECT_FALSE(contains(child.output, "fastest")) << reason;
    EXPECT_TRUE(takes(child, simt::product_seconds, simt::product_seconds)) << reason << ": " << child.output;
    EXPECT_EQ(text_of(path), text) << reason;
  }
}

TEST_F(GemmTuning, AFileDamagedMeanwhileIsLeftAlone) {
  const Variable tune(variable, path.string());
  EXPECT_TRUE(contains(product(24, 16, 24), last_offer));
  write(path, "damaged");
  EXPECT_TRUE(contains(product(24, 24, 24), "binade: warning: BINADE_CUBLASLT_TUNE: " + path.string() + " cannot be read ("));
  EXPECT_EQ(text_of(path), "damaged");
  EXPECT_EQ(product(24, 32, 24), "") << "nothing is measured any more, nor said again";
  EXPECT_NEAR(seconds(24, 24, 24), last_seconds, tolerance) << "what was measured is kept";
}

TEST_F(GemmTuning, AFileThatCannotBeWrittenIsSaid) {
  const Child child = multiply(folder / "absent" / "algorithms.json");
  EXPECT_EQ(child.exit_code, 0) << child.output;
  EXPECT_TRUE(contains(child.output, "cannot be written (save: cannot create ")) << child.output;
  EXPECT_TRUE(takes(child, last_seconds, simt::product_seconds)) << "the first choice is kept: " << child.output;
}

}  // namespace

}  // namespace binade::test
