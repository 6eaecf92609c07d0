// Samples of the reductions: all elements, rows, columns, middle dimensions, empty and long ones.
#include <cmath>

#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

namespace {

using Reduction = Tensor (*)(const Tensor& x, const Dims& dims, ReduceOptions options);

struct Case {
  Shape shape;
  Dims dims;
  bool keepdim;
};
const std::vector<Case>& cases() {
  static const std::vector<Case> list = {
      {{37}, {}, false},       {{1}, {0}, true},         {{}, {}, false},         {{5, 37}, {-1}, false},
      {{37, 5}, {0}, false},   {{300, 33}, {0}, true},   {{3, 7, 11}, {1}, false}, {{3, 7, 11}, {0, 2}, true},
      {{2, 70000}, {1}, false}, {{3, 5, 2, 9}, {1, 2}, false},
  };
  return list;
}

std::string label(const std::string& name, const Case& c) {
  std::string text = name + " " + to_text(c.shape) + " dims";
  for (const std::int64_t d : c.dims) text.append(" ").append(std::to_string(d));
  return c.keepdim ? text + " keepdim" : text;
}

double reduced_count(const Case& c) {
  if (c.dims.empty()) return static_cast<double>(c.shape.numel());
  double n = 1;
  for (const std::int64_t d : c.dims) n *= static_cast<double>(c.shape[wrap_dim(d, c.shape.size(), "sample")]);
  return n;
}

template <class Function>
void add_cases(SampleMap& out, const std::string& name, const Function& function, bool distinct_values = false) {
  for (const Case& c : cases()) {
    out.push_back({.name = label(name, c),
                   .function = [=](Inputs in) { return function(in[0], c.dims, ReduceOptions{c.keepdim}); },
                   .inputs = {distinct_values ? distinct(c.shape) : normal(c.shape)},
                   .reduction = reduced_count(c)});
  }
}

}  // namespace

void samples_reduce(SampleMap& out) {
  add_cases(out, "sum", static_cast<Reduction>(sum));
  add_cases(out, "mean", static_cast<Reduction>(mean));
  add_cases(out, "norm", static_cast<Reduction>(norm));
  add_cases(out, "logsumexp", static_cast<Reduction>(logsumexp));
  add_cases(out, "var biased", [](const Tensor& x, const Dims& dims, ReduceOptions options) {
    return var(x, dims, 0, options);
  });
  out.push_back({.name = "var", .function = [](Inputs in) { return var(in[0], {1}); }, .inputs = {normal({5, 37})},
                 .reduction = 37});

  // Ties would put a kink where central differences look: distinct values, few enough to stay distinct in 16 bits.
  const auto small = [&](const std::string& name, Reduction function) {
    for (const Case& c : cases()) {
      if (c.shape.numel() > 64) continue;
      out.push_back({.name = label(name, c),
                     .function = [=](Inputs in) { return function(in[0], c.dims, {c.keepdim}); },
                     .inputs = {distinct(c.shape)}});
    }
    out.push_back({.name = name + " many", .function = [=](Inputs in) { return function(in[0], {0}, {}); },
                   .inputs = {normal({70, 33})}, .smooth = false});
  };
  small("max", static_cast<Reduction>(max));
  small("min", static_cast<Reduction>(min));

  for (const std::optional<std::int64_t> dim : {std::optional<std::int64_t>{}, std::optional<std::int64_t>{0},
                                                std::optional<std::int64_t>{-1}}) {
    const std::string where = dim ? std::string(" dim ").append(std::to_string(*dim)) : "";
    out.push_back({.name = "argmax" + where, .function = [=](Inputs in) { return argmax(in[0], dim); },
                   .inputs = {normal({33, 37})}, .smooth = false});
    out.push_back({.name = "argmin" + where, .function = [=](Inputs in) { return argmin(in[0], dim, {true}); },
                   .inputs = {normal({33, 37})}, .smooth = false});
  }
  out.push_back({.name = "sum of nothing", .function = [](Inputs in) { return sum(in[0], {0}); },
                 .inputs = {normal({0, 3})}});
}

}  // namespace binade::test
