// Verify finds what does not fit together, even where every checksum is right. The contradictions
// are made behind the store's back, with RocksDB alone.
#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <functional>
#include <memory>

#include "storage/codec.h"
#include "testing.h"

namespace msadb::storage {
namespace {

rocksdb::Slice SliceOf(std::string_view v) { return {v.data(), v.size()}; }

class VerifyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto store = Store::Open(folder_ / "db", SmallOptions());
    ASSERT_OK(store);
    notes_ = *(*store)->CreateCollection("notes");
    const Number first = *(*store)->ReserveNumbers(notes_, 4);
    WriteSet set = (*store)->NewWriteSet();
    for (Number n = first; n < first + 2; ++n) {
      MadePart part = MakePart(n, n, 40, {DataType::kBF16, 4, 0, 32});
      part.record.key = "key " + std::to_string(n);
      part.record.expires_us = 100;
      ASSERT_OK(Put(set, notes_, part));
    }
    uint64_t offset = 0;
    for (uint32_t i = 0; i < 2; ++i) {
      MadePart part = MakePart(i, first + 2);
      part.record.part_index = i;
      part.record.part_count = 2;
      part.record.text_offset = offset;
      offset += part.record.text.size();
      ASSERT_OK(Put(set, notes_, part));
    }
    ASSERT_OK((*store)->Commit(std::move(set)));
    const auto report = (*store)->Verify();
    ASSERT_OK(report);
    ASSERT_TRUE(report->ok()) << report->damages[0].what;
    EXPECT_EQ(report->parts_checked, 4u);
    EXPECT_GT(report->bytes_checked, 2u * 40 * 4 * 2 * 32 * 2);
  }

  // Opens the files with plain RocksDB and lets `change` alter them.
  using Handles = std::vector<rocksdb::ColumnFamilyHandle*>;
  void Tamper(const std::function<void(rocksdb::DB&, const Handles&)>& change) {
    rocksdb::Options options;
    options.create_if_missing = false;
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (size_t i = 0; i < kFamilyCount; ++i) {
      families.emplace_back(FamilyRocksdbName(static_cast<Family>(i)),
                            rocksdb::ColumnFamilyOptions());
    }
    Handles handles;
    rocksdb::DB* db = nullptr;
    const rocksdb::Status s =
        rocksdb::DB::Open(options, folder_ / "db/rocksdb", families, &handles, &db);
    ASSERT_TRUE(s.ok()) << s.ToString();
    const std::unique_ptr<rocksdb::DB> owner(db);
    change(*db, handles);
    for (rocksdb::ColumnFamilyHandle* handle : handles) (void)db->DestroyColumnFamilyHandle(handle);
  }

  void TamperDelete(Family family, const KeyBytes& key) {
    Tamper([&](rocksdb::DB& db, const Handles& handles) {
      ASSERT_TRUE(db.Delete(rocksdb::WriteOptions(), handles[static_cast<size_t>(family)],
                            SliceOf(key.view()))
                      .ok());
    });
  }
  void TamperPut(Family family, const KeyBytes& key, const std::string& value) {
    Tamper([&](rocksdb::DB& db, const Handles& handles) {
      ASSERT_TRUE(db.Put(rocksdb::WriteOptions(), handles[static_cast<size_t>(family)],
                         SliceOf(key.view()), value)
                      .ok());
    });
  }
  std::string Raw(Family family, const KeyBytes& key) {
    std::string value;
    Tamper([&](rocksdb::DB& db, const Handles& handles) {
      ASSERT_TRUE(db.Get(rocksdb::ReadOptions(), handles[static_cast<size_t>(family)],
                         SliceOf(key.view()), &value)
                      .ok());
    });
    return value;
  }

