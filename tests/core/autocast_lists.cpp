// Every operation's precision class against PyTorch's CUDA autocast lists (tests/golden/autocast_lists.json), and
// precision_table(). tests/golden/autocast_names.json says which PyTorch names are which operation here, and which have
// none; the deviations, each with its reason, are the table "Classes that differ" of docs/mixed_precision.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "binade/ops/all_ops.h"
#include "binade/ops/precision_table.h"

namespace binade::test {

namespace {

using Json = nlohmann::json;
using Names = std::vector<std::string>;
using Classes = std::map<std::string, std::string>;  // operation -> class

const std::string no_list = "no list", no_name = "–";

Json golden(const std::string& file) {
  std::ifstream in(BINADE_SOURCE_DIR "/tests/golden/" + file);
  return Json::parse(in);
}

// operation, class, what autocast does: the columns of precision_table(), without its heading.
std::vector<std::array<std::string, 3>> table_rows() {
  std::vector<std::array<std::string, 3>> rows;
  std::istringstream lines(precision_table());
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::array<std::string, 3> row;
    words >> row[0] >> row[1] >> std::ws;
    std::getline(words, row[2]);
    rows.push_back(row);
  }
  rows.erase(rows.begin());
  return rows;
}

Classes classes() {
  Classes all;
  for (const auto& [operation, precision, effect] : table_rows()) all[operation] = precision;
  return all;
}

struct Deviation {
  Names operations, pytorch;  // pytorch: names there, or no_name for an operation in none of its lists
  std::string theirs, ours, why;
};

Names backticked(const std::string& cell) {
  Names names;
  for (std::size_t at = 0; (at = cell.find('`', at)) != std::string::npos;) {
    const std::size_t end = cell.find('`', at + 1);
    names.push_back(cell.substr(at + 1, end - at - 1));
    at = end + 1;
  }
  return names.empty() ? Names{no_name} : names;
}

std::vector<Deviation> documented_deviations() {
  std::ifstream in(BINADE_SOURCE_DIR "/docs/mixed_precision.md");
  std::string line;
  while (std::getline(in, line) && line != "### Classes that differ") continue;
  std::vector<Deviation> rows;
  bool past_rule = false;
  while (std::getline(in, line) && !line.starts_with("#")) {
    if (line.starts_with("|---")) {
      past_rule = true;
    } else if (past_rule && !line.starts_with("|")) {
      break;
    } else if (past_rule) {
      Names cells;
      std::istringstream rest(line.substr(1));
      for (std::string cell; std::getline(rest, cell, '|');) {
        const std::size_t begin = cell.find_first_not_of(' ');
        cells.push_back(begin == std::string::npos ? "" : cell.substr(begin, cell.find_last_not_of(' ') - begin + 1));
      }
      cells.resize(5);
      rows.push_back({backticked(cells[0]), backticked(cells[1]), cells[2], cells[3], cells[4]});
    }
  }
  return rows;
}

// PyTorch's lists by name, without an overload's suffix ("softmax.int"). The header does not tell the policy of "other".
std::map<std::string, std::set<std::string>> lists_by_name(const Json& lists) {
  std::map<std::string, std::set<std::string>> found;
  for (const char* part : {"documentation", "operators"})
    for (const auto& [list, names] : lists.at(part).items()) {
      if (list == "source" || list == "other") continue;
      for (const std::string name : names) found[name.substr(0, name.find('.'))].insert(list);
    }
  return found;
}

// Which class is which list. sum is full_output: its list gives the result's dtype, as `dtype = f32` would.
bool agree(const std::string& ours, const std::set<std::string>& lists) {
  if (ours == "full_output") return lists.contains("fp32_unless_dtype_given");
  const std::map<std::string, std::set<std::string>> meaning = {
      {"low", {"lower_precision"}}, {"low_input", {"lower_precision"}},
      {"full", {"fp32", "fp32_unless_dtype_given"}}, {"widest", {"widest"}},
      {"banned", {"banned"}},       {"as_is", {no_list}}};
  const auto means = [&](const std::string& list) { return meaning.at(ours).contains(list); };
  return std::all_of(lists.begin(), lists.end(), means);
}

std::string as_documented(const std::set<std::string>& lists) {
  const std::string list = *lists.begin();  // fp32 and fp32_unless_dtype_given are one to a reader
  return list == "fp32_unless_dtype_given" ? "fp32" : list;
}

// What is wrong, one line each. Every pair of an operation and its name in PyTorch is judged by itself.
Names findings(const Classes& ops, const Json& lists, const Json& names, const std::vector<Deviation>& deviations) {
  Names wrong;
  const auto report = [&](auto&&... parts) { wrong.push_back((std::string() + ... + std::string(parts))); };
  const std::map<std::string, std::set<std::string>> listed = lists_by_name(lists);

  std::set<std::pair<std::string, std::string>> pairs;
  std::set<std::string> accounted, named;
  for (const auto& [operation, theirs] : names.at("names").items()) {
    if (!ops.contains(operation)) report("names: no operation ", operation);
    for (const std::string name : theirs) {
      if (!listed.contains(name)) report("names: ", name, " of ", operation, " is in none of PyTorch's lists");
      pairs.emplace(operation, name);
      accounted.insert(name);
      named.insert(operation);
    }
  }
  for (const auto& [operation, precision] : ops) {
    if (listed.contains(operation)) {
      pairs.emplace(operation, operation);
      accounted.insert(operation);
    } else if (!named.contains(operation)) {
      pairs.emplace(operation, no_name);
    }
  }
  for (const std::string name : names.at("absent")) {
    if (!listed.contains(name)) report("absent: ", name, " is in none of PyTorch's lists");
    if (!accounted.insert(name).second) report("absent: ", name, " has an operation here");
  }
  for (const auto& [name, in] : listed)
    if (!accounted.contains(name)) report("PyTorch's ", name, " is neither an operation here, nor mapped, nor absent");

  std::map<std::pair<std::string, std::string>, const Deviation*> documented;
  for (const Deviation& row : deviations) {
    if (row.why.empty()) report("deviation of ", row.operations.front(), ": no reason");
    for (const std::string& operation : row.operations)
      for (const std::string& name : row.pytorch)
        if (!documented.emplace(std::pair(operation, name), &row).second)
          report("deviation of ", operation, ": listed twice");
  }
  for (const auto& [operation, name] : pairs) {
    if (!ops.contains(operation)) continue;
    if (name != no_name && !listed.contains(name)) continue;
    const std::set<std::string> theirs = name == no_name ? std::set{no_list} : listed.at(name);
    const std::string& ours = ops.at(operation);
    const auto row = documented.find({operation, name});
    if (agree(ours, theirs)) continue;
    if (row == documented.end()) {
      report(operation, " is ", ours, ", PyTorch's ", name, " is in ", as_documented(theirs),
             ": no reason is documented");
      continue;
    }
    if (row->second->ours != ours) report("deviation of ", operation, ": it is ", ours, " now");
    if (row->second->theirs != as_documented(theirs))
      report("deviation of ", operation, ": PyTorch's ", name, " is in ", as_documented(theirs));
    documented.erase(row);
  }
  for (const auto& [pair, row] : documented)
    report("deviation of ", pair.first, " from ", pair.second, " is stale");
  return wrong;
}

Names findings() {
  return findings(classes(), golden("autocast_lists.json"), golden("autocast_names.json"), documented_deviations());
}

TEST(AutocastLists, EveryClassIsPyTorchsOrItsDeviationHasAReason) {
  EXPECT_EQ(classes().size(), all_ops().size());
  EXPECT_GE(documented_deviations().size(), 5U);
  for (const std::string& wrong : findings()) ADD_FAILURE() << wrong;
}

// The judge itself: each planted mistake is found, and nothing else.
TEST(AutocastLists, PlantedMistakesAreFound) {
  const Json lists = Json::parse(R"({
    "documentation": {"source": "x", "lower_precision": ["mm"], "fp32": ["sum", "exp", "mse_loss"], "widest": ["dot"]},
    "operators": {"fp32_unless_dtype_given": ["sum.dim_IntList"], "banned": ["bce"], "other": ["cudnn"]}})");
  const Json names = Json::parse(R"({"names": {"matmul": ["mm"], "squared_error": ["mse_loss"]}, "absent": ["dot"]})");
  const Classes ops = {{"matmul", "low"}, {"exp", "full"},   {"sum", "full_output"}, {"squared_error", "full"},
                       {"relu", "as_is"}, {"bce", "banned"}, {"mean", "full_output"}};
  const Deviation mean{{"mean"}, {no_name}, no_list, "full_output", "as sum"};
  EXPECT_EQ(findings(ops, lists, names, {mean}), Names{});

