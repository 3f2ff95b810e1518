// Content blocks of hot parts in memory: one slab of equal slots, filled from a Store on a miss.
//
// A slot holds one chunk of all routing layers, [n_layers][2][dim] (storage/record.h), so slots
// never fragment; a part with n chunks takes n slots, anywhere in the slab. Content is immutable
// and numbers are never reused, so an entry is never stale; it is only erased.
//
// Eviction is S3-FIFO ("FIFO queues are all you need for cache eviction", SOSP 2023): newcomers
// pass through a small queue (a tenth of the slots) and reach the main queue only if they are asked
// for again, there or within a remembered history of keys. A question that touches a thousand cold
// documents once therefore cannot push out the hot ones, and a hit only increments a counter.
//
// Pinning: a BlockHandle keeps its slots; they are neither reused nor moved until it is gone, also
// when the part is erased or the cache destroyed meanwhile. When no slot can be freed, or the part
// is larger than the slab, the handle owns private memory instead: the answer is the same, only
// uncached.
//
// Deleted parts: once Erase has returned, called after the commit that deleted the part, the cache
// does not have it and never gets it again. A read under way is found by Erase and not kept; a
// later one, through an old snapshot, sees in the store that the part is deleted and goes to
// private memory. The slab then holds its bytes in two places at most:
//   - in slots that handles still pin; zeros are written over them when the last of these goes;
//   - in free slots; zeros are written over those by the next Scrub.
// So after Erase, Scrub, and the end of every handle of the part, in any order of the last two, no
// byte of it is in the slab. Private memory is freed as it is, like the buffers RocksDB reads into.
// db/ calls Erase before a delete is acknowledged (db/commit.cc, db/collection_state.cc), and no
// handle there outlives the snapshot it was read through (db/memory_bank.h; Prefetch keeps to that
// too). Hence Compact: Scrub, then a Purge that is complete only without snapshots that still see
// what was deleted (db/upkeep.cc).
//
// Threads: everything may be called from any thread. Concurrent misses of one part read it once.
#ifndef MSADB_STORAGE_BLOCK_CACHE_H_
#define MSADB_STORAGE_BLOCK_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "msadb/status.h"
#include "storage/record.h"
#include "storage/store.h"

namespace msadb::storage {

// Where the slab comes from; pinned host memory when there is a GPU. `allocate` returns null when
// it cannot; memory must be aligned to 64 bytes. Both empty: anonymous pages, touched on first use.
struct SlabAllocator {
  std::function<void*(size_t bytes)> allocate;
  std::function<void(void* memory, size_t bytes)> deallocate;
};

struct BlockCacheOptions {
  size_t bytes =
      size_t{512} << 20;  // budget of the slab; rounded down to whole slots, may be 0 slots
  // Shape of every value that will be cached; n_chunks is ignored. A stored value of another shape
  // is Corruption.
  TensorShape shape;
  unsigned fill_threads = 2;         // for Prefetch; 0: Prefetch does nothing
  size_t prefetch_queue_max = 4096;  // parts waiting; more are dropped
  SlabAllocator allocator;
};

struct BlockCacheStats {
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;  // slots of entries, of handles to erased parts, and of reads under way
  uint64_t entries = 0;
  uint64_t hits = 0;        // Get found the part, or joined a read under way
  uint64_t misses = 0;      // Get read it from the store
  uint64_t bypasses = 0;    // of the misses: handed out uncached
  uint64_t evictions = 0;   // parts
  uint64_t fill_bytes = 0;  // read from the store, prefetches included
  uint64_t prefetches = 0;  // parts read by Prefetch
  uint64_t prefetches_dropped = 0;
};

class BlockCacheCore;
struct BlockEntry;

// Read access to one part's content blocks. Movable; releasing it unpins.
class BlockHandle {
 public:
  BlockHandle() = default;
  BlockHandle(BlockHandle&& other) noexcept;
  BlockHandle& operator=(BlockHandle&& other) noexcept;
  ~BlockHandle();

  bool valid() const { return entry_ != nullptr; }
  uint32_t n_chunks() const;
  size_t slot_bytes() const;
  // The chunk's slot: [n_layers][2][dim], K before V; valid while the handle lives.
  const std::byte* slot(uint32_t chunk) const;
  // The dim elements of K (or V) of one layer of one chunk.
  const std::byte* key(uint32_t chunk, uint32_t layer) const;
  const std::byte* value(uint32_t chunk, uint32_t layer) const;

 private:
  friend class BlockCacheCore;
  BlockHandle(std::shared_ptr<BlockCacheCore> core, BlockEntry* entry)
      : core_(std::move(core)), entry_(entry) {}
  void Release();
  std::shared_ptr<BlockCacheCore> core_;
  BlockEntry* entry_ = nullptr;
};

class BlockCache {
 public:
  // ResourceExhausted when the slab cannot be allocated; InvalidArgument for a shape out of bounds.
  static Result<std::unique_ptr<BlockCache>> Create(std::shared_ptr<const Store> store,
                                                    const BlockCacheOptions& options);
  // Waits for the fill threads. Handles stay valid.
  ~BlockCache();
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;

  // The part's blocks, from memory or from the store as of `snapshot` (null: now). The caller asks
  // only for parts of its own view: a hit is not checked against the snapshot again. `reader` tells
  // users apart for the eviction policy: calls with the same nonzero reader count as one use, so
  // that a question that fetches a document in eighteen layers has used it once. NotFound,
  // Corruption, IOError, ResourceExhausted.
  Result<BlockHandle> Get(CollectionId collection, Number number,
                          const Snapshot* snapshot = nullptr, uint64_t reader = 0);

  // Queues reads of the parts that are not in memory. Never blocks, never fails.
  void Prefetch(CollectionId collection, std::span<const Number> numbers,
                std::shared_ptr<const Snapshot> snapshot = nullptr);

  // Forgets a part or a collection for good. Call it after the commit that deleted it and before
  // anyone is told of that. What is not deleted in the store may be back at once: by a Get, or by a
  // Prefetch that was queued before.
  void Erase(CollectionId collection, Number number);
  void EraseCollection(CollectionId collection);
  // Overwrites the free slots with zeros. Pinned ones follow by themselves; see the top.
  void Scrub();

  BlockCacheStats Stats() const;

 private:
  explicit BlockCache(std::shared_ptr<BlockCacheCore> core);
  std::shared_ptr<BlockCacheCore> core_;
};

}  // namespace msadb::storage

#endif  // MSADB_STORAGE_BLOCK_CACHE_H_
