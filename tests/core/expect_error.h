// expect_error(): the call must throw binade::Error whose text starts as given.
#pragma once
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "binade/core/base/error.h"

namespace binade::test {

template <class F>
void expect_error(F&& call, std::string_view start, std::string_view contains = "") {
  try {
    call();
    ADD_FAILURE() << "no error; expected one that starts with '" << start << "'";
  } catch (const Error& e) {
    const std::string text = e.what();
    EXPECT_TRUE(text.starts_with(start)) << "'" << text << "' does not start with '" << start << "'";
    EXPECT_NE(text.find(contains), std::string::npos) << "'" << text << "' does not contain '" << contains << "'";
    EXPECT_FALSE(text.empty());
  } catch (const std::exception& e) {
    ADD_FAILURE() << "not a binade::Error: " << e.what();
  }
}

}  // namespace binade::test
