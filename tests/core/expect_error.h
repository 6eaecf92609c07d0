// Errors in tests: expect_error() checks how a binade::Error's text starts, error_of() returns the text.
#pragma once
#include <gtest/gtest.h>

#include <functional>
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

// The text of the binade::Error that `body` throws; empty when it throws none.
inline std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace binade::test
