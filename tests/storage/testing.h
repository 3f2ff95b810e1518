// What the storage tests share: folders, seeds, and parts whose content follows from a number.
#ifndef MSADB_TESTS_STORAGE_TESTING_H_
#define MSADB_TESTS_STORAGE_TESTING_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include "storage/store.h"

#define ASSERT_OK(expr)                                                     \
  do {                                                                      \
    const ::msadb::Status ok_status_ = ::msadb::storage::ToStatus((expr));  \
    ASSERT_TRUE(ok_status_.ok()) << #expr << ": " << ok_status_.ToString(); \
  } while (0)
#define EXPECT_OK(expr)                                                     \
  do {                                                                      \
    const ::msadb::Status ok_status_ = ::msadb::storage::ToStatus((expr));  \
    EXPECT_TRUE(ok_status_.ok()) << #expr << ": " << ok_status_.ToString(); \
  } while (0)
// The code of a Status or Result, and a message that holds `text`.
#define EXPECT_ERROR(expr, expected_code, text)                                         \
  do {                                                                                  \
    const ::msadb::Status error_status_ = ::msadb::storage::ToStatus((expr));           \
    EXPECT_EQ(::msadb::StatusCodeName(error_status_.code()),                            \
              std::string(::msadb::StatusCodeName(::msadb::StatusCode::expected_code))) \
        << #expr << ": " << error_status_.ToString();                                   \
    EXPECT_NE(error_status_.message().find(text), std::string_view::npos)               \
        << #expr << ": " << error_status_.ToString();                                   \
  } while (0)

namespace msadb::storage {

inline Status ToStatus(const Status& status) { return status; }
template <typename T>
Status ToStatus(const Result<T>& result) {
  return result.status();
}

// A new empty folder, gone with the object. In memory where the machine has a place for that: the
// tests are about what the store does, and simulate power loss themselves, so that a disk's fsync
// would only cost time. TMPDIR overrides it.
class TempFolder {
 public:
  TempFolder() {
    const bool in_memory =
        std::getenv("TMPDIR") == nullptr && ::access("/dev/shm", R_OK | W_OK | X_OK) == 0;
    const std::filesystem::path root =
        in_memory ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path();
    std::string pattern = (root / "msadb_test_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// MSADB_TEST_SCALE multiplies the number of rounds of the long tests (default 1).
inline size_t Scaled(size_t rounds) {
  const char* scale = std::getenv("MSADB_TEST_SCALE");
  const double factor = scale == nullptr ? 1.0 : std::strtod(scale, nullptr);
  return std::max<size_t>(1, static_cast<size_t>(static_cast<double>(rounds) * factor));
}

// The same seed in every run unless MSADB_TEST_SEED names another ("random": a fresh one), printed so
// that a failure can be repeated.
inline uint64_t TestSeed() {
  const char* given = std::getenv("MSADB_TEST_SEED");
  uint64_t seed = 7;
  if (given != nullptr) {
    seed = std::string_view(given) == "random" ? std::random_device()()
                                               : std::strtoull(given, nullptr, 10);
  }
  std::cout << "MSADB_TEST_SEED=" << seed << std::endl;
  return seed;
}

struct MadePart {
  PartRecord record;
  TensorShape shape;
  std::string routing;
  std::string blocks;

  TensorView routing_view() const { return {shape, std::as_bytes(std::span(routing))}; }
  TensorView blocks_view() const { return {shape, std::as_bytes(std::span(blocks))}; }
};

inline std::string RandomBytes(std::mt19937_64& rng, size_t size) {
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(rng());
  return bytes;
}

inline std::string RandomText(std::mt19937_64& rng, size_t size) {
  std::string text(size, ' ');
  for (char& c : text) c = static_cast<char>('a' + rng() % 26);
  return text;
}

// A part whose texts and bytes follow from `content`; the rest is what a single-part document has.
inline MadePart MakePart(uint64_t content, Number first_number, uint32_t n_chunks = 2,
                         TensorShape shape = {DataType::kBF16, 2, 0, 8}) {
  std::mt19937_64 rng(content);
  MadePart part;
  part.shape = shape;
  part.shape.n_chunks = n_chunks;
  part.record.first_number = first_number;
  part.record.text = RandomText(rng, 20 + rng() % 200);
  part.record.text_bytes = part.record.text.size();
  part.record.token_count = n_chunks * 64;
  part.record.chunk_count = n_chunks;
  part.record.created_us = static_cast<int64_t>(rng() % 1'000'000'000);
  part.routing = RandomBytes(rng, *RoutingBytes(part.shape));
  part.blocks = RandomBytes(rng, *BlocksBytes(part.shape));
  part.record.routing_bytes = part.routing.size();
  part.record.blocks_bytes = part.blocks.size();
  return part;
}

inline Status Put(WriteSet& set, CollectionId collection, const MadePart& part) {
  return set.PutPart(collection, part.record.first_number + part.record.part_index, part.record,
                     part.routing_view(), part.blocks_view());
}

// Reserves a number and commits a document of one part.
inline Result<Number> Insert(Store& store, CollectionId collection, uint64_t content,
                             uint32_t n_chunks = 2) {
  MSADB_ASSIGN_OR_RETURN(const Number number, store.ReserveNumbers(collection, 1));
  WriteSet set = store.NewWriteSet();
  MSADB_RETURN_IF_ERROR(Put(set, collection, MakePart(content, number, n_chunks)));
  MSADB_RETURN_IF_ERROR(store.Commit(std::move(set)));
  return number;
}

inline Status Delete(Store& store, CollectionId collection, Number number) {
  MSADB_ASSIGN_OR_RETURN(const PartRecord record,
                         store.ReadPart(collection, number, nullptr, PartFields::kNoText));
  WriteSet set = store.NewWriteSet();
  MSADB_RETURN_IF_ERROR(set.DeletePart(collection, number, record));
  return store.Commit(std::move(set));
}

inline Result<std::string> RoutingOf(const Store& store, CollectionId collection, Number number,
                                     const Snapshot* snapshot = nullptr) {
  std::string bytes;
  MSADB_RETURN_IF_ERROR(store.ReadRouting(
      collection, number,
      [&](const TensorView& t) {
        bytes.assign(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
      },
      snapshot));
  return bytes;
}

inline Result<std::string> BlocksOf(const Store& store, CollectionId collection, Number number,
                                    const Snapshot* snapshot = nullptr) {
  std::string bytes;
  MSADB_RETURN_IF_ERROR(store.ReadBlocks(
      collection, number,
      [&](const TensorView& t) {
        bytes.assign(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
      },
      snapshot));
  return bytes;
}

// Small buffers, so that little data exercises flushes and compactions; and no headroom, so that
// the tests do not depend on the machine's disk.
inline StoreOptions SmallOptions() {
  StoreOptions options;
  options.memory_bytes = 1u << 20;
  options.disk_headroom_bytes = 0;
  return options;
}

}  // namespace msadb::storage

#endif  // MSADB_TESTS_STORAGE_TESTING_H_
