// Samples of pooling. Max pooling gets inputs without ties: its gradient jumps there.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_pool(SampleMap& out) {
  const auto add = [&](const char* name, Shape x, Pool2dOptions options, double reduction) {
    out.push_back({std::string("max_pool2d ") + name, [options](Inputs in) { return max_pool2d(in[0], options); },
                   {distinct(x)}, reduction});
    out.push_back({std::string("avg_pool2d ") + name, [options](Inputs in) { return avg_pool2d(in[0], options); },
                   {normal(x)}, reduction});
  };
  add("2x2", {2, 3, 4, 6}, {}, 4);
  add("odd sizes", {1, 2, 7, 5}, {.kernel = {3, 2}}, 6);
  add("overlapping", {2, 2, 6, 5}, {.kernel = {3, 3}, .stride = {1, 2}}, 9);
  add("padding", {1, 2, 5, 6}, {.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}}, 9);
  add("padding not counted", {1, 2, 5, 6},
      {.kernel = {3, 4}, .stride = {2, 1}, .padding = {1, 2}, .count_include_pad = false}, 12);
  add("gaps", {1, 1, 7, 8}, {.kernel = {2, 1}, .stride = {3, 2}}, 2);
  add("one element", {1, 1, 1, 1}, {.kernel = {1, 1}}, 1);
  add("whole plane", {3, 2, 4, 4}, {.kernel = {4, 4}}, 16);
  add("empty batch", {0, 2, 4, 4}, {}, 4);
  out.push_back({"max_pool2d transposed", [](Inputs in) { return max_pool2d(in[0].t()); }, {distinct({2, 2, 4, 6})}, 4});
  out.push_back({"avg_pool2d transposed", [](Inputs in) { return avg_pool2d(in[0].t()); }, {normal({2, 2, 4, 6})}, 4});
}

}  // namespace binade::test
