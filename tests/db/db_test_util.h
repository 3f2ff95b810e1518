// Shared by the tests of the database.
#ifndef MSADB_TESTS_DB_DB_TEST_UTIL_H_
#define MSADB_TESTS_DB_DB_TEST_UTIL_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>

#include "msadb/msadb.h"
#include "tests/db/fake_model.h"

#define ASSERT_OK(expr)                                            \
  do {                                                             \
    const ::msadb::Status status_ = ToStatus(expr);                \
    ASSERT_TRUE(status_.ok()) << #expr ": " << status_.ToString(); \
  } while (0)
#define EXPECT_OK(expr)                                            \
  do {                                                             \
    const ::msadb::Status status_ = ToStatus(expr);                \
    EXPECT_TRUE(status_.ok()) << #expr ": " << status_.ToString(); \
  } while (0)
#define EXPECT_CODE(expr, expected)                                          \
  do {                                                                       \
    const ::msadb::Status status_ = ToStatus(expr);                          \
    EXPECT_EQ(status_.code(), expected) << #expr ": " << status_.ToString(); \
  } while (0)
// ASSERT_OK_AND(auto x, F());
#define ASSERT_OK_AND(lhs, expr) ASSERT_OK_AND_(MSADB_CONCAT_(result_, __LINE__), lhs, expr)
#define ASSERT_OK_AND_(result, lhs, expr)                               \
  auto result = (expr);                                                 \
  ASSERT_TRUE(result.ok()) << #expr ": " << result.status().ToString(); \
  lhs = std::move(result).value()

namespace msadb::db {

inline Status ToStatus(const Status& status) { return status; }
template <typename T>
Status ToStatus(const Result<T>& result) {
  return result.ok() ? Status::Ok() : result.status();
}

// A folder of its own, removed at the end.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "msadb-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Options that make tests quick: the fake model, small caches, nothing in the background.
inline Options TestOptions() {
  static const std::shared_ptr<LoadedModel> model = MakeFakeModel();
  Options options;
  options.model = model;
  options.block_cache_bytes = 1 << 20;
  options.storage_memory_bytes = 8 << 20;
  options.expiry_interval = std::chrono::milliseconds(0);
  options.encode_batch_tokens = 64;
  return options;
}

inline NewDocument Doc(std::string text, std::optional<std::string> key = {},
                       Metadata metadata = {}) {
  NewDocument document;
  document.text = std::move(text);
  document.key = std::move(key);
  document.metadata = std::move(metadata);
  return document;
}

// `words` different words that begin with `prefix`.
inline std::string Words(const std::string& prefix, size_t words) {
  std::string text;
  for (size_t i = 0; i < words; ++i) text += (i ? " " : "") + prefix + std::to_string(i);
  return text;
}

// What of `text` the fake model encodes as its first chunk: a query equal to it scores 1 there.
inline std::string FirstChunk(const std::string& text) {
  size_t end = 0;
  for (int words = 0; words < 7 && end != std::string::npos; ++words) end = text.find(' ', end + 1);
  return text.substr(0, end);
}

}  // namespace msadb::db

#endif  // MSADB_TESTS_DB_DB_TEST_UTIL_H_
