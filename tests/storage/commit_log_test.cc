// What an open checks before anything is changed: COMMITS, the MANIFEST, and gaps in the log.
#include "storage/commit_log.h"

#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <fstream>
#include <sstream>

#include "storage/codec.h"
#include "storage/folder.h"
#include "testing.h"

namespace msadb::storage {
namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream content;
  content << in.rdbuf();
  return content.str();
}

void WriteAll(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

rocksdb::FileSystem& Fs() { return *rocksdb::FileSystem::Default(); }

TEST(CommitMarkFile, KeepsTheNewestMark) {
  TempFolder folder;
  ASSERT_OK(CommitMarkFile::Create(Fs(), folder.path()));
  const CommitMark first{7, 1, 100, 42}, second{8, 1, 200, 43};
  {
    const auto file = CommitMarkFile::Open(Fs(), folder.path(), false);
    ASSERT_OK(file);
    EXPECT_EQ((*file)->mark(), CommitMark());
    EXPECT_TRUE((*file)->damaged().empty());
    (*file)->Record(first);
    (*file)->Record(second);
    (*file)->Sync();
  }
  const auto file = CommitMarkFile::Open(Fs(), folder.path(), true);
  ASSERT_OK(file);
  EXPECT_EQ((*file)->mark(), second);
}

TEST(CommitMarkFile, ATornWriteLeavesTheOtherSlot) {
  TempFolder folder;
  ASSERT_OK(CommitMarkFile::Create(Fs(), folder.path()));
  {
    const auto file = CommitMarkFile::Open(Fs(), folder.path(), false);
    ASSERT_OK(file);
    (*file)->Record({7, 1, 100, 42});
    (*file)->Record({8, 1, 100, 42});
  }
  const std::string good = ReadAll(folder / kCommitsFile);
  size_t seen_7 = 0, seen_8 = 0;
  for (size_t byte = 0; byte < good.size(); ++byte) {
    std::string bad = good;
    bad[byte] ^= 1;
    WriteAll(folder / kCommitsFile, bad);
    const auto file = CommitMarkFile::Open(Fs(), folder.path(), true);
    ASSERT_OK(file);
    const uint64_t commits = (*file)->mark().commits;
    ASSERT_TRUE(commits == 7 || commits == 8) << commits;
    if (commits == 7) {
      EXPECT_FALSE((*file)->damaged().empty());
    }
    ++(commits == 7 ? seen_7 : seen_8);
  }
  EXPECT_EQ(seen_7, 56u);  // one slot's bytes
  EXPECT_GT(seen_8, 56u);
  std::filesystem::remove(folder / kCommitsFile);
  const auto file = CommitMarkFile::Open(Fs(), folder.path(), false);
  ASSERT_OK(file);
  EXPECT_NE((*file)->damaged().find("missing"), std::string::npos);
}

TEST(Manifest, NumbersFromNames) {
  EXPECT_EQ(ManifestNumber("MANIFEST-000017"), 17u);
  EXPECT_EQ(ManifestNumber("MANIFEST-12345678"), 12345678u);
  for (const char* other : {"", "MANIFEST-", "MANIFEST-00x", "CURRENT", "MANIFEST-1\n"}) {
    EXPECT_EQ(ManifestNumber(other), 0u) << other;
  }
}

TEST(Manifest, DigestInStepsIsTheDigestOfTheWhole) {
  TempFolder folder;
  std::mt19937_64 rng(TestSeed());
  const std::string content = RandomBytes(rng, 300'000);
  WriteAll(folder / "MANIFEST-000005", content);
  ManifestDigest whole, steps;
  ASSERT_OK(whole.Extend(Fs(), folder.path(), 5, content.size()));
  for (size_t bytes = 0; bytes < content.size(); bytes += 1 + rng() % 50'000) {
    ASSERT_OK(steps.Extend(Fs(), folder.path(), 5, bytes));
  }
  EXPECT_NE(steps.hash(), whole.hash());
  ASSERT_OK(steps.Extend(Fs(), folder.path(), 5, content.size()));
  EXPECT_EQ(steps.hash(), whole.hash());
  EXPECT_ERROR(steps.Extend(Fs(), folder.path(), 5, content.size() + 1), kCorruption, "ends at");
}

TEST(Manifest, Check) {
  TempFolder folder;
  const std::string content = "some edits of the list of files";
  WriteAll(folder / "MANIFEST-000005", content);
  WriteAll(folder / "CURRENT", "MANIFEST-000005\n");
  ManifestDigest digest;
  ASSERT_OK(digest.Extend(Fs(), folder.path(), 5, content.size()));
  const CommitMark mark{1, 5, content.size(), digest.hash()};
  EXPECT_OK(CheckManifest(Fs(), folder.path(), mark));
  EXPECT_OK(CheckManifest(Fs(), folder.path(), CommitMark()));
  WriteAll(folder / "MANIFEST-000005", content + "more, written since");
  EXPECT_OK(CheckManifest(Fs(), folder.path(), mark));
  for (size_t cut = 0; cut < content.size(); ++cut) {
    WriteAll(folder / "MANIFEST-000005", content.substr(0, cut));
    EXPECT_ERROR(CheckManifest(Fs(), folder.path(), mark), kCorruption, "MANIFEST-000005");
    std::string flipped = content;
    flipped[cut] ^= 4;
    WriteAll(folder / "MANIFEST-000005", flipped);
    EXPECT_ERROR(CheckManifest(Fs(), folder.path(), mark), kCorruption, "MANIFEST-000005");
  }
  WriteAll(folder / "CURRENT", "MANIFEST-000004\n");
  EXPECT_ERROR(CheckManifest(Fs(), folder.path(), mark), kCorruption, "replaced since");
  WriteAll(folder / "CURRENT", "MANIFEST-000006\n");
  EXPECT_OK(CheckManifest(Fs(), folder.path(), mark));
  WriteAll(folder / "CURRENT", "rubbish");
  EXPECT_ERROR(CheckManifest(Fs(), folder.path(), mark), kCorruption, "CURRENT");
  std::filesystem::remove(folder / "CURRENT");
  EXPECT_ERROR(CheckManifest(Fs(), folder.path(), mark), kCorruption, "CURRENT");
}

rocksdb::WriteBatch BatchOf(uint64_t commit) {
  std::string payload;
  PutFixed64(&payload, commit);
  PutFixed64(&payload, 0);
  PutFixed32(&payload, 1);
  const KeyBytes key = CountersKey();
  rocksdb::WriteBatch batch;
  (void)batch.Put("other", "value");
  (void)batch.Delete("gone");
  (void)batch.Put(rocksdb::Slice(key.view().data(), key.view().size()),
                  Seal(Family::kMeta, key.view(), payload));
  return batch;
}

TEST(CommitLogFilter, FindsGaps) {
  using Option = rocksdb::WalFilter::WalProcessingOption;
  const auto last = [](const std::vector<uint64_t>& commits, uint64_t base) {
    const CommitLogFilter filter;
    for (const uint64_t commit : commits) {
      EXPECT_EQ(filter.LogRecord(BatchOf(commit), nullptr, nullptr), Option::kIgnoreCurrentRecord);
    }
    return filter.LastReachable(base);
  };
  EXPECT_EQ(last({}, 5), 5u);
  EXPECT_EQ(last({6, 7, 8}, 5), 8u);
  EXPECT_EQ(last({3, 4, 5, 6}, 5), 6u);  // the log may begin before the newest file
  EXPECT_EQ(last({3, 4}, 5), 5u);
  EXPECT_EQ(last({7, 8}, 5), 5u);
  EXPECT_EQ(last({6, 7, 9, 10}, 5), 7u);
  EXPECT_EQ(last({1, 2}, 0), 2u);
  const CommitLogFilter apply(7);
  EXPECT_EQ(apply.LogRecord(BatchOf(7), nullptr, nullptr), Option::kContinueProcessing);
  EXPECT_EQ(apply.LogRecord(BatchOf(8), nullptr, nullptr), Option::kStopReplay);
}

TEST(LogDamage, AZeroedBlockAnywhereIsNoticed) {
  // A zeroed block that begins where a record does looks to RocksDB like the unused end of a block.
  TempFolder folder;
  {
    const auto store = Store::Open(folder / "db", SmallOptions());
    ASSERT_OK(store);
    const CollectionId notes = *(*store)->CreateCollection("notes");
    for (int i = 0; i < 80; ++i) ASSERT_OK(Insert(**store, notes, i, 1 + i % 20));
  }
  std::string log;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "db/rocksdb")) {
    if (entry.path().extension() == ".log" && entry.file_size() > 0) log = entry.path().filename();
  }
  ASSERT_FALSE(log.empty());
  const std::string content = ReadAll(folder / ("db/rocksdb/" + log));
  ASSERT_GT(content.size(), 65'536u);
  for (const size_t block : {512u, 4096u, 32'768u}) {
    // Every large block; a sample of the small ones.
    const size_t step = block * std::max<size_t>(1, 4096 / block);
    for (size_t at = 0; at + block <= content.size(); at += step) {
      std::string damaged = content;
      std::fill_n(damaged.begin() + static_cast<ptrdiff_t>(at), block, '\0');
      const std::string copy = folder / "copy";
      std::filesystem::copy(folder / "db", copy, std::filesystem::copy_options::recursive);
      WriteAll(copy + "/rocksdb/" + log, damaged);
      EXPECT_ERROR(Store::Open(copy, SmallOptions()), kCorruption, "");
      EXPECT_EQ(ReadAll(copy + "/rocksdb/" + log), damaged) << "a refused open changed something";
      std::filesystem::remove_all(copy);
    }
  }
}

}  // namespace
}  // namespace msadb::storage
