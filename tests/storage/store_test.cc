// The store's contract, call by call.
#include "storage/store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <set>

#include "testing.h"

namespace msadb::storage {
namespace {

std::shared_ptr<Store> MustOpen(const std::string& folder, StoreOptions options = SmallOptions()) {
  auto store = Store::Open(folder, options);
  EXPECT_TRUE(store.ok()) << store.status().ToString();
  return store.ok() ? *store : nullptr;
}

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    store_ = MustOpen(folder_ / "db");
    ASSERT_NE(store_, nullptr);
    const auto id = store_->CreateCollection("notes");
    ASSERT_OK(id);
    notes_ = *id;
  }
  void Reopen(StoreOptions options = SmallOptions()) {
    store_.reset();
    store_ = MustOpen(folder_ / "db", options);
    ASSERT_NE(store_, nullptr);
  }

  TempFolder folder_;
  std::shared_ptr<Store> store_;
  CollectionId notes_ = 0;
};

// --- Opening ---

TEST(StoreOpen, CreatesAPrivateFolderAndReopensIt) {
  TempFolder folder;
  const std::string path = folder / "db";
  {
    const auto store = MustOpen(path);
    EXPECT_TRUE(store->created());
    EXPECT_OK(store->CreateCollection("a"));
  }
  struct stat info;
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  ASSERT_EQ(::stat((path + "/rocksdb").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  const auto store = MustOpen(path);
  EXPECT_FALSE(store->created());
  EXPECT_OK(store->FindCollection("a"));
}

TEST(StoreOpen, RefusesWhatItShould) {
  TempFolder folder;
  StoreOptions options = SmallOptions();
  options.create_if_missing = false;
  EXPECT_ERROR(Store::Open(folder / "none", options), kNotFound, "no msadb database");
  EXPECT_FALSE(std::filesystem::exists(folder / "none"));
  options.create_if_missing = true;
  EXPECT_ERROR(Store::Open(folder / "no/parent", options), kIOError, "no/parent");

  std::filesystem::create_directory(folder / "foreign");
  std::ofstream(folder / "foreign/thesis.tex") << "x";
  EXPECT_ERROR(Store::Open(folder / "foreign", options), kFailedPrecondition, "not msadb's");
  EXPECT_FALSE(std::filesystem::exists(folder / "foreign/LOCK"));

  std::ofstream(folder / "file") << "x";
  EXPECT_ERROR(Store::Open(folder / "file", options), kInvalidArgument, "not a folder");

  options.memory_bytes = 1000;
  EXPECT_ERROR(Store::Open(folder / "db", options), kInvalidArgument, "1 MiB");
  options = SmallOptions();
  options.read_only = true;
  EXPECT_ERROR(Store::Open(folder / "db", options), kNotFound, "");
  options.read_only = false;
  MustOpen(folder / "db", options);
  options.error_if_exists = true;
  EXPECT_ERROR(Store::Open(folder / "db", options), kAlreadyExists, "already");
}

TEST(StoreOpen, AnEmptyFolderWillDo) {
  TempFolder folder;
  EXPECT_NE(MustOpen(folder.path()), nullptr);
}

TEST(StoreOpen, OneOpenerAtATime) {
  TempFolder folder;
  auto store = MustOpen(folder / "db");
  EXPECT_ERROR(Store::Open(folder / "db", SmallOptions()), kUnavailable, "this process");
  StoreOptions read_only = SmallOptions();
  read_only.read_only = true;
  EXPECT_ERROR(Store::Open(folder / "db", read_only), kUnavailable, "this process");
  // Another process: looks and tells by its exit code. It opens nothing, so needs no threads.
  const pid_t child = ::fork();
  if (child == 0) {
    const auto other = Store::Open(folder / "db", SmallOptions());
    const bool refused =
        !other.ok() && other.status().code() == StatusCode::kUnavailable &&
        other.status().message().find(std::to_string(::getppid())) != std::string_view::npos;
    ::_exit(refused ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  store.reset();
  EXPECT_NE(MustOpen(folder / "db"), nullptr);
}

TEST(StoreOpen, ModelIdentity) {
  TempFolder folder;
  StoreOptions options = SmallOptions();
  options.fingerprint = "aaa";
  options.model_description = "Model A";
  {
    const auto store = MustOpen(folder / "db", options);
    EXPECT_EQ(store->fingerprint(), "aaa");
  }
  StoreOptions other = options;
  other.fingerprint = "bbb";
  other.model_description = "Model B";
  const auto refused = Store::Open(folder / "db", other);
  EXPECT_ERROR(refused, kFailedPrecondition, "aaa");
  EXPECT_ERROR(refused, kFailedPrecondition, "bbb");
  EXPECT_ERROR(refused, kFailedPrecondition, "Model A");
  EXPECT_ERROR(refused, kFailedPrecondition, "re-encode");
  {
    const auto store = MustOpen(folder / "db");  // of any model
    EXPECT_EQ(store->fingerprint(), "aaa");
    EXPECT_EQ(store->model_description(), "Model A");
    EXPECT_OK(store->CheckModel("aaa", "whatever"));
    EXPECT_OK(store->SetModel("bbb", "Model B"));
    EXPECT_OK(store->CheckModel("bbb", ""));
  }
  EXPECT_EQ(MustOpen(folder / "db", other)->model_description(), "Model B");
}

TEST(StoreOpen, NewerFormatIsRefusedByName) {
  TempFolder folder;
  MustOpen(folder / "db");
  std::ofstream(folder / "db/MSADB") << "msadb format 2\n";
  EXPECT_ERROR(Store::Open(folder / "db", SmallOptions()), kUnsupported, "version 2");
  for (const char* damaged : {"", "msadb format", "msadb format 1", "msadb format 1x\n",
                              "msadb format 0\n", "msadb format 99999999999999\n", "\x01\x02"}) {
    std::ofstream(folder / "db/MSADB") << damaged;
    EXPECT_ERROR(Store::Open(folder / "db", SmallOptions()), kCorruption, "MSADB");
  }
  std::ofstream(folder / "db/MSADB") << "msadb format 1\n";
  EXPECT_NE(MustOpen(folder / "db"), nullptr);
}

TEST(StoreOpen, AnUnfinishedCreationIsFinished) {
  // Whatever a kill during creation leaves: everything before the marker, cut anywhere.
  for (const char* gone : {"MSADB", "COMMITS", "rocksdb"}) {
    TempFolder folder;
    MustOpen(folder / "db");
    std::filesystem::remove(folder / "db/MSADB");
    std::filesystem::remove_all(folder / ("db/" + std::string(gone)));
    const auto store = MustOpen(folder / "db");
    ASSERT_NE(store, nullptr) << gone;
    EXPECT_OK(store->CreateCollection("a"));
  }
}

TEST(StoreOpen, NeverCreatesOverData) {
  TempFolder folder;
  {
    const auto store = MustOpen(folder / "db");
    const auto id = store->CreateCollection("a");
    ASSERT_OK(id);
    ASSERT_OK(Insert(*store, *id, 1));
    ASSERT_OK(store->Verify());  // flushes
  }
  std::filesystem::remove(folder / "db/MSADB");
  std::filesystem::remove(folder / "db/rocksdb/CURRENT");
  EXPECT_ERROR(Store::Open(folder / "db", SmallOptions()), kCorruption, "CURRENT");
}

TEST(StoreOpen, ReadOnly) {
  TempFolder folder;
  CollectionId id = 0;
  {
    const auto store = MustOpen(folder / "db");
    id = *store->CreateCollection("a");
    ASSERT_OK(Insert(*store, id, 1));
  }
  StoreOptions options = SmallOptions();
  options.read_only = true;
  const auto store = MustOpen(folder / "db", options);
  ASSERT_NE(store, nullptr);
  EXPECT_TRUE(store->read_only());
  EXPECT_EQ(store->ReadPart(id, 1)->text, MakePart(1, 1).record.text);
  const auto snapshot = store->TakeSnapshot();
  ASSERT_OK(snapshot);
  EXPECT_OK(store->ReadPart(id, 1, snapshot->get()));
  const auto report = store->Verify();
  ASSERT_OK(report);
  EXPECT_TRUE(report->ok());
  EXPECT_OK(store->Stats());
  EXPECT_ERROR(store->CreateCollection("b"), kFailedPrecondition, "read-only");
  EXPECT_ERROR(store->DropCollection(id), kFailedPrecondition, "read-only");
  EXPECT_ERROR(store->SetModel("a", "b"), kFailedPrecondition, "read-only");
  EXPECT_ERROR(store->Purge(), kFailedPrecondition, "read-only");
  EXPECT_ERROR(Insert(*store, id, 2), kFailedPrecondition, "read-only");
}

// --- Collections and settings ---

TEST_F(StoreTest, CollectionNames) {
  EXPECT_ERROR(store_->CreateCollection("notes"), kAlreadyExists, "notes");
  EXPECT_ERROR(store_->CreateCollection(""), kInvalidArgument, "1 to 128");
  EXPECT_OK(store_->CreateCollection(std::string(128, 'x')));
  EXPECT_ERROR(store_->CreateCollection(std::string(129, 'x')), kInvalidArgument, "129");
  EXPECT_ERROR(store_->CreateCollection("a/b"), kInvalidArgument, "'/'");
  EXPECT_ERROR(store_->CreateCollection("a\nb"), kInvalidArgument, "control");
  EXPECT_ERROR(store_->CreateCollection("a\xFF"), kInvalidArgument, "UTF-8");
  EXPECT_OK(store_->CreateCollection("日本語 é"));
  EXPECT_ERROR(store_->FindCollection("none"), kNotFound, "none");
}

TEST_F(StoreTest, DropTakesEverythingAndIdsAreNotReused) {
  ASSERT_OK(Insert(*store_, notes_, 1));
  const auto other = store_->CreateCollection("other");
  ASSERT_OK(other);
  ASSERT_OK(Insert(*store_, *other, 2));
  const auto before = store_->TakeSnapshot();
  ASSERT_OK(before);
  ASSERT_OK(store_->DropCollection(notes_));
  EXPECT_ERROR(store_->DropCollection(notes_), kNotFound, "");
  EXPECT_ERROR(store_->FindCollection("notes"), kNotFound, "notes");
  EXPECT_ERROR(store_->ReadPart(notes_, 1), kNotFound, "1");
  EXPECT_ERROR(Insert(*store_, notes_, 3), kNotFound, "");
  EXPECT_OK(store_->ReadPart(notes_, 1, before->get()));
  EXPECT_EQ(store_->GetCollection(notes_, before->get())->stats.documents, 1u);
  EXPECT_OK(store_->ReadPart(*other, 1));
  const auto again = store_->CreateCollection("notes");
  ASSERT_OK(again);
  EXPECT_NE(*again, notes_);
  EXPECT_ERROR(store_->ReadPart(*again, 1), kNotFound, "");
  EXPECT_EQ(*Insert(*store_, *again, 4), 1u);
}

TEST_F(StoreTest, AWriteSetOfADroppedCollectionIsRefused) {
  const Number number = *store_->ReserveNumbers(notes_, 1);
  WriteSet set = store_->NewWriteSet();
  ASSERT_OK(Put(set, notes_, MakePart(1, number)));
  ASSERT_OK(store_->DropCollection(notes_));
  EXPECT_ERROR(store_->Commit(std::move(set)), kNotFound, "dropped");
}

TEST_F(StoreTest, ListsInNameOrder) {
  ASSERT_OK(store_->CreateCollection("a"));
  ASSERT_OK(store_->CreateCollection("z"));
  Reopen();
  const auto list = store_->ListCollections();
  ASSERT_OK(list);
  ASSERT_EQ(list->size(), 3u);
  EXPECT_EQ((*list)[0].name, "a");
  EXPECT_EQ((*list)[1].name, "notes");
  EXPECT_EQ((*list)[2].name, "z");
  EXPECT_GT((*list)[0].created_us, 1'600'000'000'000'000);
}

TEST_F(StoreTest, Settings) {
  EXPECT_ERROR(store_->GetSetting("model.path"), kNotFound, "model.path");
  WriteSet set = store_->NewWriteSet();
  ASSERT_OK(set.PutSetting("model.path", "/a/b"));
  EXPECT_ERROR(set.PutSetting("Model", "x"), kInvalidArgument, "name");
  EXPECT_ERROR(set.PutSetting("", "x"), kInvalidArgument, "name");
  EXPECT_ERROR(set.PutSetting("a", std::string(65537, 'x')), kInvalidArgument, "64 KiB");
  ASSERT_OK(store_->Commit(std::move(set)));
  Reopen();
  EXPECT_EQ(*store_->GetSetting("model.path"), "/a/b");
  set = store_->NewWriteSet();
  ASSERT_OK(set.PutSetting("model.path", ""));
  ASSERT_OK(store_->Commit(std::move(set)));
  EXPECT_ERROR(store_->GetSetting("model.path"), kNotFound, "");
}

// --- Documents ---

TEST_F(StoreTest, WhatIsPutIsRead) {
  const Number number = *store_->ReserveNumbers(notes_, 1);
  MadePart part = MakePart(42, number, 3, {DataType::kF16, 4, 0, 64});
  part.record.key = "the key";
  part.record.metadata = {{"kind", std::string("note")}, {"n", int64_t{7}}};
  part.record.source = "test";
  part.record.expires_us = 1000;
  WriteSet set = store_->NewWriteSet();
  EXPECT_TRUE(set.empty());
  ASSERT_OK(Put(set, notes_, part));
  EXPECT_TRUE(set.inserts());
  EXPECT_GT(set.bytes(), part.blocks.size());
  EXPECT_ERROR(store_->ReadPart(notes_, number), kNotFound, "document 1 in collection 'notes'");
  ASSERT_OK(store_->Commit(std::move(set)));

  for (int round = 0; round < 3; ++round) {
    SCOPED_TRACE(round);  // from memory, from the log, from files
    const auto record = store_->ReadPart(notes_, number);
    ASSERT_OK(record);
    EXPECT_EQ(*record, part.record);
    EXPECT_EQ(*RoutingOf(*store_, notes_, number), part.routing);
    EXPECT_EQ(*BlocksOf(*store_, notes_, number), part.blocks);
    EXPECT_EQ(*store_->FindKey(notes_, "the key"), number);
    EXPECT_TRUE(*store_->HasPart(notes_, number));
    EXPECT_FALSE(*store_->HasPart(notes_, number + 1));
    EXPECT_ERROR(store_->FindKey(notes_, "other"), kNotFound, "key");
    TensorShape shape;
    ASSERT_OK(store_->ReadBlocks(notes_, number, [&](const TensorView& t) { shape = t.shape; }));
    EXPECT_EQ(shape, part.shape);
    const auto expired = store_->FindExpired(1000, 10);
    ASSERT_OK(expired);
    ASSERT_EQ(expired->size(), 1u);
    EXPECT_EQ((*expired)[0].number, number);
    EXPECT_TRUE(store_->FindExpired(999, 10)->empty());
    if (round == 0) Reopen();
    if (round == 1) ASSERT_OK(store_->Verify());
  }
  ASSERT_OK(Delete(*store_, notes_, number));
  EXPECT_ERROR(store_->ReadPart(notes_, number), kNotFound, "");
  EXPECT_ERROR(RoutingOf(*store_, notes_, number), kNotFound, "");
  EXPECT_ERROR(BlocksOf(*store_, notes_, number), kNotFound, "");
  EXPECT_ERROR(store_->FindKey(notes_, "the key"), kNotFound, "");
  EXPECT_TRUE(store_->FindExpired(INT64_MAX, 10)->empty());
  EXPECT_EQ(store_->FindCollection("notes")->stats, CollectionStats());
  EXPECT_TRUE(store_->Verify()->ok());
}

TEST_F(StoreTest, ADocumentOfSeveralParts) {
  const Number first = *store_->ReserveNumbers(notes_, 3);
  WriteSet set = store_->NewWriteSet();
  uint64_t offset = 0;
  for (uint32_t i = 0; i < 3; ++i) {
    MadePart part = MakePart(i, first);
    part.record.part_index = i;
    part.record.part_count = 3;
    part.record.text_offset = offset;
    if (i == 0) part.record.key = "long";
    offset += part.record.text.size();
    ASSERT_OK(Put(set, notes_, part));
  }
  ASSERT_OK(store_->Commit(std::move(set)));
  const CollectionStats stats = store_->FindCollection("notes")->stats;
  EXPECT_EQ(stats.documents, 1u);
  EXPECT_EQ(stats.parts, 3u);
  EXPECT_EQ(stats.text_bytes, offset);
  EXPECT_EQ(stats.chunks, 6u);
  EXPECT_TRUE(store_->Verify()->ok());
}

TEST_F(StoreTest, UpsertInOneCommitMovesTheKey) {
  MadePart part = MakePart(1, *store_->ReserveNumbers(notes_, 1));
  part.record.key = "k";
  WriteSet set = store_->NewWriteSet();
  ASSERT_OK(Put(set, notes_, part));
  ASSERT_OK(store_->Commit(std::move(set)));
  set = store_->NewWriteSet();
  MadePart next = MakePart(2, *store_->ReserveNumbers(notes_, 1));
  next.record.key = "k";
  ASSERT_OK(set.DeletePart(notes_, 1, *store_->ReadPart(notes_, 1, nullptr, PartFields::kNoText)));
  ASSERT_OK(Put(set, notes_, next));
  ASSERT_OK(store_->Commit(std::move(set)));
  EXPECT_EQ(*store_->FindKey(notes_, "k"), 2u);
  EXPECT_EQ(store_->FindCollection("notes")->stats.documents, 1u);
  EXPECT_TRUE(store_->Verify()->ok());
}

TEST_F(StoreTest, MalformedPartsAreRefusedAndLeaveTheSetAsItWas) {
  const Number number = *store_->ReserveNumbers(notes_, 1);
  const MadePart good = MakePart(1, number);
  WriteSet set = store_->NewWriteSet();
  const auto refused = [&](auto change, const char* why) {
    MadePart part = good;
    Number at = number;
    change(part, at);
    const size_t before = set.bytes();
    EXPECT_ERROR(set.PutPart(notes_, at, part.record, part.routing_view(), part.blocks_view()),
                 kInvalidArgument, why);
    EXPECT_EQ(set.bytes(), before);
  };
  refused([](MadePart& p, Number&) { p.routing.pop_back(); }, "routing keys");
  refused([](MadePart& p, Number&) { p.blocks += "x"; }, "content blocks");
  refused([](MadePart& p, Number&) { p.record.chunk_count += 1; }, "chunks");
  refused([](MadePart& p, Number&) { p.shape.dim = 0; }, "0");
  refused([](MadePart&, Number& at) { at += 1; }, "first_number");
  refused([](MadePart&, Number& at) { at = 0; }, "first_number");
  EXPECT_TRUE(set.empty());
  ASSERT_OK(store_->Commit(std::move(set)));
  EXPECT_ERROR(store_->Commit(std::move(set)), kInvalidArgument, "already");
  EXPECT_ERROR(Put(set, notes_, good), kInvalidArgument, "already");
}

TEST_F(StoreTest, OnlyReservedNumbersAndOnlyWhatIsThere) {
  WriteSet set = store_->NewWriteSet();
  ASSERT_OK(Put(set, notes_, MakePart(1, 5)));
  EXPECT_ERROR(store_->Commit(std::move(set)), kInvalidArgument, "not reserved");
  ASSERT_OK(Insert(*store_, notes_, 1));
  const PartRecord record = *store_->ReadPart(notes_, 1);
  for (int twice = 0; twice < 2; ++twice) {
    set = store_->NewWriteSet();
    ASSERT_OK(set.DeletePart(notes_, 1, record));
    const Status s = store_->Commit(std::move(set));
    EXPECT_EQ(s.code(), twice == 0 ? StatusCode::kOk : StatusCode::kInternal) << s.ToString();
  }
  set = store_->NewWriteSet();
  EXPECT_ERROR(set.DeletePart(notes_, 2, record), kInvalidArgument, "part 2");
}

TEST_F(StoreTest, NumbersAreNeverReused) {
  ASSERT_OK(Insert(*store_, notes_, 1));
  ASSERT_OK(Insert(*store_, notes_, 2));
  ASSERT_OK(Delete(*store_, notes_, 2));
  Reopen();
  EXPECT_EQ(*store_->ReserveNumbers(notes_, 1), 3u);
  WriteSet set = store_->NewWriteSet();
  ASSERT_OK(set.RaiseNextNumber(notes_, 100));
  ASSERT_OK(set.RaiseNextNumber(notes_, 50));
  ASSERT_OK(store_->Commit(std::move(set)));
  EXPECT_EQ(*store_->ReserveNumbers(notes_, 10), 100u);
  EXPECT_EQ(*store_->ReserveNumbers(notes_, 1), 110u);
  EXPECT_ERROR(store_->ReserveNumbers(notes_, 0), kInvalidArgument, "");
  EXPECT_ERROR(store_->ReserveNumbers(99, 1), kNotFound, "");
  Reopen();
  EXPECT_EQ(*store_->ReserveNumbers(notes_, 1), 100u);
}

TEST_F(StoreTest, WriteSetsBelongToTheirStore) {
  TempFolder other_folder;
  const auto other = MustOpen(other_folder / "db");
  EXPECT_ERROR(other->Commit([&] {
    WriteSet set = store_->NewWriteSet();
    EXPECT_OK(set.PutSetting("a", "b"));
    return set;
  }()),
               kInvalidArgument, "another store");
}

TEST_F(StoreTest, SnapshotsAreFrozen) {
  ASSERT_OK(Insert(*store_, notes_, 1));
  const auto before = store_->TakeSnapshot();
  ASSERT_OK(before);
  ASSERT_OK(Insert(*store_, notes_, 2));
  ASSERT_OK(Delete(*store_, notes_, 1));
  const auto after = store_->TakeSnapshot();
  ASSERT_OK(after);
  EXPECT_EQ((*after)->commit(), (*before)->commit() + 2);
  EXPECT_OK(store_->ReadPart(notes_, 1, before->get()));
  EXPECT_EQ(*BlocksOf(*store_, notes_, 1, before->get()), MakePart(1, 1).blocks);
  EXPECT_ERROR(store_->ReadPart(notes_, 2, before->get()), kNotFound, "");
  EXPECT_ERROR(store_->ReadPart(notes_, 1, after->get()), kNotFound, "");
  EXPECT_EQ(store_->GetCollection(notes_, before->get())->stats.documents, 1u);
  EXPECT_EQ(store_->GetCollection(notes_, before->get())->next_number, 2u);
  EXPECT_EQ(store_->Stats()->open_snapshots, 2u);
}

TEST_F(StoreTest, ASnapshotKeepsTheStoreOpen) {
  ASSERT_OK(Insert(*store_, notes_, 1));
  auto snapshot = store_->TakeSnapshot();
  ASSERT_OK(snapshot);
  std::shared_ptr<const Snapshot> held = *snapshot;
  snapshot = Status::Cancelled("");
  store_.reset();
  EXPECT_ERROR(Store::Open(folder_ / "db", SmallOptions()), kUnavailable, "");
  held.reset();
  EXPECT_NE(MustOpen(folder_ / "db"), nullptr);
}

TEST_F(StoreTest, Scans) {
  const auto other = store_->CreateCollection("other");
  ASSERT_OK(other);
  for (int i = 1; i <= 20; ++i) ASSERT_OK(Insert(*store_, notes_, i));
  ASSERT_OK(Insert(*store_, *other, 1));
  ASSERT_OK(Delete(*store_, notes_, 7));
  for (const bool flushed : {false, true}) {
    if (flushed) ASSERT_OK(store_->Verify());
    std::vector<Number> seen;
    ASSERT_OK(store_->ScanParts(notes_, 5, 12, [&](Number n, PartRecord&& record) {
      EXPECT_EQ(record.text, MakePart(n, n).record.text);
      seen.push_back(n);
      return true;
    }));
    EXPECT_EQ(seen, (std::vector<Number>{5, 6, 8, 9, 10, 11, 12}));
    seen.clear();
    ASSERT_OK(store_->ScanParts(
        notes_, 18, UINT64_MAX,
        [&](Number n, PartRecord&& record) {
          EXPECT_TRUE(record.text.empty());
          seen.push_back(n);
          return true;
        },
        nullptr, PartFields::kNoText));
    EXPECT_EQ(seen, (std::vector<Number>{18, 19, 20}));
    seen.clear();
    ASSERT_OK(store_->ScanRouting(notes_, 0, UINT64_MAX, [&](Number n, const TensorView& t) {
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size()),
                MakePart(n, n).routing);
      seen.push_back(n);
      return seen.size() < 3;
    }));
    EXPECT_EQ(seen, (std::vector<Number>{1, 2, 3}));
    ASSERT_OK(store_->ScanParts(notes_, 9, 8, [](Number, PartRecord&&) {
      ADD_FAILURE();
      return true;
    }));
  }
}

TEST_F(StoreTest, ExpiryAcrossCollections) {
  const auto other = store_->CreateCollection("other");
  ASSERT_OK(other);
  for (const CollectionId collection : {notes_, *other}) {
    for (const int64_t time : {-10, 5, 30}) {
      MadePart part = MakePart(1, *store_->ReserveNumbers(collection, 1));
      part.record.expires_us = time;
      WriteSet set = store_->NewWriteSet();
      ASSERT_OK(Put(set, collection, part));
      ASSERT_OK(store_->Commit(std::move(set)));
    }
  }
  EXPECT_EQ(store_->FindExpired(-11, 10)->size(), 0u);
  EXPECT_EQ(store_->FindExpired(5, 10)->size(), 4u);
  EXPECT_EQ(store_->FindExpired(5, 3)->size(), 3u);
  EXPECT_EQ(store_->FindExpired(INT64_MAX, 10)->size(), 6u);
  ASSERT_OK(store_->DropCollection(notes_));
  const auto rest = store_->FindExpired(INT64_MAX, 10);
  ASSERT_EQ(rest->size(), 3u);
  EXPECT_EQ((*rest)[0].collection, *other);
}

TEST_F(StoreTest, HeadroomRefusesInsertsButNotDeletes) {
  ASSERT_OK(Insert(*store_, notes_, 1));
  StoreOptions options = SmallOptions();
  options.disk_headroom_bytes = uint64_t{1} << 62;
  Reopen(options);
  EXPECT_ERROR(Insert(*store_, notes_, 2), kResourceExhausted, "nearly full");
  EXPECT_ERROR(store_->CreateCollection("x"), kResourceExhausted, "nearly full");
  EXPECT_OK(store_->ReadPart(notes_, 1));
  EXPECT_OK(Delete(*store_, notes_, 1));
  EXPECT_OK(store_->Purge());
  EXPECT_OK(store_->write_status());
  Reopen();
  EXPECT_EQ(*Insert(*store_, notes_, 2), 2u);
}

TEST_F(StoreTest, BufferedCommitsSurviveAClose) {
  StoreOptions options = SmallOptions();
  options.durability = CommitDurability::kBuffered;
  Reopen(options);
  ASSERT_OK(Insert(*store_, notes_, 1));
  ASSERT_OK(store_->Sync());
  ASSERT_OK(Insert(*store_, notes_, 2));
  Reopen(options);
  EXPECT_OK(store_->ReadPart(notes_, 2));
}

TEST_F(StoreTest, ACutOffLogIsNoticed) {
  for (int i = 0; i < 5; ++i) ASSERT_OK(Insert(*store_, notes_, i));
  store_.reset();
  std::filesystem::path log;
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "db/rocksdb")) {
    if (entry.path().extension() == ".log" && entry.file_size() > 0) log = entry.path();
  }
  ASSERT_FALSE(log.empty());
  // Cut right behind a record or inside one: RocksDB takes either for a log that ends there.
  std::filesystem::resize_file(log, std::filesystem::file_size(log) - 10);
  EXPECT_ERROR(Store::Open(folder_ / "db", SmallOptions()), kCorruption, "commits 7 to 7");
  EXPECT_ERROR(Store::Open(folder_ / "db", SmallOptions()), kCorruption, "COMMITS");
  std::filesystem::remove(folder_ / "db/COMMITS");
  const auto store = MustOpen(folder_ / "db");
  EXPECT_OK(store->ReadPart(notes_, 4));
  EXPECT_ERROR(store->ReadPart(notes_, 5), kNotFound, "");
  const auto report = store->Verify();
  ASSERT_OK(report);
  ASSERT_EQ(report->damages.size(), 1u);
  EXPECT_NE(report->damages[0].what.find("COMMITS is missing"), std::string::npos);
}

TEST_F(StoreTest, StatsAddUp) {
  for (int i = 0; i < 50; ++i) ASSERT_OK(Insert(*store_, notes_, i, 200));
  ASSERT_OK(store_->Verify());
  const auto stats = store_->Stats();
  ASSERT_OK(stats);
  EXPECT_EQ(stats->commits, 2u + 50u);
  uint64_t blob_bytes = 0, sst_bytes = 0;
  for (const ColumnFamilyStats& cf : stats->column_families) {
    blob_bytes += cf.blob_bytes;
    sst_bytes += cf.sst_bytes;
  }
  const CollectionStats notes = store_->FindCollection("notes")->stats;
  EXPECT_EQ(notes.blocks_bytes, 50u * 200 * 2 * 2 * 8 * 2);
  EXPECT_GT(blob_bytes, notes.blocks_bytes);
  EXPECT_GT(sst_bytes, notes.routing_bytes);
  EXPECT_GT(stats->disk_bytes, blob_bytes + sst_bytes);
  EXPECT_GT(stats->free_disk_bytes, 0u);
}

}  // namespace
}  // namespace msadb::storage
