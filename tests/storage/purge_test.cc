// After a purge no byte of what was deleted is in any file of the folder.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "testing.h"

namespace msadb::storage {
namespace {

// Names of the files under `folder` that hold `marker`.
std::vector<std::string> FilesWith(const std::string& folder, const std::string& marker) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    std::stringstream content;
    content << in.rdbuf();
    if (content.str().find(marker) != std::string::npos) {
      found.push_back(entry.path().filename().string());
    }
  }
  return found;
}

constexpr size_t kMarkerBytes = 32;

struct Markers {
  std::string text, key, metadata, source, routing, blocks;
  std::vector<std::pair<const char*, const std::string*>> all() const {
    return {{"text", &text},     {"key", &key},         {"metadata", &metadata},
            {"source", &source}, {"routing", &routing}, {"blocks", &blocks}};
  }
};

// Random throughout, so that compression cannot hide a marker.
MadePart MarkedPart(std::mt19937_64& rng, Number number, Markers* markers) {
  MadePart part = MakePart(rng(), number, 20, {DataType::kBF16, 4, 0, 16});
  part.record.text = RandomBytes(rng, 300);
  part.record.text_bytes = 300;
  part.record.key = RandomBytes(rng, 64);
  part.record.metadata["m"] = RandomBytes(rng, 64);
  part.record.source = RandomBytes(rng, 64);
  markers->text = part.record.text.substr(100, kMarkerBytes);
  markers->key = part.record.key->substr(16, kMarkerBytes);
  markers->metadata = std::get<std::string>(part.record.metadata["m"]).substr(16, kMarkerBytes);
  markers->source = part.record.source.substr(16, kMarkerBytes);
  markers->routing = part.routing.substr(1000, kMarkerBytes);
  markers->blocks = part.blocks.substr(2000, kMarkerBytes);
  return part;
}

class PurgeTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    seed_ = TestSeed();
    rng_.seed(seed_);
    Open();
  }
  void Open() {
    StoreOptions options = SmallOptions();
    options.compress = GetParam();
    auto store = Store::Open(folder_ / "db", options);
    ASSERT_OK(store);
    store_ = *store;
  }
  Number PutMarked(CollectionId collection, Markers* markers) {
    const Number number = *store_->ReserveNumbers(collection, 1);
    WriteSet set = store_->NewWriteSet();
    EXPECT_OK(Put(set, collection, MarkedPart(rng_, number, markers)));
    EXPECT_OK(store_->Commit(std::move(set)));
    return number;
  }
  void ExpectGone(const Markers& markers) {
    for (const auto& [name, marker] : markers.all()) {
      const std::vector<std::string> files = FilesWith(folder_.path(), *marker);
      EXPECT_TRUE(files.empty()) << name << " is still in " << files[0];
    }
  }
  void ExpectThere(const Markers& markers) {
    for (const auto& [name, marker] : markers.all()) {
      EXPECT_FALSE(FilesWith(folder_.path(), *marker).empty()) << name;
    }
  }

  uint64_t seed_ = 0;
  std::mt19937_64 rng_;
  TempFolder folder_;
  std::shared_ptr<Store> store_;
};

INSTANTIATE_TEST_SUITE_P(Compression, PurgeTest, ::testing::Bool(),
                         [](const auto& info) { return std::string(info.param ? "On" : "Off"); });

TEST_P(PurgeTest, DeletedDocumentsLeaveNothing) {
  const CollectionId notes = *store_->CreateCollection("notes");
  // Deleted from the log, from young files, and from files that were compacted already.
  std::vector<Markers> markers(60);
  std::vector<Number> numbers;
  for (size_t i = 0; i < markers.size(); ++i) {
    numbers.push_back(PutMarked(notes, &markers[i]));
    if (i % 20 == 9) ASSERT_OK(store_->Verify());  // flushes
    if (i % 20 == 19) {
      ASSERT_OK(Delete(*store_, notes, numbers.back()));
      ASSERT_OK(store_->Purge());
    }
  }
  for (size_t i = 0; i < markers.size(); ++i) {
    if (i % 20 != 19) ExpectThere(markers[i]);
  }
  for (size_t i = 0; i < markers.size(); ++i) {
    if (i % 3 == 0 && i % 20 != 19) ASSERT_OK(Delete(*store_, notes, numbers[i]));
  }
  const auto report = store_->Purge();
  ASSERT_OK(report);
  EXPECT_TRUE(report->complete());
  EXPECT_LT(report->disk_bytes_after, report->disk_bytes_before);
  for (size_t i = 0; i < markers.size(); ++i) {
    const bool deleted = i % 3 == 0 || i % 20 == 19;
    deleted ? ExpectGone(markers[i]) : ExpectThere(markers[i]);
  }
  const auto verified = store_->Verify();
  ASSERT_OK(verified);
  EXPECT_TRUE(verified->ok()) << verified->damages[0].what;
}

