#include "db/guard.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace msadb::db {
namespace {

template <typename Exception>
StatusCode CodeOf(const Exception& thrown) {
  return Guard([&]() -> Status { throw thrown; }).code();
}

TEST(Guard, WhatIsThrownHasItsCode) {
  EXPECT_EQ(CodeOf(std::bad_alloc()), StatusCode::kResourceExhausted);
  // What the standard library throws when no thread can be started.
  const auto no_thread = std::make_error_code(std::errc::resource_unavailable_try_again);
  EXPECT_EQ(CodeOf(std::system_error(no_thread)), StatusCode::kResourceExhausted);
  const auto other = std::make_error_code(std::errc::no_such_process);
  EXPECT_EQ(CodeOf(std::system_error(other)), StatusCode::kInternal);
  EXPECT_EQ(CodeOf(std::runtime_error("x")), StatusCode::kInternal);
  EXPECT_EQ(CodeOf(5), StatusCode::kInternal);
}

}  // namespace
}  // namespace msadb::db
