// A small file system that fills up. Needs the right to mount a tmpfs; skips visibly without.
#include <sys/mount.h>
#include <sys/statvfs.h>

#include <fstream>
#include <random>

#include "tests/db/db_test_util.h"

namespace msadb::db {
namespace {

class SmallDisk {
 public:
  explicit SmallDisk(size_t mib) {
    const std::string size = "size=" + std::to_string(mib) + "m,mode=700";
    mounted_ = mount("tmpfs", folder_.path().c_str(), "tmpfs", 0, size.c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(folder_.path().c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  std::string operator/(const std::string& name) const { return folder_ / name; }

  uint64_t free_bytes() const {
    struct statvfs info;
    return statvfs(folder_.path().c_str(), &info) == 0 ? info.f_bavail * info.f_frsize : 0;
  }
  // Takes all free space but `leave` bytes, or gives it back.
  void Fill(uint64_t leave) {
    std::ofstream file(folder_ / "filler", std::ios::binary | std::ios::app);
    const std::vector<char> block(4096, 'x');
    while (file && free_bytes() >= leave + block.size()) {
      file.write(block.data(), static_cast<std::streamsize>(block.size()));
      file.flush();
    }
  }
  void Unfill() { std::filesystem::remove(folder_ / "filler"); }

 private:
  TempFolder folder_;
  bool mounted_ = false;
};

Options SmallOptions() {
  Options options = TestOptions();
  options.storage_memory_bytes = 2 << 20;
  return options;
}

bool IsFullDisk(const Status& status) {
  return status.code() == StatusCode::kIOError || status.code() == StatusCode::kResourceExhausted ||
         status.code() == StatusCode::kUnavailable;
}

NewDocument Numbered(int i) {
  // Words do not compress: each is used once.
  return Doc("document " + std::to_string(i) + " " + Words("w" + std::to_string(i) + "x", 50),
             "key" + std::to_string(i));
}

void ExpectAll(Collection& notes, const std::vector<bool>& present) {
  uint64_t documents = 0;
  for (size_t i = 0; i < present.size(); ++i) {
    auto document = notes.GetByKey("key" + std::to_string(i));
    ASSERT_EQ(document.ok(), present[i]) << i << ": " << document.status().ToString();
    if (present[i]) {
      ++documents;
      ASSERT_EQ(document->text, Numbered(static_cast<int>(i)).text);
    }
  }
  ASSERT_EQ(*notes.Count(), documents);
}

TEST(DiskFull, InsertsAreRefusedEarlyAndTheRestWorks) {
  SmallDisk disk(96);
  if (!disk.mounted()) GTEST_SKIP() << "may not mount a tmpfs here: nothing was tested";
  ASSERT_OK_AND(auto db, Database::Open(disk / "db", SmallOptions()));
  ASSERT_OK_AND(auto notes, db->CreateCollection("notes"));
  std::vector<bool> present;
  for (int i = 0; i < 20; ++i) {
    ASSERT_OK(notes->Insert(Numbered(i)));
    present.push_back(true);
  }
  disk.Fill(1 << 20);
  const Status refused = notes->Insert(Numbered(20)).status();
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted) << refused.ToString();
  present.push_back(false);
  // Reads, deletes and Compact go on.
  ExpectAll(*notes, present);
  EXPECT_OK(notes->Search("document 3"));
  EXPECT_OK(notes->Ask("document 3"));
  ASSERT_OK(notes->DeleteByKey("key3"));
  present[3] = false;
  ExpectAll(*notes, present);
  // With room again, so do inserts, without a restart.
  disk.Unfill();
  EXPECT_OK(db->Compact());
  ASSERT_OK(notes->Insert(Numbered(20)));
  present[20] = true;
  ExpectAll(*notes, present);
  notes.reset();
  db.reset();
  ASSERT_OK_AND(db, Database::Open(disk / "db", SmallOptions()));
  ASSERT_OK_AND(notes, db->OpenCollection("notes"));
  ExpectAll(*notes, present);
}

// Somebody else takes the last byte: whatever fails then, fails with an error, and nothing that was
// acknowledged is lost.
TEST(DiskFull, ATrulyFullDiskLosesNothing) {
  int failures = 0;
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 8; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    SmallDisk disk(96);
    if (!disk.mounted()) GTEST_SKIP() << "may not mount a tmpfs here: nothing was tested";
    std::vector<bool> present;
    // The outcome of a delete that failed is decided by the next open.
    size_t undecided = SIZE_MAX;
    {
      ASSERT_OK_AND(const auto db, Database::Open(disk / "db", SmallOptions()));
      ASSERT_OK_AND(const auto notes, db->CreateCollection("notes"));
      for (int i = 0; i < 30; ++i) {
        ASSERT_OK(notes->Insert(Numbered(i)));
        present.push_back(true);
      }
      disk.Fill(random() % 40'000);
      // Compact in the middle needs room for new files, which there is none of.
      for (size_t i = 0; i + 1 < present.size(); ++i) {
        if (i == 10) {
          const Status compacted = db->Compact();
          failures += !compacted.ok();
          EXPECT_TRUE(compacted.ok() || IsFullDisk(compacted)) << compacted.ToString();
        }
        const Status status = notes->DeleteByKey("key" + std::to_string(i));
        if (!status.ok()) {
          EXPECT_TRUE(IsFullDisk(status)) << status.ToString();
          undecided = i;
          break;
        }
        present[i] = false;
      }
      // Reads go on, whatever happened.
      EXPECT_OK(notes->Search("document"));
      EXPECT_OK(notes->GetByKey("key29"));
      EXPECT_TRUE(IsFullDisk(notes->Insert(Numbered(99)).status()));
    }
    disk.Unfill();
    ASSERT_OK_AND(const auto db, Database::Open(disk / "db", SmallOptions()));
    ASSERT_OK_AND(const auto notes, db->OpenCollection("notes"));
    if (undecided != SIZE_MAX) {
      present[undecided] = notes->GetByKey("key" + std::to_string(undecided)).ok();
    }
    ExpectAll(*notes, present);
    ASSERT_OK(notes->Insert(Numbered(40)));
    ASSERT_OK_AND(const VerifyReport report, db->Verify());
    EXPECT_TRUE(report.ok()) << report.problems[0];
  }
  EXPECT_GT(failures, 0) << "the disk was never full";
}

}  // namespace
}  // namespace msadb::db
