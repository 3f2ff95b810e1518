// Really full disks: small file systems in memory. Needs the right to mount; skips visibly without.
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>

#include "../storage/testing.h"
#include "workload.h"

namespace msadb::storage {
namespace {

// A file system of its own in memory, unmounted with the object.
class SmallDisk {
 public:
  explicit SmallDisk(size_t bytes) {
    mounted_ = ::mount("msadb_test", folder_.path().c_str(), "tmpfs", 0, Size(bytes).c_str()) == 0;
    error_ = errno;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(folder_.path().c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  int error() const { return error_; }
  bool Resize(size_t bytes) {
    return ::mount("msadb_test", folder_.path().c_str(), "tmpfs", MS_REMOUNT,
                   Size(bytes).c_str()) == 0;
  }
  std::string operator/(const std::string& name) const { return folder_ / name; }

 private:
  static std::string Size(size_t bytes) { return "size=" + std::to_string(bytes); }
  TempFolder folder_;
  bool mounted_ = false;
  int error_ = 0;
};

#define MOUNT_OR_SKIP(disk)                                                               \
  if (!(disk).mounted()) {                                                                \
    GTEST_SKIP() << "cannot mount a file system here: " << std::strerror((disk).error()); \
  }

constexpr size_t kMebibyte = 1u << 20;

TEST(StorageDiskFull, WithoutHeadroomAnErrorAndNothingLost) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 rng(seed);
  const size_t disks = Scaled(15);
  size_t opens_failed = 0;
  for (size_t i = 0; i < disks; ++i) {
    const size_t bytes = 64 * 1024 + rng() % (6 * kMebibyte);
    SCOPED_TRACE("seed " + std::to_string(seed) + ", disk " + std::to_string(i) + " of " +
                 std::to_string(bytes) + " bytes");
    SmallDisk disk(bytes);
    MOUNT_OR_SKIP(disk);
    Workload workload(rng());
    {
      const auto store = Store::Open(disk / "db", SmallOptions());
      if (!store.ok()) {
        EXPECT_EQ(store.status().code(), StatusCode::kResourceExhausted)
            << store.status().ToString();
        ++opens_failed;
      } else {
        // A workload's size is bounded, so fill the disk beside it as well.
        const auto filler = (*store)->CreateCollection("filler");
        Status status = filler.status();
        while (status.ok()) {
          status = Insert(**store, *filler, rng(), 300).status();
        }
        EXPECT_TRUE(status.code() == StatusCode::kResourceExhausted ||
                    status.code() == StatusCode::kUnavailable)
            << status.ToString();
        if (filler.ok()) {
          EXPECT_OK((*store)->ScanParts(*filler, 1, UINT64_MAX,
                                        [](Number, PartRecord&&) { return true; }));
        }
      }
    }
    ASSERT_TRUE(disk.Resize(64 * kMebibyte));
    const auto store = Store::Open(disk / "db", SmallOptions());
    ASSERT_OK(store);
    const auto report = (*store)->Verify();
    ASSERT_OK(report);
    ASSERT_TRUE(report->ok()) << report->damages[0].what;
    const auto filler = (*store)->FindCollection("filler");
    if (filler.ok()) EXPECT_OK((*store)->DropCollection(filler->id));
    for (int step = 0; step < 10; ++step) ASSERT_OK(workload.Step(**store));
    ASSERT_TRUE(Compare(**store, workload.state()).exact());
  }
  std::cout << disks << " disks, " << opens_failed << " too small to open\n";
}

TEST(StorageDiskFull, WithHeadroomDeletesAndPurgeMakeRoomAgain) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 rng(seed);
  for (size_t i = 0; i < Scaled(3); ++i) {
    const size_t bytes = (14 + rng() % 8) * kMebibyte;
    SCOPED_TRACE("seed " + std::to_string(seed) + ", disk of " + std::to_string(bytes));
    SmallDisk disk(bytes);
    MOUNT_OR_SKIP(disk);
    StoreOptions options = SmallOptions();
    options.disk_headroom_bytes = 6 * kMebibyte;
    const auto store = Store::Open(disk / "db", options);
    ASSERT_OK(store);
    const CollectionId notes = *(*store)->CreateCollection("notes");
    std::vector<Number> numbers;
    for (int cycle = 0; cycle < 3; ++cycle) {
      while (true) {
        const auto number = Insert(**store, notes, 7, 500);
        if (!number.ok()) {
          EXPECT_ERROR(number, kResourceExhausted, "nearly full");
          break;
        }
        numbers.push_back(*number);
      }
      // Refused, not failed: nothing stopped.
      ASSERT_OK((*store)->write_status());
      ASSERT_GT(numbers.size(), 10u);
      for (const Number n : numbers) {
        ASSERT_EQ(*BlocksOf(**store, notes, n), MakePart(7, n, 500).blocks);
      }
      while (numbers.size() > 5) {
        ASSERT_OK(Delete(**store, notes, numbers.back()));
        numbers.pop_back();
      }
      const auto purged = (*store)->Purge();
      ASSERT_OK(purged);
      EXPECT_TRUE(purged->complete());
    }
    EXPECT_OK(Insert(**store, notes, 8, 500));
    EXPECT_TRUE((*store)->Verify()->ok());
  }
}

}  // namespace
}  // namespace msadb::storage
