// What the program compares: an MLP on Fashion-MNIST, a GPT on the King James text, and the built-in cases.
#pragma once
#include <binade/binade.h>

#include <string>
#include <vector>

#include "binade/ops/compare/comparison.h"

namespace example {

using binade::compare::TaskFactory;

struct MlpShape {
  std::vector<std::int64_t> hidden = {};
  bool sigmoid = false;                 // else ReLU
  std::int64_t validation_images = 0;  // the first so many test images; 0: all
  bool standardised = false;            // pixels with mean 0 and deviation 1 instead of [0, 1]
};
// `group`: the processes that share each batch; null: this one alone.
using Group = std::shared_ptr<binade::dist::ProcessGroup>;
TaskFactory mlp_task(const MlpShape& shape, std::int64_t batch, binade::Device device, const Group& group = {});
TaskFactory gpt_task(const std::string& size, std::int64_t batch, binade::Device device, const Group& group = {});

// A setting in which a precision is known to fail, or to hold.
struct Case {
  std::string name, about;
  MlpShape shape;
  std::int64_t batch, steps, seeds;
  double lr, weight_decay;  // Adam with constant lr; the decay is added to the gradient
  std::string modes;
};
const std::vector<Case>& cases();
const Case& find_case(const std::string& name);  // throws UsageError listing them
// The case as options: steps, seeds, modes, optimizer, learning rate, no clipping.
binade::compare::Options case_options(const Case& c);

}  // namespace example
