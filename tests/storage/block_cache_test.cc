#include "storage/block_cache.h"

#include <gtest/gtest.h>
#include <rocksdb/file_system.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "storage/store_hooks.h"
#include "testing.h"

namespace msadb::storage {
namespace {

const TensorShape kShape{DataType::kBF16, 2, 0, 8};  // as MakePart's: slots of 64 bytes
constexpr size_t kSlotBytes = 64;

std::string BytesOf(const BlockHandle& handle) {
  std::string bytes;
  for (uint32_t c = 0; c < handle.n_chunks(); ++c) {
    bytes.append(reinterpret_cast<const char*>(handle.slot(c)), handle.slot_bytes());
  }
  return bytes;
}

// A slab that the test can look into, also when the cache is gone.
class OpenSlab {
 public:
  SlabAllocator Allocator() {
    return {.allocate =
                [this](size_t bytes) {
                  memory_.reset(static_cast<char*>(std::aligned_alloc(64, bytes)));
                  bytes_ = bytes;
                  std::fill_n(memory_.get(), bytes, '\0');
                  return memory_.get();
                },
            .deallocate = [](void*, size_t) {}};
  }
  // Only while nobody writes to it: no read is under way.
  bool Holds(std::string_view bytes) const { return view().find(bytes) != std::string_view::npos; }
  bool IsZero() const { return view().find_first_not_of('\0') == std::string_view::npos; }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::string_view view() const { return {memory_.get(), bytes_}; }
  std::unique_ptr<char, Free> memory_;
  size_t bytes_ = 0;
};

// Where readers of blob files stop while it is closed.
class Gate {
 public:
  void Close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    arrived_ = 0;
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    closed_ = false;
    changed_.notify_all();
  }
  void Pass() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !closed_; });
  }
  void AwaitArrival() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return arrived_ > 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
  int arrived_ = 0;  // since it was closed
};

class GatedFile : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  GatedFile(std::unique_ptr<rocksdb::FSRandomAccessFile> file, Gate* gate)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), gate_(*gate) {}
  rocksdb::IOStatus Read(uint64_t offset, size_t size, const rocksdb::IOOptions& options,
                         rocksdb::Slice* result, char* scratch,
                         rocksdb::IODebugContext* debug) const override {
    gate_.Pass();
    return target()->Read(offset, size, options, result, scratch, debug);
  }

 private:
  Gate& gate_;
};

class GatedFileSystem : public rocksdb::FileSystemWrapper {
 public:
  explicit GatedFileSystem(Gate* gate)
      : FileSystemWrapper(rocksdb::FileSystem::Default()), gate_(gate) {}
  const char* Name() const override { return "GatedFileSystem"; }
  rocksdb::IOStatus NewRandomAccessFile(const std::string& path,
                                        const rocksdb::FileOptions& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                                        rocksdb::IODebugContext* debug) override {
    const rocksdb::IOStatus s = target()->NewRandomAccessFile(path, options, file, debug);
    if (s.ok() && path.ends_with(".blob")) {
      *file = std::make_unique<GatedFile>(std::move(*file), gate_);
    }
    return s;
  }

 private:
  Gate* const gate_;
};

class BlockCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto store = Store::Open(folder_ / "db", SmallOptions());
    ASSERT_OK(store);
    store_ = *store;
    notes_ = *store_->CreateCollection("notes");
  }
  void Fill(size_t documents, uint32_t n_chunks = 2) {
    WriteSet set = store_->NewWriteSet();
    const Number first = *store_->ReserveNumbers(notes_, documents);
    for (Number n = first; n < first + documents; ++n) {
      ASSERT_OK(Put(set, notes_, MakePart(n, n, n_chunks)));
    }
    ASSERT_OK(store_->Commit(std::move(set)));
  }
  // Documents of kGatedChunks chunks, in a store opened anew: their blocks are in a blob file now,
  // whose readers gate_ stops. Whether a part exists is read from other files.
  void FillBehindGate(size_t documents) {
    Fill(documents, kGatedChunks);
    store_.reset();
    StoreOptions options = SmallOptions();
    options.hooks = std::make_shared<StoreHooks>();
    options.hooks->file_system = std::make_shared<GatedFileSystem>(&gate_);
    const auto store = Store::Open(folder_ / "db", options);
    ASSERT_OK(store);
    store_ = *store;
    const auto stats = store_->Stats();
    ASSERT_OK(stats);
    uint64_t blob_bytes = 0;
    for (const ColumnFamilyStats& family : stats->column_families) blob_bytes += family.blob_bytes;
    ASSERT_GE(blob_bytes, documents * kGatedChunks * kSlotBytes);
  }
  std::unique_ptr<BlockCache> MakeCache(size_t slots, unsigned fill_threads = 0,
                                        SlabAllocator allocator = {}) {
    BlockCacheOptions options;
    options.bytes = slots * kSlotBytes + kSlotBytes / 2;
    options.shape = kShape;
    options.fill_threads = fill_threads;
    options.allocator = std::move(allocator);
    auto cache = BlockCache::Create(store_, options);
    EXPECT_TRUE(cache.ok()) << cache.status().ToString();
    return cache.ok() ? std::move(*cache) : nullptr;
  }

  static constexpr uint32_t kGatedChunks = 100;  // more than is kept outside blob files

  TempFolder folder_;
  Gate gate_;  // outlives the store
  std::shared_ptr<Store> store_;
  CollectionId notes_ = 0;
};

TEST_F(BlockCacheTest, MissThenHitWithTheRightBytes) {
  Fill(3, 5);
  const auto cache = MakeCache(100);
  for (int round = 0; round < 2; ++round) {
    for (Number n = 1; n <= 3; ++n) {
      const auto handle = cache->Get(notes_, n);
      ASSERT_OK(handle);
      EXPECT_EQ(handle->n_chunks(), 5u);
      const std::string blocks = MakePart(n, n, 5).blocks;
      EXPECT_EQ(BytesOf(*handle), blocks);
      // [n_chunks][n_layers][2][dim], K before V.
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(handle->key(3, 1)), 16),
                blocks.substr(3 * 64 + 32, 16));
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(handle->value(3, 1)), 16),
                blocks.substr(3 * 64 + 48, 16));
    }
  }
  const BlockCacheStats stats = cache->Stats();
  EXPECT_EQ(stats.capacity_bytes, 100 * kSlotBytes);
  EXPECT_EQ(stats.used_bytes, 15 * kSlotBytes);
  EXPECT_EQ(stats.entries, 3u);
  EXPECT_EQ(stats.misses, 3u);
  EXPECT_EQ(stats.hits, 3u);
  EXPECT_EQ(stats.bypasses, 0u);
  EXPECT_EQ(stats.fill_bytes, 15 * kSlotBytes);
}

TEST_F(BlockCacheTest, Errors) {
  Fill(1);
  const auto cache = MakeCache(10);
  EXPECT_ERROR(cache->Get(notes_, 2), kNotFound, "document 2");
  EXPECT_ERROR(cache->Get(notes_, 2), kNotFound, "document 2");
  BlockCacheOptions options;
  options.shape = {DataType::kBF16, 0, 0, 8};
  EXPECT_ERROR(BlockCache::Create(store_, options), kInvalidArgument, "0");
  options.shape = {DataType::kF16, 2, 0, 8};
  const auto other = BlockCache::Create(store_, options);
  ASSERT_OK(other);
  EXPECT_ERROR((*other)->Get(notes_, 1), kCorruption, "another shape");
  options.allocator.allocate = [](size_t) -> void* { return nullptr; };
  EXPECT_ERROR(BlockCache::Create(store_, options), kResourceExhausted, "block_cache_bytes");
}

TEST_F(BlockCacheTest, TheAllocatorIsUsedAndGivenBack) {
  Fill(1);
  size_t allocated = 0, freed = 0;
  BlockCacheOptions options;
  options.bytes = 10 * kSlotBytes;
  options.shape = kShape;
  options.allocator.allocate = [&](size_t bytes) {
    allocated = bytes;
    return std::aligned_alloc(64, bytes);
  };
  options.allocator.deallocate = [&](void* memory, size_t bytes) {
    freed = bytes;
    std::free(memory);
  };
  auto cache = BlockCache::Create(store_, options);
  ASSERT_OK(cache);
  auto handle = (*cache)->Get(notes_, 1);
  ASSERT_OK(handle);
  EXPECT_EQ(allocated, 10 * kSlotBytes);
  cache->reset();
  EXPECT_EQ(freed, 0u);  // the handle still reads it
  EXPECT_EQ(BytesOf(*handle), MakePart(1, 1).blocks);
  *handle = BlockHandle();
  EXPECT_EQ(freed, allocated);
}

