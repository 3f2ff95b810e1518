#include "msadb/status.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <vector>

// Allocation fails while this is set. On purpose not in a library: this program is its own.
// Not inlined: g++ takes malloc and free of an inlined half for a mismatch.
static bool g_no_memory = false;

[[gnu::noinline]] void* operator new(size_t bytes) {
  if (g_no_memory) throw std::bad_alloc();
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace msadb {
namespace {

constexpr StatusCode kLastCode = StatusCode::kPermissionDenied;

TEST(StatusTest, DefaultIsOk) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kOk);
  EXPECT_TRUE(status.message().empty());
  EXPECT_EQ(status.ToString(), "OK");
}

TEST(StatusTest, OkDropsAMessage) { EXPECT_TRUE(Status(StatusCode::kOk, "ignored").ok()); }

// The numbers travel over the wire and stand in exit codes of scripts.
TEST(StatusTest, CodesKeepTheirNumbers) {
  EXPECT_EQ(static_cast<int>(StatusCode::kNotFound), 1);
  EXPECT_EQ(static_cast<int>(StatusCode::kInvalidArgument), 2);
  EXPECT_EQ(static_cast<int>(StatusCode::kAlreadyExists), 3);
  EXPECT_EQ(static_cast<int>(StatusCode::kCorruption), 4);
  EXPECT_EQ(static_cast<int>(StatusCode::kIOError), 5);
  EXPECT_EQ(static_cast<int>(StatusCode::kResourceExhausted), 6);
  EXPECT_EQ(static_cast<int>(StatusCode::kUnavailable), 7);
  EXPECT_EQ(static_cast<int>(StatusCode::kConflict), 8);
  EXPECT_EQ(static_cast<int>(StatusCode::kCancelled), 9);
  EXPECT_EQ(static_cast<int>(StatusCode::kDeadlineExceeded), 10);
  EXPECT_EQ(static_cast<int>(StatusCode::kUnsupported), 11);
  EXPECT_EQ(static_cast<int>(StatusCode::kFailedPrecondition), 12);
  EXPECT_EQ(static_cast<int>(StatusCode::kInternal), 13);
  EXPECT_EQ(static_cast<int>(StatusCode::kPermissionDenied), 14);
}

TEST(StatusTest, EveryCodeHasItsOwnName) {
  std::set<std::string> names;
  for (int code = 0; code <= static_cast<int>(kLastCode); ++code) {
    const std::string name = StatusCodeName(static_cast<StatusCode>(code));
    EXPECT_NE(name, "Unknown") << code;
    EXPECT_TRUE(names.insert(name).second) << name;
  }
  EXPECT_STREQ(StatusCodeName(static_cast<StatusCode>(200)), "Unknown");
}

TEST(StatusTest, CopiesAndMovesCarryTheError) {
  Status first = Status::NotFound("no document 17");
  const Status copy = first;
  EXPECT_EQ(copy.ToString(), "NotFound: no document 17");
  Status assigned;
  assigned = first;
  EXPECT_EQ(assigned.ToString(), first.ToString());
  assigned = Status();
  EXPECT_TRUE(assigned.ok());
  EXPECT_EQ(first.code(), StatusCode::kNotFound);
  const Status moved = std::move(first);
  EXPECT_EQ(moved.message(), "no document 17");
  Status& self = assigned;
  assigned = Status::Internal("kept");
  assigned = self;
  EXPECT_EQ(assigned.message(), "kept");
}

TEST(StatusTest, TheCodeNeedsNoMemory) {
  const Status before = Status::IOError("a message that is too long for a short string");
  g_no_memory = true;
  const Status made = Status::ResourceExhausted("out of memory; use smaller batches");
  const Status copy = before;
  const Status context = before.WithContext("while reading something with a long name");
  g_no_memory = false;
  EXPECT_EQ(made.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(made.message(), "there was no memory for the message");
  EXPECT_EQ(copy.code(), StatusCode::kIOError);
  EXPECT_EQ(context.code(), StatusCode::kIOError);
  EXPECT_FALSE(made.ToString().empty());
}

TEST(StatusTest, WithContextKeepsTheCode) {
  const Status status = Status::IOError("disk gone").WithContext("Insert");
  EXPECT_EQ(status.code(), StatusCode::kIOError);
  EXPECT_EQ(status.message(), "Insert: disk gone");
  EXPECT_TRUE(Status::Ok().WithContext("Insert").ok());
}

TEST(ResultTest, HoldsAValue) {
  Result<std::string> result = std::string("text");
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(result.status().ok());
  EXPECT_EQ(*result, "text");
  EXPECT_EQ(result->size(), 4u);
  result.value() += "!";
  const Result<std::string>& constant = result;
  EXPECT_EQ(constant.value(), "text!");
  EXPECT_EQ(constant->size(), 5u);
}

TEST(ResultTest, HoldsWhatCannotBeCopied) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(7);
  ASSERT_TRUE(result.ok());
  const std::unique_ptr<int> taken = std::move(result).value();
  EXPECT_EQ(*taken, 7);
}

TEST(ResultTest, HoldsAnError) {
  const Result<int> result = Status::Corruption("bad block");
  EXPECT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), StatusCode::kCorruption);
}

TEST(ResultTest, AnOkStatusIsADefect) {
  const Result<int> result = Status::Ok();
  EXPECT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), StatusCode::kInternal);
}

TEST(ResultDeathTest, ReadingAnErrorsValueEndsTheProcess) {
  Result<int> result = Status::NotFound("nothing");
  EXPECT_DEATH((void)*result, "");
}

Result<int> Half(int value) {
  if (value % 2 != 0) return Status::InvalidArgument("odd");
  return value / 2;
}

Status Quarter(int value, int* out) {
  MSADB_ASSIGN_OR_RETURN(const int half, Half(value));
  MSADB_ASSIGN_OR_RETURN(*out, Half(half));
  return Status::Ok();
}

Status FirstError(const std::vector<Status>& statuses, size_t* evaluated) {
  for (const Status& status : statuses) {
    ++*evaluated;
    MSADB_RETURN_IF_ERROR(status);
  }
  return Status::Ok();
}

TEST(StatusMacrosTest, ReturnTheFirstError) {
  int out = 0;
  EXPECT_TRUE(Quarter(12, &out).ok());
  EXPECT_EQ(out, 3);
  EXPECT_EQ(Quarter(6, &out).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Quarter(5, &out).message(), "odd");

  size_t evaluated = 0;
  const Status status =
      FirstError({Status(), Status::Conflict("first"), Status::Internal("second")}, &evaluated);
  EXPECT_EQ(status.message(), "first");
  EXPECT_EQ(evaluated, 2u);
}

}  // namespace
}  // namespace msadb
