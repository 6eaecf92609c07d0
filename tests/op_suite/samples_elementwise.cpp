// Samples of elementwise operations, comparisons, where and the elementwise losses.
#include <limits>

#include "binade/ops/ops.h"
#include "binade/tests/op_suite/samples.h"

namespace binade::test {

namespace {

using Unary = Tensor (*)(const Tensor&);
using Binary = Tensor (*)(const Tensor&, const Tensor&);

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> list = {{37}, {0}, {1}, {}, {3, 5, 7}, {1100}};
  return list;
}

void unary(SampleMap& out, const std::string& name, const std::function<Tensor(const Tensor&)>& function,
           double low = -3, double high = 3) {
  for (const Shape& shape : shapes()) {
    out.push_back({.name = name + " " + to_text(shape), .function = [=](Inputs in) { return function(in[0]); },
                   .inputs = {uniform(shape, low, high)}});
  }
}

struct Pair {
  Shape a, b;
};
const std::vector<Pair>& pairs() {
  static const std::vector<Pair> list = {{{37}, {37}}, {{3, 1, 5}, {4, 1}}, {{}, {5}},     {{1100}, {1}},
                                         {{0, 3}, {3}}, {{6, 1}, {1, 7}},   {{33, 40}, {40}}};
  return list;
}

void binary(SampleMap& out, const std::string& name, Binary function, double b_low = -2, double b_high = 2,
            double a_low = -2, double a_high = 2, double budget = 4, const std::string& reason = {}) {
  for (const auto& [a, b] : pairs()) {
    out.push_back({.name = name + " " + to_text(a) + " " + to_text(b),
                   .function = [=](Inputs in) { return function(in[0], in[1]); },
                   .inputs = {uniform(a, a_low, a_high), uniform(b, b_low, b_high)},
                   .reduction = static_cast<double>(broadcast_shapes(a, b, "sample").numel()),
                   .budget = budget,
                   .reason = reason});
  }
}

}  // namespace

void samples_elementwise(SampleMap& out) {
  unary(out, "neg", static_cast<Unary>(neg));
  unary(out, "abs", static_cast<Unary>(abs), 0.1, 3);
  unary(out, "abs negative", static_cast<Unary>(abs), -3, -0.1);
  unary(out, "exp", static_cast<Unary>(exp));
  unary(out, "log", static_cast<Unary>(log), 0.25, 4);
  unary(out, "sqrt", static_cast<Unary>(sqrt), 0.25, 4);
  unary(out, "rsqrt", static_cast<Unary>(rsqrt), 0.25, 4);
  unary(out, "tanh", static_cast<Unary>(tanh));
  unary(out, "sigmoid", static_cast<Unary>(sigmoid), -6, 6);
  unary(out, "relu", static_cast<Unary>(relu), 0.1, 3);
  unary(out, "relu negative", static_cast<Unary>(relu), -3, -0.1);
  unary(out, "leaky_relu", [](const Tensor& x) { return leaky_relu(x, 0.2); }, -3, -0.1);
  unary(out, "gelu", [](const Tensor& x) { return gelu(x); }, -5, 5);
  unary(out, "gelu tanh", [](const Tensor& x) { return gelu(x, Gelu::tanh); }, -5, 5);
  unary(out, "silu", static_cast<Unary>(silu), -6, 6);
  unary(out, "clamp", [](const Tensor& x) { return clamp(x, -3.5, 3.5); });
  unary(out, "clamp one side", [](const Tensor& x) {
    return clamp(x, 4, std::numeric_limits<double>::infinity());
  });
  for (const double exponent : {2.0, 3.0, 0.5, -1.0, 1.7, 0.0}) {
    unary(out, "pow " + to_text(exponent), [=](const Tensor& x) { return pow(x, exponent); }, 0.3, 2);
  }
  unary(out, "pow 3 negative base", [](const Tensor& x) { return pow(x, 3.0); });

  binary(out, "add", static_cast<Binary>(add));
  binary(out, "sub", static_cast<Binary>(sub));
  binary(out, "mul", static_cast<Binary>(mul));
  binary(out, "div", static_cast<Binary>(div), 0.5, 2);
  binary(out, "pow", static_cast<Binary>(pow), -1.5, 2, 0.3, 2);
  binary(out, "maximum", static_cast<Binary>(maximum), 2.1, 4);
  binary(out, "minimum", static_cast<Binary>(minimum), 2.1, 4);
  out.push_back({.name = "maximum ties", .function = [](Inputs in) { return maximum(in[0], in[0]); },
                 .inputs = {uniform({5}, -1, 1)}});

  const auto operators = [&](const std::string& name, const std::function<Tensor(const Tensor&)>& function) {
    out.push_back({.name = name, .function = [=](Inputs in) { return function(in[0]); },
                   .inputs = {uniform({3, 5}, 0.5, 2)}});
  };
  operators("x + 1.5", [](const Tensor& x) { return x + 1.5; });
  operators("1.5 - x", [](const Tensor& x) { return 1.5 - x; });
  operators("2 * x", [](const Tensor& x) { return 2 * x; });
  operators("2 / x", [](const Tensor& x) { return 2 / x; });
  operators("-x / 3", [](const Tensor& x) { return -x / 3; });

  const std::pair<const char*, Binary> comparisons[] = {{"eq", eq}, {"ne", ne}, {"lt", lt},
                                                        {"le", le}, {"gt", gt}, {"ge", ge}};
  for (const auto& [name, function] : comparisons) {
    const Binary compare = function;
    out.push_back({.name = name, .function = [=](Inputs in) { return compare(in[0], in[1]); },
                   .inputs = {normal({3, 1, 5}), normal({4, 1})}, .smooth = false});
    out.push_back({.name = std::string(name) + " of equal indices",
                   .function = [=](Inputs in) { return compare(in[0], in[1]); },
                   .inputs = {index({40}, 3), index({40}, 3)}, .smooth = false});
  }

  const auto choose = [](Inputs in) { return where(in[0], in[1], in[2]); };
  out.push_back({.name = "where", .function = choose, .inputs = {boolean({37}), normal({37}), normal({37})}});
  out.push_back({.name = "where broadcast", .function = choose,
                 .inputs = {boolean({4, 1}), normal({3, 1, 5}), normal({})}, .reduction = 60});
  out.push_back({.name = "where empty", .function = choose, .inputs = {boolean({0}), normal({0}), normal({1})}});

  for (const Reduction reduction : {Reduction::mean, Reduction::sum, Reduction::none}) {
    const std::string how = reduction == Reduction::mean ? " mean" : reduction == Reduction::sum ? " sum" : " none";
    const double count = reduction == Reduction::none ? 1 : 35;
    out.push_back({.name = "mse_loss" + how,
                   .function = [=](Inputs in) { return mse_loss(in[0], in[1], reduction); },
                   .inputs = {normal({5, 7}), normal({5, 7})}, .reduction = count});
    out.push_back({.name = "l1_loss" + how, .function = [=](Inputs in) { return l1_loss(in[0], in[1], reduction); },
                   .inputs = {uniform({5, 7}, -1, 1), uniform({5, 7}, 1.1, 2)}, .reduction = count});
    out.push_back({.name = "bce_with_logits" + how,
                   .function = [=](Inputs in) { return bce_with_logits(in[0], in[1], reduction); },
                   .inputs = {uniform({5, 7}, -4, 4), uniform({5, 7}, 0, 1)}, .reduction = count});
  }
}

}  // namespace binade::test