TEST_F(BlockCacheTest, AHandleDoesNotKeepTheStoreOpen) {
  Fill(1);
  auto cache = MakeCache(10);
  auto handle = cache->Get(notes_, 1);
  ASSERT_OK(handle);
  cache.reset();
  store_.reset();
  EXPECT_OK(Store::Open(folder_ / "db", SmallOptions()));
  EXPECT_EQ(BytesOf(*handle), MakePart(1, 1).blocks);
}

TEST_F(BlockCacheTest, NeverMoreThanTheBudget) {
  Fill(50);
  const auto cache = MakeCache(20);
  std::mt19937_64 rng(TestSeed());
  for (int i = 0; i < 2000; ++i) {
    const Number n = 1 + rng() % 50;
    const auto handle = cache->Get(notes_, n);
    ASSERT_OK(handle);
    ASSERT_EQ(BytesOf(*handle), MakePart(n, n).blocks);
    ASSERT_LE(cache->Stats().used_bytes, 20 * kSlotBytes);
  }
  const BlockCacheStats stats = cache->Stats();
  EXPECT_EQ(stats.entries, 10u);
  EXPECT_EQ(stats.bypasses, 0u);
  EXPECT_GT(stats.hits, 0u);
  EXPECT_GT(stats.evictions, 100u);
}

TEST_F(BlockCacheTest, PinnedEntriesStayAndTheRestBypasses) {
  Fill(20);
  const auto cache = MakeCache(8);  // four documents
  std::vector<BlockHandle> held;
  for (Number n = 1; n <= 20; ++n) {
    auto handle = cache->Get(notes_, n);
    ASSERT_OK(handle);
    held.push_back(std::move(*handle));
  }
  EXPECT_EQ(cache->Stats().bypasses, 16u);
  for (Number n = 1; n <= 20; ++n) EXPECT_EQ(BytesOf(held[n - 1]), MakePart(n, n).blocks) << n;
  EXPECT_EQ(cache->Stats().used_bytes, 8 * kSlotBytes);
  held.clear();
  ASSERT_OK(cache->Get(notes_, 20));
  EXPECT_EQ(cache->Stats().bypasses, 16u);
}

TEST_F(BlockCacheTest, LargerThanTheSlabBypasses) {
  Fill(1, 30);
  for (const size_t slots : {0, 29}) {
    const auto cache = MakeCache(slots);
    const auto handle = cache->Get(notes_, 1);
    ASSERT_OK(handle);
    EXPECT_EQ(BytesOf(*handle), MakePart(1, 1, 30).blocks);
    EXPECT_EQ(cache->Stats().bypasses, 1u);
    EXPECT_EQ(cache->Stats().used_bytes, 0u);
  }
}

TEST_F(BlockCacheTest, AScanDoesNotPushOutWhatIsUsed) {
  Fill(1000);
  const auto cache = MakeCache(200);  // a hundred documents
  // Twenty hot documents, asked for by two questions; then a thousand cold ones, each once.
  for (uint64_t reader = 1; reader <= 3; ++reader) {
    for (Number n = 1; n <= 20; ++n) ASSERT_OK(cache->Get(notes_, n, nullptr, reader));
  }
  for (Number n = 21; n <= 1000; ++n) ASSERT_OK(cache->Get(notes_, n, nullptr, 4));
  const uint64_t misses = cache->Stats().misses;
  for (Number n = 1; n <= 20; ++n) ASSERT_OK(cache->Get(notes_, n, nullptr, 5));
  EXPECT_EQ(cache->Stats().misses, misses);
}

TEST_F(BlockCacheTest, OneReaderAskingManyTimesIsOneUse) {
  Fill(1000);
  const auto cache = MakeCache(200);
  for (int layer = 0; layer < 18; ++layer) {
    for (Number n = 1; n <= 20; ++n) ASSERT_OK(cache->Get(notes_, n, nullptr, 1));
  }
  for (Number n = 21; n <= 1000; ++n) ASSERT_OK(cache->Get(notes_, n, nullptr, 2));
  const uint64_t misses = cache->Stats().misses;
  for (Number n = 1; n <= 20; ++n) ASSERT_OK(cache->Get(notes_, n, nullptr, 3));
  EXPECT_EQ(cache->Stats().misses, misses + 20);
}

