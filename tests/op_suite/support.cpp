// main: runs the tests, or with `--support FILE` writes the table of operations, docs/op_support.md.
#include <gtest/gtest.h>

#include <fstream>
#include <iostream>
#include <map>

#include "binade/ops/all_ops.h"
#include "binade/tests/op_suite/check.h"

namespace binade::test {

namespace {

struct Row {
  std::set<DType> passed, failed;
  bool gradient = false;
};

std::map<std::string, Row> measure() {
  std::map<std::string, Row> rows;
  SampleMap samples;
  all_samples(samples);
  for (const Sample& sample : samples) {
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
      const Findings forward = check_forward(sample, dtype, Layout::contiguous);
      for (const std::string& op : forward.seen) {
        const bool ok = !forward.failed.contains(op) && !forward.failed.contains(sample.name);
        (ok ? rows[op].passed : rows[op].failed).insert(dtype);
      }
    }
    const Findings gradients = check_gradients(sample, DType::f64, Layout::contiguous);
    if (gradients.failures.empty())
      for (const std::string& op : gradients.differentiated) rows[op].gradient = true;
  }
  return rows;
}

void write_table(std::ostream& out) {
  std::map<std::string, Row> rows = measure();
  std::map<std::string, Precision> classes;
  for (const OpPtr& op : all_ops()) classes.emplace(op->name(), op->precision());
  out << "# Operations\n\n"
         "Written by `test_op_suite --support docs/op_support.md`. A dtype is listed when every sample of the "
         "operation\n"
         "passed in it: result against a float64 reference of the same rounded inputs. The class says what autocast\n"
         "does: `low` runs in the autocast dtype, `low_input` too but gives f32, `full` runs in f32, `full_output` gives\n"
         "f32, `widest` promotes to the widest input, `as_is` is left alone. A gradient is listed when it agreed with\n"
         "central differences in f64.\n\n"
         "| operation | class | dtypes | gradient |\n| --- | --- | --- | --- |\n";
  for (const auto& [op, precision] : classes) {
    const Row& row = rows[op];
    std::string dtypes;
    for (const DType dtype : row.passed)
      if (!row.failed.contains(dtype)) dtypes.append(dtypes.empty() ? "" : " ").append(to_text(dtype));
    out << "| " << op << " | " << name(precision) << " | " << (dtypes.empty() ? "none" : dtypes) << " | "
        << (row.gradient ? "yes" : "no") << " |\n";
  }
}

}  // namespace

}  // namespace binade::test

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--support") {
    std::ofstream file(argv[2]);
    binade::test::write_table(file);
    file.flush();
    if (!file) std::cerr << "cannot write " << argv[2] << "\n";
    return file ? 0 : 1;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
