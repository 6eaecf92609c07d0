#include "binade/ops/precision_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "binade/core/autograd/autocast_state.h"
#include "binade/ops/all_ops.h"

namespace binade {
namespace {

struct Row {
  int group;
  std::string_view operation, precision;
  std::string effect;
};

std::string effect(Precision precision) {
  switch (precision) {
    case Precision::low: return "inputs cast to the autocast dtype";
    case Precision::low_input: return "inputs cast to the autocast dtype, the result is f32";
    case Precision::full: return "inputs cast to f32";
    case Precision::full_output: return "inputs cast to f32, so that the result is f32";
    case Precision::widest: return "nothing: inputs promoted to the widest, as without autocast";
    case Precision::as_is: return "nothing: runs in the dtype it is given";
  }
  return "?";
}

Row row(const Op& op) {
  if (const auto* banned = dynamic_cast<const BannedUnderAutocast*>(&op)) {
    constexpr int last = 100;
    return {last, op.name(), "banned", fmt::format("an error: {}", banned->advice())};
  }
  return {static_cast<int>(op.precision()), op.name(), name(op.precision()), effect(op.precision())};
}

}  // namespace

std::string precision_table() {
  std::vector<Row> rows;
  for (const OpPtr& op : all_ops()) rows.push_back(row(*op));
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
    return std::tie(a.group, a.operation) < std::tie(b.group, b.operation);
  });
  std::size_t width = 0;
  for (const Row& r : rows) width = std::max(width, r.operation.size());
  std::string table = fmt::format("{:<{}}  {:<11}  {}\n", "operation", width, "class", "under autocast");
  for (const Row& r : rows) table += fmt::format("{:<{}}  {:<11}  {}\n", r.operation, width, r.precision, r.effect);
  return table;
}

}  // namespace binade
