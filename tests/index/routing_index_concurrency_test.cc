// Readers beside writers and compaction. Meant to run under ThreadSanitizer too, with
// OMP_NUM_THREADS=1 and TSAN_OPTIONS=ignore_noninstrumented_modules=1 (libgomp is not
// instrumented).
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "index/routing_index.h"
#include "tests/index/index_test_util.h"

namespace msadb::index {
namespace {

// The key of a document says its number, so that a reader can tell a torn row from a whole one.
std::vector<float> KeysFor(DocumentNumber number, const IndexConfig& config) {
  return std::vector<float>(config.n_layers * config.dim, static_cast<float>(number));
}

TEST(RoutingIndexConcurrencyTest, ReadersSeeWholeTransactions) {
  IndexConfig config;
  config.n_layers = 2;
  config.dim = 8;
  config.segment_rows_min = 4;
  config.segment_rows_max = 64;
  auto index = std::move(RoutingIndex::Create(config)).value();

  // Each transaction inserts the pair (2i, 2i + 1) and deletes an earlier whole pair, so every
  // snapshot holds pairs only, and never fewer of them than the one before.
  constexpr int kWriters = 2, kPairs = 2000;
  std::atomic<int> writers_left{kWriters};
  std::atomic<uint64_t> failures{0};
  std::vector<std::thread> threads;
  for (int w = 0; w < kWriters; ++w) {
    threads.emplace_back([&, w] {
      for (int i = 0; i < kPairs; ++i) {
        const DocumentNumber even = 2 * (1 + w + static_cast<DocumentNumber>(i) * kWriters);
        const auto first = KeysFor(even, config), second = KeysFor(even + 1, config);
        const std::vector<DocumentKeys> inserts = {{even, 1, first.data()},
                                                   {even + 1, 1, second.data()}};
        std::vector<DocumentNumber> deletes;
        if (i >= 10 && i % 2 == 0) {
          const DocumentNumber old = even - 2 * 10 * kWriters;
          deletes = {old, old + 1};
        }
        auto change = index->Prepare(inserts, deletes);
        if (!change.ok()) {
          ++failures;
          break;
        }
        if (i % 7 == 3) {  // a storage commit that failed: drop, then do it again
          { Change dropped = std::move(change).value(); }
          change = index->Prepare(inserts, deletes);
          if (!change.ok()) {
            ++failures;
            break;
          }
        }
        change->Publish();
      }
      --writers_left;
    });
  }
  threads.emplace_back([&] {
    while (writers_left > 0) {
      if (!index->Compact().ok()) ++failures;
      if (!index->CompactIfNeeded().ok()) ++failures;
      std::this_thread::yield();
    }
  });
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      std::mt19937_64 rng(r);
      const std::vector<float> queries(3 * config.dim, 1.0f);
      uint64_t documents_before = 0;
      while (writers_left > 0) {
        const Snapshot snapshot = index->TakeSnapshot();
        const auto numbers = snapshot.Numbers();
        if (!numbers.ok() || numbers->size() < documents_before) ++failures;
        documents_before = numbers->size();
        for (size_t i = 0; i + 1 < numbers->size(); i += 2) {
          if ((*numbers)[i] % 2 != 0 || (*numbers)[i] + 1 != (*numbers)[i + 1]) ++failures;
        }
        const auto selection = snapshot.Select(*numbers);
        const auto result =
            snapshot.Search(static_cast<int>(rng() % config.n_layers), queries.data(), 3, 10,
                            rng() % 2 ? &*selection : nullptr);
        if (!result.ok() || result->size() != std::min<size_t>(10, numbers->size())) ++failures;
        for (size_t i = 0; i < result->size(); ++i) {
          const RoutedDocument& found = (*result)[i];
          if (found.number != (*numbers)[numbers->size() - 1 - i]) ++failures;
          if (found.score != static_cast<float>(found.number * config.dim)) ++failures;
        }
        (void)index->Stats();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0u);

  ASSERT_TRUE(index->Compact().ok());
  const IndexStats stats = index->Stats();
  EXPECT_EQ(stats.documents, 2u * kWriters * (kPairs - (kPairs - 10) / 2));
  EXPECT_EQ(stats.dead_documents, 0u);
}

TEST(RoutingIndexConcurrencyTest, DeletesDuringACompactionAreNotLost) {
  IndexConfig config;
  config.n_layers = 4;
  config.dim = 256;
  auto index = std::move(RoutingIndex::Create(config)).value();
  constexpr DocumentNumber kDocuments = 8000;
  const auto keys = KeysFor(1, config);
  std::vector<DocumentKeys> inserts;
  std::set<DocumentNumber> live;
  for (DocumentNumber number = 0; number < kDocuments; ++number) {
    inserts.push_back({number, 1, keys.data()});
    live.insert(number);
  }
  auto change = index->Prepare(inserts, {});
  ASSERT_TRUE(change.ok());
  change->Publish();
  const auto remove = [&](DocumentNumber number) {
    auto removal = index->Prepare({}, {&number, 1});
    ASSERT_TRUE(removal.ok()) << removal.status().ToString();
    removal->Publish();
    live.erase(number);
  };

  // A round counts when documents were deleted and inserted between the moment a compaction had
  // allocated its copy and its end. One nearly always does; the others are for a busy machine.
  int rounds_overlapped = 0;
  DocumentNumber next = 0, added = kDocuments;
  for (int round = 0; round < 50 && rounds_overlapped < 3; ++round) {
    remove(next++);
    const size_t reserved = index->Stats().bytes_reserved;
    std::atomic<bool> finished{false};
    std::thread compactor([&] {
      EXPECT_TRUE(index->Compact().ok());
      finished = true;
    });
    while (!finished && index->Stats().bytes_reserved <= reserved) std::this_thread::yield();
    for (int i = 0; i < 5; ++i) remove(next++);
    const DocumentKeys insert{added, 1, keys.data()};
    auto addition = index->Prepare({&insert, 1}, {});
    EXPECT_TRUE(addition.ok());
    addition->Publish();
    live.insert(added++);
    if (!finished) ++rounds_overlapped;
    compactor.join();
    const auto numbers = index->TakeSnapshot().Numbers();
    ASSERT_TRUE(numbers.ok());
    ASSERT_EQ(*numbers, std::vector<DocumentNumber>(live.begin(), live.end()));
  }
  EXPECT_GT(rounds_overlapped, 0);
}

}  // namespace
}  // namespace msadb::index
