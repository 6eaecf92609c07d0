// Element types: names, sizes, limits, promotion.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace binade {

enum class DType : std::uint8_t { f64, f32, f16, bf16, f8e4m3, f8e5m2, i64, i32, u8, boolean };

std::string_view name(DType dtype);            // "f32", "bf16", "bool"
DType dtype_from_name(std::string_view name);  // throws Error listing the known names
inline std::string to_text(DType dtype) { return std::string(name(dtype)); }

constexpr std::int64_t size_of(DType dtype) {  // bytes per element
  constexpr std::int64_t sizes[] = {8, 4, 2, 2, 1, 1, 8, 4, 1, 1};
  return sizes[static_cast<int>(dtype)];
}
constexpr bool is_floating(DType dtype) { return dtype <= DType::f8e5m2; }
constexpr bool is_integer(DType dtype) { return dtype >= DType::i64 && dtype <= DType::u8; }
// The types arithmetic is defined for: f64 f32 f16 bf16 (FP8 values are stored, and multiplied by GEMMs).
constexpr bool is_arithmetic_float(DType dtype) { return dtype <= DType::bf16; }

double epsilon(DType dtype);          // distance from 1 to the next larger value
double largest(DType dtype);          // largest finite value
double smallest_normal(DType dtype);  // floating types only
double smallest_subnormal(DType dtype);

// torch.result_type of two tensors. A zero-dim tensor yields to one with dims unless its category
// (bool < integer < floating) is higher. Throws for FP8 with anything but itself.
DType promote_types(DType a, DType b);
DType result_type(DType a, bool a_zero_dim, DType b, bool b_zero_dim);

}  // namespace binade
