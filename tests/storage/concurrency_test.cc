// Writers, readers, purge and verify at once. Every commit moves one unit between two documents'
// worth of state, so that any reader who saw half a commit would notice.
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <thread>

#include "testing.h"

namespace msadb::storage {
namespace {

// Each collection holds documents in pairs that are always replaced together, with the same
// content.
TEST(StoreConcurrency, ReadersSeeWholeCommitsInOrder) {
  const uint64_t seed = TestSeed();
  TempFolder folder;
  const auto opened = Store::Open(folder / "db", SmallOptions());
  ASSERT_OK(opened);
  const std::shared_ptr<Store> store = *opened;
  constexpr int kWriters = 3;
  const size_t rounds = Scaled(60);
  std::vector<CollectionId> collections;
  for (int w = 0; w < kWriters; ++w) {
    collections.push_back(*store->CreateCollection("c" + std::to_string(w)));
  }
  std::atomic<int> writing{kWriters};
  std::vector<std::thread> threads;
  for (int w = 0; w < kWriters; ++w) {
    threads.emplace_back([&, w] {
      const CollectionId collection = collections[w];
      Number old_pair = 0;
      for (size_t round = 1; round <= rounds; ++round) {
        const auto first = store->ReserveNumbers(collection, 2);
        ASSERT_OK(first);
        WriteSet set = store->NewWriteSet();
        for (Number n = old_pair; old_pair != 0 && n < old_pair + 2; ++n) {
          ASSERT_OK(set.DeletePart(collection, n, *store->ReadPart(collection, n)));
        }
        for (Number n = *first; n < *first + 2; ++n) {
          MadePart part = MakePart(round, n, 60);
          if (n == *first) part.record.key = "pair";
          ASSERT_OK(Put(set, collection, part));
        }
        ASSERT_OK(store->Commit(std::move(set)));
        old_pair = *first;
      }
      --writing;
    });
  }
  for (int r = 0; r < 4; ++r) {
    threads.emplace_back([&, r] {
      std::mt19937_64 rng(seed + r);
      uint64_t last_commit = 0;
      std::vector<Number> last_pair(kWriters, 0);
      while (writing > 0) {
        const auto snapshot = store->TakeSnapshot();
        ASSERT_OK(snapshot);
        ASSERT_GE((*snapshot)->commit(), last_commit);
        last_commit = (*snapshot)->commit();
        const int w = static_cast<int>(rng() % kWriters);
        const CollectionId collection = collections[w];
        std::vector<std::pair<Number, std::string>> seen;
        ASSERT_OK(store->ScanParts(
            collection, 1, UINT64_MAX,
            [&](Number n, PartRecord&& record) {
              seen.emplace_back(n, std::move(record.text));
              return true;
            },
            snapshot->get()));
        const auto info = store->GetCollection(collection, snapshot->get());
        ASSERT_OK(info);
        ASSERT_EQ(info->stats.documents, seen.size());
        const auto key = store->FindKey(collection, "pair", snapshot->get());
        if (seen.empty()) {
          ASSERT_EQ(key.status().code(), StatusCode::kNotFound);
          continue;
        }
        ASSERT_EQ(seen.size(), 2u);
        ASSERT_EQ(seen[0].second, seen[1].second);
        ASSERT_EQ(seen[0].first + 1, seen[1].first);
        ASSERT_OK(key);
        ASSERT_EQ(*key, seen[0].first);
        ASSERT_GE(seen[0].first, last_pair[w]);
        last_pair[w] = seen[0].first;
        const auto blocks = BlocksOf(*store, collection, seen[1].first, snapshot->get());
        ASSERT_OK(blocks);
        ASSERT_EQ(blocks->size(), 60u * 64);
      }
    });
  }
  threads.emplace_back([&] {
    while (writing > 0) {
      ASSERT_OK(store->Purge());
      const auto report = store->Verify();
      ASSERT_OK(report);
      ASSERT_TRUE(report->ok()) << report->damages[0].what;
      ASSERT_OK(store->Stats());
    }
  });
  threads.emplace_back([&] {
    for (int i = 0; writing > 0; ++i) {
      const auto id = store->CreateCollection("short-lived " + std::to_string(i));
      ASSERT_OK(id);
      ASSERT_OK(Insert(*store, *id, i));
      ASSERT_OK(store->ListCollections());
      ASSERT_OK(store->DropCollection(*id));
    }
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store->ListCollections()->size(), size_t{kWriters});
  const auto report = store->Verify();
  ASSERT_OK(report);
  EXPECT_TRUE(report->ok());
}

TEST(StoreConcurrency, ReservedNumbersAreUnique) {
  TempFolder folder;
  const auto store = Store::Open(folder / "db", SmallOptions());
  ASSERT_OK(store);
  const CollectionId collection = *(*store)->CreateCollection("c");
  std::mutex mutex;
  std::vector<Number> all;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      std::vector<Number> mine;
      for (int i = 0; i < 1000; ++i) {
        const Number first = *(*store)->ReserveNumbers(collection, 2);
        mine.push_back(first);
        mine.push_back(first + 1);
      }
      const std::lock_guard lock(mutex);
      all.insert(all.end(), mine.begin(), mine.end());
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::sort(all.begin(), all.end());
  EXPECT_EQ(std::adjacent_find(all.begin(), all.end()), all.end());
  EXPECT_EQ(all.back(), all.size());
}

}  // namespace
}  // namespace msadb::storage
