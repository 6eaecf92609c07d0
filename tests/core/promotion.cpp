// Dtype promotion against PyTorch's table, tests/golden/promotion.json; names of dtypes.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "binade/ops/ops.h"

namespace binade::test {

namespace {

const nlohmann::json& golden() {
  static const nlohmann::json table = [] {
    std::ifstream file(BINADE_SOURCE_DIR "/tests/golden/promotion.json");
    return nlohmann::json::parse(file);
  }();
  return table;
}

template <class F>
void for_each_pair(const char* table, F&& judge) {
  int pairs = 0;
  for (const auto& [first, row] : golden().at(table).items())
    for (const auto& [second, result] : row.items()) {
      judge(dtype_from_name(first), dtype_from_name(second), dtype_from_name(std::string(result)));
      ++pairs;
    }
  EXPECT_EQ(pairs, 64);
}

TEST(Promotion, TensorsWithDims) {
  for_each_pair("tensor_tensor", [](DType a, DType b, DType expected) {
    EXPECT_EQ(name(promote_types(a, b)), name(expected)) << name(a) << " with " << name(b);
    EXPECT_EQ(name(result_type(a, false, b, false)), name(expected)) << name(a) << " with " << name(b);
  });
}

TEST(Promotion, ZeroDimTensorsYield) {
  for_each_pair("tensor_zerodim", [](DType a, DType b, DType expected) {
    EXPECT_EQ(name(result_type(a, false, b, true)), name(expected)) << name(a) << " with zero-dim " << name(b);
    EXPECT_EQ(name(result_type(b, true, a, false)), name(expected)) << "zero-dim " << name(b) << " with " << name(a);
  });
  for_each_pair("zerodim_zerodim", [](DType a, DType b, DType expected) {
    EXPECT_EQ(name(result_type(a, true, b, true)), name(expected)) << name(a) << " with " << name(b);
  });
}

TEST(Promotion, AdditionFollowsTheTable) {
  for_each_pair("tensor_tensor", [](DType a, DType b, DType expected) {
    if (expected == DType::boolean) return;
    EXPECT_EQ(name(add(ones({2}, {.dtype = a}), ones({2}, {.dtype = b})).dtype()), name(expected));
  });
  for_each_pair("tensor_zerodim", [](DType a, DType b, DType expected) {
    if (expected == DType::boolean) return;
    EXPECT_EQ(name(add(ones({2}, {.dtype = a}), ones({}, {.dtype = b})).dtype()), name(expected))
        << name(a) << " with zero-dim " << name(b);
  });
}

TEST(Promotion, NumbersDoNotWidenFloatingTensors) {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    const Tensor x = ones({3}, {.dtype = dtype});
    for (const Tensor& y : {x + 1.5, 2.0 * x, x / 3.0, 1.0 - x}) EXPECT_EQ(name(y.dtype()), name(dtype));
  }
}

TEST(Promotion, Float8DoesNotPromote) {
  EXPECT_EQ(promote_types(DType::f8e4m3, DType::f8e4m3), DType::f8e4m3);
  EXPECT_THROW(promote_types(DType::f8e4m3, DType::f32), Error);
  EXPECT_THROW(promote_types(DType::f8e4m3, DType::f8e5m2), Error);
}

TEST(DTypes, NamesReadBack) {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2, DType::i64,
                            DType::i32, DType::u8, DType::boolean})
    EXPECT_EQ(dtype_from_name(name(dtype)), dtype);
  try {
    dtype_from_name("float");
    FAIL() << "an unknown name was accepted";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("'float'"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("bf16"), std::string::npos) << e.what();
  }
}

}  // namespace

}  // namespace binade::test
