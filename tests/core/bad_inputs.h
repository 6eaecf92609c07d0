// Bad inputs: wrong shapes, dtypes and arguments of every public operation give an Error that starts with its name. What
// the files bad_inputs_*.cpp have in common.
#pragma once
#include <gtest/gtest.h>

#include <cctype>
#include <functional>
#include <string>
#include <vector>

#include "binade/ops/ops.h"

namespace binade::test {

struct BadCall {
  std::string operation;  // how the message starts, before the colon
  std::string what;
  std::function<void()> call;
};
inline void PrintTo(const BadCall& call, std::ostream* out) { *out << call.operation << ", " << call.what; }

inline Tensor f(Shape shape) { return ones(shape); }
inline Tensor i64(Shape shape) { return ones(shape, {.dtype = DType::i64}); }
inline Tensor boolean(Shape shape) { return ones(shape, {.dtype = DType::boolean}); }
inline Tensor fp8(Shape shape) { return ones(shape, {.dtype = DType::f8e4m3}); }
inline Tensor low(Shape shape) { return ones(shape, {.dtype = DType::bf16}); }

class BadInputs : public ::testing::TestWithParam<BadCall> {};

inline std::string call_name(const ::testing::TestParamInfo<BadCall>& info) {
  std::string text = std::to_string(info.index) + "_" + info.param.operation + "_" + info.param.what;
  for (char& c : text)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return text;
}

}  // namespace binade::test