  // Each expected text is found in some damage of the given part.
  void ExpectDamages(const std::vector<std::pair<Number, std::string>>& expected) {
    const auto store = Store::Open(folder_ / "db", SmallOptions());
    ASSERT_OK(store);
    const auto report = (*store)->Verify();
    ASSERT_OK(report);
    std::string all;
    for (const Damage& d : report->damages) {
      all += "\n  " + std::to_string(d.collection) + "/" + std::to_string(d.number) + ": " + d.what;
    }
    EXPECT_EQ(report->damages_total, report->damages.size());
    for (const auto& [number, text] : expected) {
      const bool found = std::any_of(report->damages.begin(), report->damages.end(),
                                     [&, n = number, t = text](const Damage& d) {
                                       return d.number == n && d.what.find(t) != std::string::npos;
                                     });
      EXPECT_TRUE(found) << number << ": " << text << " is not among:" << all;
    }
  }

  TempFolder folder_;
  CollectionId notes_ = 0;
};

TEST_F(VerifyTest, MissingRecord) {
  TamperDelete(Family::kDocuments, PartKey(notes_, 1));
  ExpectDamages({{1, "there are routing but no record of document 1 in collection 'notes'"},
                 {1, "there are blocks but no record"},
                 {1, "a key leads to document 1"},
                 {1, "an expiry entry names document 1"}});
}

TEST_F(VerifyTest, MissingTensors) {
  TamperDelete(Family::kRouting, PartKey(notes_, 1));
  TamperDelete(Family::kBlocks, PartKey(notes_, 4));
  ExpectDamages({{1, "the routing of document 1 in collection 'notes' are missing"},
                 {4, "the blocks of document 4 in collection 'notes' are missing"}});
}

TEST_F(VerifyTest, MissingKeyAndExpiry) {
  TamperDelete(Family::kKeys, UserKeyHash(notes_, "key 1"));
  TamperDelete(Family::kExpiry, ExpiryKey(notes_, 100, 2));
  ExpectDamages({{1, "the key of document 1"}, {2, "the expiry entry of document 2"}});
}

TEST_F(VerifyTest, StrayKeyAndExpiry) {
  const KeyBytes key = UserKeyHash(notes_, "nobody's");
  std::string target;
  PutFixed64(&target, 2);
  TamperPut(Family::kKeys, key, Seal(Family::kKeys, key.view(), target));
  const KeyBytes expiry = ExpiryKey(notes_, 7, 2);
  TamperPut(Family::kExpiry, expiry, Seal(Family::kExpiry, expiry.view(), {}));
  ExpectDamages({{2, "which has another key"}, {2, "another time than its record"}});
}

TEST_F(VerifyTest, MissingPartOfADocument) {
  for (const Family f : {Family::kDocuments, Family::kRouting, Family::kBlocks}) {
    TamperDelete(f, PartKey(notes_, 4));
  }
  ExpectDamages({{4, "the parts of document 3 in collection 'notes' after number 3 are missing"}});
}

TEST_F(VerifyTest, MissingFirstPart) {
  for (const Family f : {Family::kDocuments, Family::kRouting, Family::kBlocks}) {
    TamperDelete(f, PartKey(notes_, 3));
  }
  ExpectDamages({{4, "does not continue the part before it"}});
}

TEST_F(VerifyTest, ValueOfAnotherDocument) {
  // Right in itself, under the wrong key: as if two blocks of the disk had changed places.
  for (const Family f : {Family::kDocuments, Family::kRouting, Family::kBlocks}) {
    TamperPut(f, PartKey(notes_, 1), Raw(f, PartKey(notes_, 2)));
  }
  ExpectDamages({{1, "the record of document 1 in collection 'notes' fails its checksum"},
                 {1, "the routing of document 1 in collection 'notes' fail their checksum"},
                 {1, "the blocks of document 1 in collection 'notes' fail their checksum"}});
  const auto store = Store::Open(folder_ / "db", SmallOptions());
  ASSERT_OK(store);
  EXPECT_ERROR((*store)->ReadPart(notes_, 1), kCorruption, "document 1 in collection 'notes'");
  EXPECT_ERROR(RoutingOf(**store, notes_, 1), kCorruption, "document 1 in collection 'notes'");
  EXPECT_ERROR(BlocksOf(**store, notes_, 1), kCorruption, "document 1 in collection 'notes'");
  EXPECT_ERROR((*store)->ScanRouting(notes_, 1, 9, [](Number, const TensorView&) { return true; }),
               kCorruption, "document 1 in collection 'notes'");
  EXPECT_ERROR((*store)->ScanParts(notes_, 1, 9, [](Number, PartRecord&&) { return true; }),
               kCorruption, "document 1 in collection 'notes'");
  EXPECT_ERROR((*store)->FindKey(notes_, "key 1"), kCorruption, "document 1");
  EXPECT_OK((*store)->ReadPart(notes_, 2));
}