TEST_P(PurgeTest, ADroppedCollectionLeavesNothingButItsNumber) {
  const std::string name = "kept-secret-" + RandomText(rng_, 40);
  const CollectionId secret = *store_->CreateCollection(name);
  const CollectionId other = *store_->CreateCollection("other");
  Markers dropped[5], kept;
  for (Markers& m : dropped) PutMarked(secret, &m);
  PutMarked(other, &kept);
  ASSERT_OK(store_->DropCollection(secret));
  ASSERT_OK(store_->Purge());
  for (const Markers& m : dropped) ExpectGone(m);
  ExpectThere(kept);
  EXPECT_TRUE(FilesWith(folder_.path(), name).empty());
}

TEST_P(PurgeTest, ReplacedSettingsLeaveNothing) {
  const std::string secret = RandomText(rng_, 64), path = RandomText(rng_, 64);
  ASSERT_OK(store_->SetModel("fingerprint", secret));
  WriteSet set = store_->NewWriteSet();
  ASSERT_OK(set.PutSetting("path", path));
  ASSERT_OK(store_->Commit(std::move(set)));
  EXPECT_FALSE(FilesWith(folder_.path(), secret).empty());
  ASSERT_OK(store_->SetModel("fingerprint", "public"));
  set = store_->NewWriteSet();
  ASSERT_OK(set.PutSetting("path", ""));
  ASSERT_OK(store_->Commit(std::move(set)));
  ASSERT_OK(store_->Purge());
  EXPECT_TRUE(FilesWith(folder_.path(), secret).empty());
  EXPECT_TRUE(FilesWith(folder_.path(), path).empty());
}

TEST_P(PurgeTest, SnapshotsRetainAndPurgeSaysSo) {
  const CollectionId notes = *store_->CreateCollection("notes");
  Markers first, second;
  const Number a = PutMarked(notes, &first);
  const Number b = PutMarked(notes, &second);
  ASSERT_OK(Delete(*store_, notes, a));
  auto taken = store_->TakeSnapshot();
  ASSERT_OK(taken);
  std::shared_ptr<const Snapshot> snapshot = *taken;
  taken = Status::Cancelled("");
  ASSERT_OK(Delete(*store_, notes, b));
  auto report = store_->Purge();
  ASSERT_OK(report);
  EXPECT_FALSE(report->complete());
  EXPECT_EQ(report->open_snapshots, 1u);
  EXPECT_GE(report->bytes_retained, 300u);
  ExpectGone(first);
  EXPECT_OK(store_->ReadPart(notes, b, snapshot.get()));
  snapshot.reset();
  report = store_->Purge();
  ASSERT_OK(report);
  EXPECT_TRUE(report->complete());
  ExpectGone(second);
}

TEST_P(PurgeTest, AnUnfinishedPurgeIsDoneAfterAReopen) {
  const CollectionId notes = *store_->CreateCollection("notes");
  Markers markers;
  const Number number = PutMarked(notes, &markers);
  ASSERT_OK(Delete(*store_, notes, number));
  store_.reset();
  Open();
  ASSERT_OK(store_->Purge());
  ExpectGone(markers);
}

TEST_P(PurgeTest, NothingDeletedNothingToDo) {
  const CollectionId notes = *store_->CreateCollection("notes");
  Markers markers;
  const Number number = PutMarked(notes, &markers);
  ASSERT_OK(Delete(*store_, notes, number));
  const uint64_t before = store_->Stats()->commits;
  ASSERT_OK(store_->Purge());
  EXPECT_EQ(store_->Stats()->commits, before + 1);  // notes that it is done
  ASSERT_OK(store_->Purge());
  EXPECT_EQ(store_->Stats()->commits, before + 1);
}

TEST_P(PurgeTest, AReadUnderWayRetainsAndPurgeSaysSo) {
  const CollectionId notes = *store_->CreateCollection("notes");
  Markers markers;
  const Number number = PutMarked(notes, &markers);
  PutMarked(notes, &markers);
  ASSERT_OK(store_->Verify());
  ASSERT_OK(store_->ScanParts(notes, 1, UINT64_MAX, [&](Number, PartRecord&&) {
    EXPECT_OK(Delete(*store_, notes, number));
    const auto report = store_->Purge();
    EXPECT_OK(report);
    EXPECT_FALSE(report->complete());
    return false;
  }));
  const auto report = store_->Purge();
  ASSERT_OK(report);
  EXPECT_TRUE(report->complete());
}

}  // namespace
}  // namespace msadb::storage