  const auto with_class = [&](const char* operation, const char* precision) {
    Classes changed = ops;
    changed[operation] = precision;
    return findings(changed, lists, names, {mean});
  };
  const auto with_names = [&](const char* text) { return findings(ops, lists, Json::parse(text), {mean}); };
  const auto with_rows = [&](std::vector<Deviation> rows) { return findings(ops, lists, names, rows); };
  const auto expect_one = [](const Names& found, const std::string& text) {
    ASSERT_EQ(found.size(), 1U) << text;
    EXPECT_NE(found[0].find(text), std::string::npos) << found[0];
  };

  for (const auto& [operation, precision] : {std::pair{"matmul", "full"}, {"exp", "low"}, {"exp", "full_output"},
                                             {"sum", "as_is"}, {"relu", "widest"}, {"bce", "full"}, {"exp", "as_is"}})
    expect_one(with_class(operation, precision), "no reason is documented");
  expect_one(with_class("mean", "full"), "it is full now");
  expect_one(with_class("mean", "as_is"), "stale");
  expect_one(with_class("neg", "full"), "no reason is documented");
  expect_one(with_class("dot", "widest"), "has an operation here");

  expect_one(with_names(R"({"names": {"matmul": ["mm"], "squared_error": ["mse_loss"]}, "absent": []})"),
             "dot is neither");
  EXPECT_EQ(with_names(R"({"names": {"matmul": ["mm"]}, "absent": ["dot"]})").size(), 2U);  // also class without list
  expect_one(with_names(R"({"names": {"matmul": ["mm"], "squared_error": ["mse_loss"]}, "absent": ["dot", "gone"]})"),
             "gone is in none");
  expect_one(with_names(R"({"names": {"matmul": ["mm", "gone"], "squared_error": ["mse_loss"]}, "absent": ["dot"]})"),
             "gone of matmul is in none");
  expect_one(with_names(R"({"names": {"matmul": ["mm", "dot"], "squared_error": ["mse_loss"]}, "absent": []})"),
             "no reason is documented");