TEST_F(BlockCacheTest, WhatCameBackSoonAfterEvictionIsKept) {
  Fill(1000);
  const auto cache = MakeCache(200);
  // Asked for once and evicted from the small queue; asked for again: now in main.
  ASSERT_OK(cache->Get(notes_, 1));
  for (Number n = 2; n <= 110; ++n) ASSERT_OK(cache->Get(notes_, n));
  ASSERT_OK(cache->Get(notes_, 1));
  const uint64_t misses = cache->Stats().misses;
  EXPECT_EQ(misses, 111u);
  // The small queue churns beyond its share; what is in main stays.
  for (Number n = 111; n <= 170; ++n) ASSERT_OK(cache->Get(notes_, n));
  ASSERT_OK(cache->Get(notes_, 1));
  EXPECT_EQ(cache->Stats().misses, misses + 60);
}

TEST_F(BlockCacheTest, EraseForgetsButHandlesStayValid) {
  Fill(3);
  const auto cache = MakeCache(10);
  const auto handle = cache->Get(notes_, 1);
  ASSERT_OK(handle);
  ASSERT_OK(cache->Get(notes_, 2));
  ASSERT_OK(Delete(*store_, notes_, 1));
  cache->Erase(notes_, 1);
  cache->Erase(notes_, 3);  // not cached
  EXPECT_ERROR(cache->Get(notes_, 1), kNotFound, "");
  EXPECT_EQ(BytesOf(*handle), MakePart(1, 1).blocks);
  EXPECT_EQ(cache->Stats().entries, 1u);
  EXPECT_EQ(cache->Stats().used_bytes, 4 * kSlotBytes);
  *const_cast<BlockHandle*>(&*handle) = BlockHandle();
  EXPECT_EQ(cache->Stats().used_bytes, 2 * kSlotBytes);
  cache->EraseCollection(notes_);
  EXPECT_EQ(cache->Stats().used_bytes, 0u);
}

TEST_F(BlockCacheTest, DeletedDocumentsDoNotComeBackThroughASnapshot) {
  Fill(2);
  const auto cache = MakeCache(10);
  const auto snapshot = store_->TakeSnapshot();
  ASSERT_OK(snapshot);
  ASSERT_OK(Delete(*store_, notes_, 1));
  cache->Erase(notes_, 1);
  const auto handle = cache->Get(notes_, 1, snapshot->get());
  ASSERT_OK(handle);
  EXPECT_EQ(BytesOf(*handle), MakePart(1, 1).blocks);
  EXPECT_EQ(cache->Stats().entries, 0u);
  EXPECT_EQ(cache->Stats().bypasses, 1u);
  EXPECT_ERROR(cache->Get(notes_, 1), kNotFound, "");
}

TEST_F(BlockCacheTest, ScrubLeavesNoDeletedBytes) {
  Fill(2);
  OpenSlab slab;
  const auto cache = MakeCache(10, 0, slab.Allocator());
  ASSERT_OK(cache->Get(notes_, 1));
  ASSERT_OK(cache->Get(notes_, 2));
  ASSERT_OK(Delete(*store_, notes_, 1));
  cache->Erase(notes_, 1);
  EXPECT_TRUE(slab.Holds(MakePart(1, 1).blocks.substr(0, kSlotBytes)));
  cache->Scrub();
  EXPECT_FALSE(slab.Holds(MakePart(1, 1).blocks.substr(0, 16)));
  EXPECT_TRUE(slab.Holds(MakePart(2, 2).blocks.substr(0, kSlotBytes)));
}

