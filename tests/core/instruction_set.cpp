// BINADE_CPU_ISA. The tests of numbers run with it too (ctest -L isa).
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "binade/core/base/device.h"
#include "binade/core/base/error.h"
#include "binade/core/tensor/tensor.h"

namespace {

using binade::device_description;

TEST(InstructionSet, IsTheOneAskedForAtMost) {
  const std::map<std::string, std::string> names = {{"sse4", "SSE4"}, {"avx2", "AVX2"}, {"avx512", "AVX-512"}};
  const char* const asked = std::getenv("BINADE_CPU_ISA");
  const std::string description = device_description({});
  if (asked) {
    EXPECT_TRUE(description.ends_with(names.at(asked) + " kernels")) << description;
  } else {
    EXPECT_TRUE(description.ends_with(" kernels")) << description;
  }
}

TEST(InstructionSetDeathTest, AnUnknownNameIsAnError) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto first_kernel = [] {
    setenv("BINADE_CPU_ISA", "avx9", 1);
    try {
      binade::ones({2});
    } catch (const binade::Error& error) {
      std::fputs(error.what(), stderr);
      std::exit(3);
    }
    std::exit(0);
  };
  EXPECT_EXIT(first_kernel(), testing::ExitedWithCode(3), "BINADE_CPU_ISA: expected sse4, avx2 or avx512, got 'avx9'");
}

}  // namespace
