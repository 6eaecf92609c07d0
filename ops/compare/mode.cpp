#include "binade/ops/compare/mode.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "binade/core/base/error.h"

namespace binade::compare {

namespace {

Mode fp8(std::string name, amp::Fp8Scaling scaling) {
  Mode m{.name = std::move(name), .autocast = DType::bf16};
  m.fp8 = amp::Fp8Recipe{.scaling = scaling};
  return m;
}

const std::vector<Mode>& known() {
  static const std::vector<Mode> list{
      {.name = "fp32"},
      {.name = "tf32", .tf32 = true},
      {.name = "bf16", .autocast = DType::bf16},
      {.name = "fp16", .autocast = DType::f16, .loss_scaling = true},
      {.name = "fp16-noscale", .autocast = DType::f16},
      {.name = "bf16-pure", .autocast = DType::bf16, .parameters = DType::bf16},
      {.name = "bf16-sr", .autocast = DType::bf16, .parameters = DType::bf16, .stochastic_rounding = true},
      fp8("fp8-delayed", amp::Fp8Scaling::delayed),
      fp8("fp8-current", amp::Fp8Scaling::current),
      fp8("mxfp8", amp::Fp8Scaling::block),
  };
  return list;
}

}  // namespace

Mode mode(std::string_view wanted) {
  std::string names;
  for (const Mode& m : known()) {
    if (m.name == wanted) return m;
    names += (names.empty() ? "" : ", ") + m.name;
  }
  if (wanted == "fp8-unscaled") {  // delayed scaling that never finds a scale
    Mode m = fp8(std::string(wanted), amp::Fp8Scaling::delayed);
    m.fp8->interval = std::numeric_limits<std::int64_t>::max();
    return m;
  }
  constexpr std::string_view fixed = "fp16-static-";
  if (wanted.starts_with(fixed)) {
    const std::string_view digits = wanted.substr(fixed.size());
    int exponent = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), exponent);
    if (error == std::errc() && end == digits.data() + digits.size() && std::abs(exponent) <= 120)
      return {.name = std::string(wanted), .autocast = DType::f16, .static_scale = std::ldexp(1.0, exponent)};
  }
  fail({"unknown precision '", std::string(wanted), "', expected ", names, " or fp16-static-K (loss scale 2^K)"});
}

std::vector<Mode> modes(std::string_view list) {
  if (list == "all") return known();
  std::vector<Mode> found;
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    Mode next = mode(list.substr(0, comma));
    check(std::ranges::none_of(found, [&](const Mode& m) { return m.name == next.name; }), "precision '", next.name,
          "' is listed twice");
    found.push_back(std::move(next));
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  check(!found.empty(), "no precision given, expected a list such as fp32,bf16,fp16");
  return found;
}

}  // namespace binade::compare