  expect_one(with_rows({}), "no reason is documented");
  expect_one(with_rows({mean, mean}), "listed twice");
  expect_one(with_rows({mean, {{"exp"}, {"exp"}, "fp32", "full", "why"}}), "stale");
  expect_one(with_rows({mean, {{"gone"}, {no_name}, no_list, "full", "why"}}), "stale");
  expect_one(with_rows({{{"mean"}, {no_name}, no_list, "full_output", ""}}), "no reason");
  expect_one(with_rows({{{"mean"}, {no_name}, "fp32", "full_output", "as sum"}}), "is in no list");
}

TEST(PrecisionTable, OneLinePerOperationWithItsClassAndEffect) {
  const std::map<std::string, std::string> effects = {
      {"low", "inputs cast to the autocast dtype"},
      {"low_input", "inputs cast to the autocast dtype, the result is f32"},
      {"full", "inputs cast to f32"},
      {"full_output", "inputs cast to f32, so that the result is f32"},
      {"widest", "nothing: inputs promoted to the widest, as without autocast"},
      {"as_is", "nothing: runs in the dtype it is given"}};
  std::map<std::string, std::pair<std::string, std::string>> shown;
  Names in_order;
  for (const auto& [operation, precision, effect] : table_rows()) {
    EXPECT_TRUE(shown.emplace(operation, std::pair(precision, effect)).second) << operation << " is there twice";
    in_order.push_back(precision);
  }
  EXPECT_EQ(shown.size(), all_ops().size());
  for (const OpPtr& op : all_ops()) {
    const std::string operation(op->name());
    ASSERT_TRUE(shown.contains(operation)) << operation;
    const auto& [precision, effect] = shown[operation];
    if (operation == "binary_cross_entropy") {
      EXPECT_EQ(precision, "banned");
      EXPECT_TRUE(effect.starts_with("an error: use bce_with_logits")) << effect;
    } else {
      EXPECT_EQ(precision, name(op->precision())) << operation;
      EXPECT_EQ(effect, effects.at(precision)) << operation;
    }
  }
  // Classes are grouped: each name comes in one block.
  EXPECT_EQ(std::unique(in_order.begin(), in_order.end()) - in_order.begin(), 7);
}

TEST(PrecisionTable, ColumnsAreAligned) {
  std::istringstream lines(precision_table());
  std::string heading, line;
  std::getline(lines, heading);
  const std::size_t second = heading.find("class"), third = heading.find("under autocast");
  ASSERT_NE(second, std::string::npos);
  ASSERT_NE(third, std::string::npos);
  int rows = 0;
  for (; std::getline(lines, line); ++rows)
    for (const std::size_t column : {second, third}) {
      ASSERT_GT(line.size(), column) << line;
      EXPECT_EQ(line[column - 1], ' ') << line;
      EXPECT_NE(line[column], ' ') << line;
    }
  EXPECT_GT(rows, 0);
  EXPECT_TRUE(precision_table().ends_with("\n"));
}

}  // namespace

}  // namespace binade::test