TEST_F(BlockCacheTest, DeletedBytesPinnedDuringAScrubGoWithTheLastHandle) {
  Fill(1);
  OpenSlab slab;
  const auto cache = MakeCache(10, 0, slab.Allocator());
  auto first = cache->Get(notes_, 1);
  ASSERT_OK(first);
  auto last = cache->Get(notes_, 1);
  ASSERT_OK(last);
  ASSERT_OK(Delete(*store_, notes_, 1));
  cache->Erase(notes_, 1);
  cache->Scrub();
  *first = BlockHandle();
  EXPECT_EQ(BytesOf(*last), MakePart(1, 1).blocks);
  *last = BlockHandle();
  EXPECT_TRUE(slab.IsZero());
  EXPECT_EQ(cache->Stats().used_bytes, 0u);
}

// The read has seen that the part exists and is about to read its blocks; then everything happens
// that takes a part away; then it gets them.
TEST_F(BlockCacheTest, AReadUnderWayAtTheDeleteLeavesNothing) {
  FillBehindGate(4);
  Number n = 0;
  for (const bool prefetch : {false, true}) {
    for (const bool through_snapshot : {false, true}) {
      SCOPED_TRACE(::testing::Message()
                   << "prefetch " << prefetch << " snapshot " << through_snapshot);
      ++n;
      OpenSlab slab;
      auto cache = MakeCache(2 * kGatedChunks, 1, slab.Allocator());
      std::shared_ptr<const Snapshot> snapshot;
      if (through_snapshot) {
        const auto taken = store_->TakeSnapshot();
        ASSERT_OK(taken);
        snapshot = *taken;
      }
      gate_.Close();
      Result<BlockHandle> handle = Status::Internal("not read");
      std::thread reader;
      if (prefetch) {
        cache->Prefetch(notes_, {&n, 1}, snapshot);
      } else {
        reader = std::thread([&] { handle = cache->Get(notes_, n, snapshot.get()); });
      }
      gate_.AwaitArrival();
      EXPECT_OK(Delete(*store_, notes_, n));
      cache->Erase(notes_, n);
      cache->Scrub();
      gate_.Open();
      if (prefetch) {
        while (cache->Stats().prefetches == 0) std::this_thread::yield();
        EXPECT_EQ(cache->Stats().entries, 0u);
      } else {
        reader.join();
        ASSERT_OK(handle);
        EXPECT_EQ(BytesOf(*handle), MakePart(n, n, kGatedChunks).blocks);
        EXPECT_EQ(cache->Stats().entries, 0u);
        *handle = BlockHandle();
        EXPECT_EQ(cache->Stats().used_bytes, 0u);
      }
      cache.reset();  // waits for the fill thread
      EXPECT_TRUE(slab.IsZero());
    }
  }
}

TEST_F(BlockCacheTest, PrefetchesQueuedBeforeADropLeaveNothing) {
  FillBehindGate(3);
  OpenSlab slab;
  auto cache = MakeCache(4 * kGatedChunks, 1, slab.Allocator());
  auto snapshot = store_->TakeSnapshot();
  ASSERT_OK(snapshot);
  gate_.Close();
  const std::vector<Number> numbers{1, 2, 3};  // one under way, two waiting for the only thread
  cache->Prefetch(notes_, numbers, *snapshot);
  gate_.AwaitArrival();
  EXPECT_OK(store_->DropCollection(notes_));
  cache->EraseCollection(notes_);
  cache->Scrub();
  gate_.Open();
  while (cache->Stats().prefetches < numbers.size()) std::this_thread::yield();
  EXPECT_EQ(cache->Stats().entries, 0u);
  cache.reset();
  EXPECT_TRUE(slab.IsZero());
}

TEST_F(BlockCacheTest, PrefetchMakesHits) {
  Fill(40);
  const auto cache = MakeCache(100, 2);
  std::vector<Number> numbers;
  for (Number n = 1; n <= 40; ++n) numbers.push_back(n);
  numbers.push_back(1000);  // does not exist: a hint may be wrong
  const auto snapshot = store_->TakeSnapshot();
  ASSERT_OK(snapshot);
  cache->Prefetch(notes_, numbers, *snapshot);
  cache->Prefetch(notes_, numbers, *snapshot);
  // Get waits for reads under way, but may overtake those still queued; either way it is right.
  for (Number n = 1; n <= 40; ++n) {
    const auto handle = cache->Get(notes_, n, snapshot->get());
    ASSERT_OK(handle);
    ASSERT_EQ(BytesOf(*handle), MakePart(n, n).blocks);
  }
  const BlockCacheStats stats = cache->Stats();
  EXPECT_EQ(stats.hits + stats.misses, 40u);
  EXPECT_EQ(stats.fill_bytes, 40 * 2 * kSlotBytes);  // each read once
  EXPECT_EQ(stats.prefetches + stats.misses, 40u);
}