TEST_F(VerifyTest, TensorOfAnotherSize) {
  const MadePart part = MakePart(9, 1, 3);
  const auto header = TensorHeader(Family::kRouting, part.shape);
  const KeyBytes key = PartKey(notes_, 1);
  TamperPut(
      Family::kRouting, key,
      Seal(Family::kRouting, key.view(), std::string(header.data(), header.size()) + part.routing));
  ExpectDamages({{1, "another size than the record says"}});
}

TEST_F(VerifyTest, WrongStatistics) {
  const KeyBytes key = CollectionStatsKey(notes_);
  std::string payload;
  for (const uint64_t v : {5, 3, 4, 1, 1, 1, 1, 1}) PutFixed64(&payload, v);
  TamperPut(Family::kMeta, key, Seal(Family::kMeta, key.view(), payload));
  ExpectDamages({{0, "the statistics of collection 'notes' differ"}});
}

TEST_F(VerifyTest, DocumentsOfNoCollection) {
  const MadePart part = MakePart(9, 1);
  const KeyBytes key = PartKey(77, 1);
  TamperPut(Family::kDocuments, key,
            Seal(Family::kDocuments, key.view(), *EncodePartRecord(part.record)));
  ExpectDamages({{0, "collection 77, which does not exist"}});
}

TEST_F(VerifyTest, DamagedMeta) {
  const KeyBytes key = CountersKey();
  std::string value = Raw(Family::kMeta, key);
  value.back() ^= 1;
  TamperPut(Family::kMeta, key, value);
  EXPECT_ERROR(Store::Open(folder_ / "db", SmallOptions()), kCorruption, "checksum");
}

TEST_F(VerifyTest, StopsAndReportsProgress) {
  const auto store = Store::Open(folder_ / "db", SmallOptions());
  ASSERT_OK(store);
  const CollectionId big = *(*store)->CreateCollection("big");
  for (int i = 0; i < 20; ++i) ASSERT_OK(Insert(**store, big, i, 2000));
  StoreVerifyOptions options;
  uint64_t last = 0;
  int calls = 0;
  options.on_progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GE(done, last);
    EXPECT_LE(done, total);
    last = done;
    ++calls;
    return true;
  };
  ASSERT_OK((*store)->Verify(options));
  EXPECT_GT(calls, 1);
  options.on_progress = [](uint64_t, uint64_t) { return false; };
  EXPECT_ERROR((*store)->Verify(options), kCancelled, "stopped");
}

TEST_F(VerifyTest, ListsAreBoundedButCountsAreNot) {
  for (const Number n : {1, 2, 3, 4}) TamperDelete(Family::kDocuments, PartKey(notes_, n));
  const auto store = Store::Open(folder_ / "db", SmallOptions());
  ASSERT_OK(store);
  StoreVerifyOptions options;
  options.damages_max = 2;
  const auto report = (*store)->Verify(options);
  ASSERT_OK(report);
  EXPECT_EQ(report->damages.size(), 2u);
  EXPECT_GE(report->damages_total, 8u);
}

}  // namespace
}  // namespace msadb::storage
