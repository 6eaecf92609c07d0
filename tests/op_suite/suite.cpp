// The operation suite: every sample in every dtype and layout, its gradients, its dtypes under autocast.
#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <map>
#include <tuple>

#include "binade/ops/all_ops.h"
#include "binade/tests/op_suite/check.h"

namespace binade::test {

namespace {

const SampleMap& samples() {
  static const SampleMap all = [] {
    SampleMap gathered;
    all_samples(gathered);
    return gathered;
  }();
  return all;
}

std::vector<std::size_t> sample_indices() {
  std::vector<std::size_t> indices(samples().size());
  for (std::size_t i = 0; i < indices.size(); ++i) indices[i] = i;
  return indices;
}

// GoogleTest allows letters, digits and _ only; a name met before gets its number.
const std::string& test_name(std::size_t index) {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> made;
    std::map<std::string, int> uses;
    for (const Sample& sample : samples()) {
      std::string name = sample.name;
      for (char& c : name)
        if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
      if (const int n = uses[name]++; n > 0) name.append("_").append(std::to_string(n + 1));
      made.push_back(name);
    }
    return made;
  }();
  return names[index];
}

void expect_none(const Findings& findings) {
  for (const std::string& failure : findings.failures) ADD_FAILURE() << failure;
}

using Case = std::tuple<std::size_t, DType, Layout>;

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  const auto [index, dtype, layout] = info.param;
  return test_name(index) + "_" + to_text(dtype) + (layout == Layout::strided ? "_strided" : "");
}

class OpSuite : public ::testing::TestWithParam<Case> {};

TEST_P(OpSuite, Forward) {
  const auto [index, dtype, layout] = GetParam();
  expect_none(check_forward(samples()[index], dtype, layout));
}

TEST_P(OpSuite, Gradients) {
  const auto [index, dtype, layout] = GetParam();
  expect_none(check_gradients(samples()[index], dtype, layout));
}

INSTANTIATE_TEST_SUITE_P(Samples, OpSuite,
                         ::testing::Combine(::testing::ValuesIn(sample_indices()),
                                            ::testing::Values(DType::f64, DType::f32, DType::bf16, DType::f16),
                                            ::testing::Values(Layout::contiguous, Layout::strided)),
                         case_name);

class SampleSuite : public ::testing::TestWithParam<std::size_t> {};

TEST_P(SampleSuite, AutocastDtypes) {
  expect_none(check_autocast(samples()[GetParam()], DType::bf16));
  expect_none(check_autocast(samples()[GetParam()], DType::f16));
}

TEST_P(SampleSuite, SameBitsForAnyNumberOfThreads) { expect_none(check_threads(samples()[GetParam()])); }

std::string sample_name(const ::testing::TestParamInfo<std::size_t>& info) { return test_name(info.param); }

INSTANTIATE_TEST_SUITE_P(Samples, SampleSuite, ::testing::ValuesIn(sample_indices()), sample_name);

TEST(Suite, EveryOperationHasASample) {
  std::set<std::string> seen;
  for (const Sample& sample : samples())
    for (const std::string& op : check_forward(sample, DType::f32, Layout::contiguous).seen) seen.insert(op);
  EXPECT_FALSE(all_ops().empty());
  for (const OpPtr& op : all_ops())
    EXPECT_TRUE(seen.contains(std::string(op->name()))) << op->name() << ": no sample runs this operation";
}

TEST(Suite, SamplesHaveReasonsForTheirBudgets) {
  for (const Sample& sample : samples())
    EXPECT_TRUE(sample.budget == 4 || !sample.reason.empty()) << sample.name << ": budget without a reason";
}

// The judge itself must be able to fail.
TEST(Suite, ComparisonSeesErrors) {
  const Tensor right = from_vector<double>({1, 2, 3, 4}, {4});
  EXPECT_EQ(compare(right, right, 0), "");
  EXPECT_NE(compare(from_vector<double>({1, 2, 3, 4.001}, {4}), right, 1e-4), "");
  EXPECT_NE(compare(from_vector<double>({1, 2, 3, NAN}, {4}), right, 1e3), "");
  EXPECT_NE(compare(from_vector<double>({1, 2, 3, INFINITY}, {4}), right, 1e3), "");
  EXPECT_NE(compare(right, from_vector<double>({1, 2, 3, NAN}, {4}), 1e3), "");
  EXPECT_NE(compare(from_vector<double>({1, 0, 0, 0}, {4}), from_vector<double>({1, 1e-3, 1e-3, 1e-3}, {4}), 1e-4), "");
}

}  // namespace

}  // namespace binade::test
