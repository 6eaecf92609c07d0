// Runs a sample and judges what passed the door. Findings are collected, not asserted, so that the tests and the
// support table share them.
#pragma once
#include <set>
#include <string>

#include "binade/tests/op_suite/inputs.h"

namespace binade::test {

struct Findings {
  std::vector<std::string> failures;  // "operation: what is wrong"
  std::set<std::string> failed;       // operations named by a failure
  std::set<std::string> seen;         // operations that passed the door
  std::set<std::string> differentiated;
  void add(const std::string& op, const std::string& text) {
    failures.push_back(op + ": " + text);
    failed.insert(op);
  }
};

// Every operation's result against its own reference on the same inputs.
Findings check_forward(const Sample& sample, DType dtype, Layout layout);
// f64, contiguous: against central differences. Others: against the f64 gradient of the same rounded inputs.
Findings check_gradients(const Sample& sample, DType dtype, Layout layout);
// f32 inputs under Autocast(dtype): the dtype of each result follows from the precision class.
Findings check_autocast(const Sample& sample, DType dtype);
// f32: the same bits, results and gradients, for one and for two threads.
Findings check_threads(const Sample& sample);

// The function of a sample, from the same random state each time.
Tensor call(const Sample& sample, Inputs inputs);
// What is wrong with `got`, or "". `allowed` is the absolute error an element may have.
std::string compare(const Tensor& got, const Tensor& expected, double allowed);
double largest_magnitude(const Tensor& x);  // of the finite elements; at least 1

}  // namespace binade::test