TEST_F(BlockCacheTest, ThePrefetchQueueIsBounded) {
  Fill(10);
  BlockCacheOptions options;
  options.bytes = 100 * kSlotBytes;
  options.shape = kShape;
  options.fill_threads = 1;
  options.prefetch_queue_max = 0;
  const auto cache = BlockCache::Create(store_, options);
  ASSERT_OK(cache);
  const std::vector<Number> numbers{1, 2, 3};
  (*cache)->Prefetch(notes_, numbers);
  EXPECT_EQ((*cache)->Stats().prefetches_dropped, 3u);
}

TEST_F(BlockCacheTest, ManyThreadsReadAPartOnce) {
  Fill(1, 1000);
  for (int round = 0; round < 10; ++round) {
    const auto cache = MakeCache(2000);
    std::atomic<int> ready{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&] {
        ++ready;
        while (ready < 8) std::this_thread::yield();
        const auto handle = cache->Get(notes_, 1);
        EXPECT_OK(handle);
        EXPECT_EQ(BytesOf(*handle), MakePart(1, 1, 1000).blocks);
      });
    }
    for (std::thread& thread : threads) thread.join();
    const BlockCacheStats stats = cache->Stats();
    EXPECT_EQ(stats.misses, 1u);
    EXPECT_EQ(stats.hits, 7u);
  }
}

TEST_F(BlockCacheTest, ReadersDeletersAndPrefetchersTogether) {
  const uint64_t seed = TestSeed();
  constexpr Number kDocuments = 200;
  Fill(kDocuments);
  OpenSlab slab;
  const auto cache = MakeCache(60, 2, slab.Allocator());
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> reads{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 rng(seed + t);
      std::vector<BlockHandle> held(4);
      while (!stop) {
        const auto snapshot = store_->TakeSnapshot();
        ASSERT_OK(snapshot);
        std::vector<Number> wanted;
        for (int i = 0; i < 5; ++i) wanted.push_back(1 + rng() % kDocuments);
        cache->Prefetch(notes_, wanted, *snapshot);
        for (const Number n : wanted) {
          const bool exists = *store_->HasPart(notes_, n, snapshot->get());
          if (!exists) continue;  // a reader asks only for what its view holds
          auto handle = cache->Get(notes_, n, snapshot->get(), rng() % 3);
          ASSERT_OK(handle);
          ASSERT_EQ(BytesOf(*handle), MakePart(n, n).blocks) << n << " seed " << seed;
          held[rng() % held.size()] = std::move(*handle);
          ++reads;
        }
      }
    });
  }
  std::mt19937_64 rng(seed + 100);
  for (Number n = 1; n <= kDocuments; n += 2) {
    ASSERT_OK(Delete(*store_, notes_, n));
    cache->Erase(notes_, n);
    if (n % 50 == 1) cache->Scrub();
  }
  while (reads < 1000) std::this_thread::yield();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  // What the readers wanted prefetched is still being read: each of these holds a snapshot.
  const auto open_snapshots = [&] {
    const auto stats = store_->Stats();
    EXPECT_OK(stats);
    return stats.ok() ? stats->open_snapshots : 0;
  };
  while (open_snapshots() > 0) std::this_thread::yield();
  for (Number n = 1; n <= kDocuments; n += 2) {
    EXPECT_ERROR(cache->Get(notes_, n), kNotFound, "");
  }
  cache->Scrub();
  for (Number n = 1; n <= kDocuments; n += 2) {
    const std::string blocks = MakePart(n, n).blocks;
    for (size_t at = 0; at < blocks.size(); at += 16) {
      EXPECT_FALSE(slab.Holds(blocks.substr(at, 16))) << n << " seed " << seed;
    }
  }
  EXPECT_EQ(cache->Stats().used_bytes, cache->Stats().entries * 2 * kSlotBytes);
  cache->EraseCollection(notes_);
  EXPECT_EQ(cache->Stats().used_bytes, 0u);
}

}  // namespace
}  // namespace msadb::storage
