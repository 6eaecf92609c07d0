// precision_compare: the fields of its JSON, a report that needs no network, the same losses for the same seed.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "binade/tests/examples/process.h"
#include "binade/tests/examples/small_data.h"

namespace {

using namespace binade::test;
using nlohmann::json;

class Comparison : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(, Comparison, testing::Values("mlp", "gpt"),
                         [](const auto& parameter) { return parameter.param; });

TEST_P(Comparison, JsonAndReport) {
  const DataFolder folder;
  const std::string unit = GetParam() == "mlp" ? "images" : "tokens";
  const auto compare = [&](const std::string& name) {
    const Finished run = binade::test::run("precision_compare",
                                           {"--model", GetParam(), "--steps", "5", "--seeds", "2", "--batch", "4",
                                            "--json", folder / (name + ".json"), "--html", folder / (name + ".html")},
                                           {{"BINADE_DATA", folder.path()}});
    EXPECT_EQ(run.exit_code, 0) << run.err;
    for (const char* word : {"vs fp32", "fp32", "bf16", "fp16"}) EXPECT_NE(run.out.find(word), std::string::npos);
    return json::parse(read_file(folder / (name + ".json")));
  };
  const json a = compare("a");
  EXPECT_EQ(a.at("model"), GetParam());
  EXPECT_EQ(a.at("size"), "tiny");
  EXPECT_EQ(a.at("unit"), unit);
  EXPECT_EQ(a.at("steps"), 5);
  EXPECT_EQ(a.at("batch"), 4);
  EXPECT_EQ(a.at("seeds"), 2);
  EXPECT_TRUE(a.at("device").is_string());
  EXPECT_GT(a.at("lr").get<double>(), 0);
  ASSERT_EQ(a.at("modes").size(), 3U);
  const char* names[] = {"fp32", "bf16", "fp16"};
  for (std::size_t i = 0; i < 3; ++i) {
    const json& mode = a["modes"][i];
    SCOPED_TRACE(names[i]);
    EXPECT_EQ(mode.at("mode"), names[i]);
    EXPECT_GT(mode.at("final_train_loss").get<double>(), 0);
    EXPECT_GT(mode.at("final_val_loss").get<double>(), 0);
    EXPECT_NEAR(mode.at("val_loss_vs_fp32").get<double>(), 0, i == 0 ? 0 : 0.05);
    EXPECT_EQ(mode.at("val_loss_by_seed").size(), 2U);
    EXPECT_GT(mode.at(unit + "_per_s").get<double>(), 0);
    EXPECT_GT(mode.at("peak_bytes").get<std::int64_t>(), 0);
    EXPECT_FALSE(mode.at("peak_bytes_by_tag").empty());
    EXPECT_GE(mode.at("skipped_steps").get<std::int64_t>(), 0);
    EXPECT_EQ(mode.at("loss_scale_final").is_null(), i != 2);
    ASSERT_EQ(mode.at("runs").size(), 2U);
    for (std::size_t seed = 0; seed < 2; ++seed) {
      const json& run = mode["runs"][seed];
      EXPECT_EQ(run.at("seed"), 42 + seed);
      EXPECT_EQ(run.at("train_loss").size(), 5U);
      EXPECT_EQ(run.at("val_loss").back().at("step"), 5);
      // The same weights and the same first batch, only rounded differently.
      const double first = run["train_loss"][0].get<double>();
      EXPECT_NEAR(first, a["modes"][0]["runs"][seed]["train_loss"][0].get<double>(), 0.02 * first);
    }
    EXPECT_NE(mode["runs"][0]["train_loss"], mode["runs"][1]["train_loss"]);
  }

  const json b = compare("b");
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(a["modes"][i]["runs"], b["modes"][i]["runs"]) << names[i];

  const std::string page = read_file(folder / "a.html");
  EXPECT_EQ(page.find("<!doctype html>"), 0U);
  EXPECT_NE(page.find("\"val_loss_vs_fp32\""), std::string::npos);
  EXPECT_EQ(page.find("/*DATA*/"), std::string::npos);
  EXPECT_EQ(page.find("/*CHART_LIBRARY*/"), std::string::npos);
  for (const char* fetches : {"<link", "<script src", "<img", "<iframe", "@import", "url(", "src=\"", "href=\"",
                              "src='", "href='", "XMLHttpRequest", "fetch("}) {
    EXPECT_EQ(page.find(fetches), std::string::npos) << fetches;
  }
}

}  // namespace
