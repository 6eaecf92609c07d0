// Samples of gather, scatter_add and index_select.
#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

void samples_index(SampleMap& out) {
  const auto gathered = [](std::int64_t dim) { return [dim](Inputs in) { return gather(in[0], dim, in[1]); }; };
  out.push_back({"gather rows", gathered(0), {normal({5, 3}), index({4, 3}, 5)}, 4});
  out.push_back({"gather last dim", gathered(-1), {normal({3, 6}), index({3, 9}, 6)}, 9});
  out.push_back({"gather middle, smaller index", gathered(1), {normal({3, 4, 5}), index({2, 7, 3}, 4)}, 7});
  out.push_back({"gather vector", gathered(0), {normal({5}), index({8}, 5)}, 8});
  out.push_back({"gather nothing", gathered(0), {normal({5, 3}), index({0, 3}, 5)}});

  const auto scattered = [](std::int64_t dim) {
    return [dim](Inputs in) { return scatter_add(in[0], dim, in[1], in[2]); };
  };
  out.push_back({"scatter_add rows", scattered(0), {normal({5, 3}), index({4, 3}, 5), normal({4, 3})}, 5});
  out.push_back({"scatter_add repeated", scattered(-1), {normal({2, 2}), index({2, 30}, 2), normal({2, 30})}, 31});
  out.push_back({"scatter_add middle", scattered(1), {normal({3, 4, 5}), index({2, 6, 3}, 4), normal({2, 6, 3})}, 7});
  out.push_back({"scatter_add nothing", scattered(0), {normal({3, 2}), index({0, 2}, 3), normal({0, 2})}});

  const auto selected = [](std::int64_t dim) { return [dim](Inputs in) { return index_select(in[0], dim, in[1]); }; };
  out.push_back({"index_select rows", selected(0), {normal({5, 3}), index({7}, 5)}, 7});
  out.push_back({"index_select last dim", selected(-1), {normal({2, 3, 5}), index({4}, 5)}, 4});
  out.push_back({"index_select middle dim", selected(1), {normal({2, 3, 5}), index({1}, 3)}});
}

}  // namespace binade::test
