#include "binade/core/base/dtype.h"

#include <array>
#include <limits>

#include "binade/core/base/error.h"

namespace binade {

namespace {
constexpr std::array<std::string_view, 10> names{"f64", "f32", "f16", "bf16", "f8e4m3",
                                                 "f8e5m2", "i64", "i32", "u8", "bool"};
struct Format {
  int mantissa, min_exponent;
  double max;
};
Format format(DType dtype, const char* what) {
  switch (dtype) {
    case DType::f64: return {52, -1022, std::numeric_limits<double>::max()};
    case DType::f32: return {23, -126, static_cast<double>(std::numeric_limits<float>::max())};
    case DType::f16: return {10, -14, 65504};
    case DType::bf16: return {7, -126, 3.38953138925153547590470800371487866880e38};
    case DType::f8e4m3: return {3, -6, 448};
    case DType::f8e5m2: return {2, -14, 57344};
    default: fail({what, ": expected a floating dtype, got ", to_text(dtype)});
  }
}
double power_of_two(int exponent) { return __builtin_ldexp(1.0, exponent); }
}  // namespace

std::string_view name(DType dtype) { return names.at(static_cast<std::size_t>(dtype)); }

DType dtype_from_name(std::string_view text) {
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i] == text) return static_cast<DType>(i);
  fail({"dtype_from_name: unknown dtype '", std::string(text),
        "', expected one of f64 f32 f16 bf16 f8e4m3 f8e5m2 i64 i32 u8 bool"});
}

double epsilon(DType dtype) { return power_of_two(-format(dtype, "epsilon").mantissa); }
double smallest_normal(DType dtype) { return power_of_two(format(dtype, "smallest_normal").min_exponent); }
double smallest_subnormal(DType dtype) {
  const Format f = format(dtype, "smallest_subnormal");
  return power_of_two(f.min_exponent - f.mantissa);
}
double largest(DType dtype) {
  switch (dtype) {
    case DType::i64: return 9223372036854775807.0;
    case DType::i32: return 2147483647.0;
    case DType::u8: return 255;
    case DType::boolean: return 1;
    default: return format(dtype, "largest").max;
  }
}

DType promote_types(DType a, DType b) {
  if (a == b) return a;
  const auto is_fp8 = [](DType d) { return d == DType::f8e4m3 || d == DType::f8e5m2; };
  check(!is_fp8(a) && !is_fp8(b), "promote_types: no promotion between ", a, " and ", b, "; convert with .to() first");
  const bool float_a = is_floating(a), float_b = is_floating(b);
  if (float_a && float_b) {
    if (a == DType::f64 || b == DType::f64) return DType::f64;
    return DType::f32;  // f32 with anything narrower, and f16 with bf16
  }
  if (float_a != float_b) return float_a ? a : b;
  return a < b ? a : b;  // i64, i32, u8, bool: the wider comes first in the enumeration
}

DType result_type(DType a, bool a_zero_dim, DType b, bool b_zero_dim) {
  if (a_zero_dim == b_zero_dim) return promote_types(a, b);
  const auto category = [](DType d) { return is_floating(d) ? 2 : d == DType::boolean ? 0 : 1; };
  const DType with_dims = a_zero_dim ? b : a, zero_dim = a_zero_dim ? a : b;
  return category(zero_dim) > category(with_dims) ? promote_types(a, b) : with_dims;
}

}  // namespace binade
