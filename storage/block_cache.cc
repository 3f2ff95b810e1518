#include "storage/block_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cassert>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <list>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace msadb::storage {

namespace {

struct BlockKey {
  CollectionId collection = 0;
  Number number = 0;
  bool operator==(const BlockKey&) const = default;
};

struct BlockKeyHash {
  size_t operator()(const BlockKey& key) const {
    // Multiplication by an odd constant spreads consecutive numbers over the buckets.
    return (key.number ^ uint64_t{key.collection} << 40) * 0x9E3779B97F4A7C15u;
  }
};

enum class Queue : uint8_t { kNone, kSmall, kMain };

constexpr uint8_t kUsesMax = 3;        // counted per entry, as in the S3-FIFO paper
constexpr size_t kSmallFraction = 10;  // the small queue's share is one in ten slots

void* AllocatePages(size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

}  // namespace

// Constant after it is filled, but for what the core's mutex guards.
struct BlockEntry {
  BlockKey key;
  uint32_t n_chunks = 0;
  std::vector<uint32_t> slots;  // empty when the memory is private
  std::unique_ptr<std::byte[]> private_memory;

  // Guarded by the core's mutex.
  uint32_t pins = 0;
  bool cached = false;  // in the map and in a queue; else it goes with its last pin
  Queue queue = Queue::kNone;
  std::list<BlockEntry*>::iterator position;
  uint8_t uses = 0;  // since it came into its queue
  uint64_t last_reader = 0;
  bool unread = false;  // prefetched: its first use is the one it came for
};

class BlockCacheCore : public std::enable_shared_from_this<BlockCacheCore> {
 public:
  BlockCacheCore(std::shared_ptr<const Store> store, const BlockCacheOptions& options)
      : store_(std::move(store)),
        options_(options),
        slot_bytes_(BlockSlotBytes(options.shape)),
        slot_count_(std::min<size_t>(options.bytes / slot_bytes_, UINT32_MAX)) {}

  ~BlockCacheCore() {
    for (auto& [key, entry] : entries_) delete entry;
    if (slab_ == nullptr) return;
    if (options_.allocator.deallocate) {
      options_.allocator.deallocate(slab_, slot_count_ * slot_bytes_);
    } else {
      ::munmap(slab_, slot_count_ * slot_bytes_);
    }
  }

  Status Allocate() {
    if (slot_count_ == 0) return Status::Ok();
    const size_t bytes = slot_count_ * slot_bytes_;
    void* memory =
        options_.allocator.allocate ? options_.allocator.allocate(bytes) : AllocatePages(bytes);
    if (memory == nullptr) {
      return Status::ResourceExhausted("the block cache cannot get " + std::to_string(bytes) +
                                       " bytes of memory; lower block_cache_bytes");
    }
    slab_ = static_cast<std::byte*>(memory);
    free_slots_.reserve(slot_count_);
    for (size_t i = slot_count_; i > 0; --i) free_slots_.push_back(static_cast<uint32_t>(i - 1));
    dirty_.assign(slot_count_, false);
    return Status::Ok();
  }

  void StartWorkers() {
    for (unsigned i = 0; i < options_.fill_threads; ++i) {
      workers_.emplace_back([this] { Work(); });
    }
  }

  void StopWorkers() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      jobs_.clear();
    }
    work_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    // Handles keep the core, and must not keep the database open.
    store_.reset();
  }

  Result<BlockHandle> Get(const BlockKey& key, const Snapshot* snapshot, uint64_t reader) {
    std::unique_lock lock(mutex_);
    while (true) {
      if (BlockEntry* entry = Find(key)) {
        ++stats_.hits;
        CountUse(*entry, reader);
        ++entry->pins;
        return BlockHandle(shared_from_this(), entry);
      }
      const auto reading = fills_.find(key);
      if (reading == fills_.end()) break;
      const std::shared_ptr<Fill> fill = reading->second;
      ++fill->waiters;
      filled_.wait(lock, [&] { return fill->done; });
      if (fill->entry != nullptr) {
        ++stats_.hits;
        CountUse(*fill->entry, reader);
        return BlockHandle(shared_from_this(), fill->entry);  // pinned for us by the one who read
      }
      // That read failed, perhaps only for its older snapshot: try our own.
    }
    ++stats_.misses;
    Result<BlockHandle> handle = Read(key, snapshot, reader, lock);
    if (handle.ok() && !handle->entry_->cached) ++stats_.bypasses;
    return handle;
  }

  void Prefetch(CollectionId collection, std::span<const Number> numbers,
                const std::shared_ptr<const Snapshot>& snapshot) {
    if (options_.fill_threads == 0 || slot_count_ == 0) return;
    {
      const std::lock_guard lock(mutex_);
      for (const Number number : numbers) {
        const BlockKey key{collection, number};
        if (entries_.contains(key) || fills_.contains(key)) continue;
        if (jobs_.size() >= options_.prefetch_queue_max) {
          ++stats_.prefetches_dropped;
          continue;
        }
        jobs_.push_back({key, snapshot});
      }
    }
    work_.notify_all();
  }

  void Erase(const BlockKey& key) {
    const std::lock_guard lock(mutex_);
    const auto reading = fills_.find(key);
    if (reading != fills_.end()) reading->second->erased = true;
    if (BlockEntry* entry = Find(key)) Remove(entry);
  }

  void EraseCollection(CollectionId collection) {
    const std::lock_guard lock(mutex_);
    for (auto& [key, fill] : fills_) {
      if (key.collection == collection) fill->erased = true;
    }
    for (auto it = entries_.begin(); it != entries_.end();) {
      BlockEntry* entry = it->second;
      ++it;  // Remove() erases the entry's own node only
      if (entry->key.collection == collection) Remove(entry);
    }
  }

  void Scrub() {
    const std::lock_guard lock(mutex_);
    for (const uint32_t slot : free_slots_) {
      if (!dirty_[slot]) continue;  // untouched pages stay without memory behind them
      std::memset(Slot(slot), 0, slot_bytes_);
      dirty_[slot] = false;
    }
  }

  BlockCacheStats Stats() const {
    const std::lock_guard lock(mutex_);
    BlockCacheStats stats = stats_;
    stats.capacity_bytes = slot_count_ * slot_bytes_;
    stats.used_bytes = (slot_count_ - free_slots_.size()) * slot_bytes_;
    stats.entries = entries_.size();
    return stats;
  }

  void Unpin(BlockEntry* entry) {
    std::unique_lock lock(mutex_);
    assert(entry->pins > 0);
    if (--entry->pins > 0 || entry->cached) return;
    // The part may have been deleted, and the Scrub that was to remove its bytes may have come
    // while they were pinned. Nothing leads to the entry any more, so the lock is not needed for
    // this.
    lock.unlock();
    for (const uint32_t slot : entry->slots) std::memset(Slot(slot), 0, slot_bytes_);
    lock.lock();
    for (const uint32_t slot : entry->slots) dirty_[slot] = false;
    FreeSlots(entry);
    lock.unlock();
    delete entry;
  }

  size_t slot_bytes() const { return slot_bytes_; }
  const TensorShape& shape() const { return options_.shape; }

  const std::byte* Chunk(const BlockEntry& entry, uint32_t chunk) const {
    assert(chunk < entry.n_chunks);
    return entry.private_memory ? entry.private_memory.get() + chunk * slot_bytes_
                                : slab_ + entry.slots[chunk] * slot_bytes_;
  }

 private:
  // A read under way; others who want the same part wait for it.
  struct Fill {
    bool done = false;
    bool erased = false;  // the part was deleted meanwhile: do not keep it
    uint32_t waiters = 0;
    BlockEntry* entry = nullptr;  // null when the read failed
  };

  struct Job {
    BlockKey key;
    std::shared_ptr<const Snapshot> snapshot;
  };

  std::byte* Slot(uint32_t slot) { return slab_ + slot * slot_bytes_; }

  BlockEntry* Find(const BlockKey& key) const {
    const auto it = entries_.find(key);
    return it == entries_.end() ? nullptr : it->second;
  }

  static void CountUse(BlockEntry& entry, uint64_t reader) {
    const bool same_reader = reader != 0 && reader == entry.last_reader;
    entry.last_reader = reader;
    if (entry.unread) {
      entry.unread = false;
    } else if (!same_reader && entry.uses < kUsesMax) {
      ++entry.uses;
    }
  }

  // Reads the part with `lock` released, and publishes it. The handle's pin is the reader's own.
  Result<BlockHandle> Read(const BlockKey& key, const Snapshot* snapshot, uint64_t reader,
                           std::unique_lock<std::mutex>& lock) {
    const auto fill = std::make_shared<Fill>();
    auto entry_owner = std::make_unique<BlockEntry>();
    BlockEntry* const entry = entry_owner.get();
    entry->key = key;
    entry->last_reader = reader;
    fills_.emplace(key, fill);
    lock.unlock();
    Status status;
    try {
      bool keep = true;
      if (snapshot != nullptr) {
        // An old snapshot still sees what has been deleted; that must not come back into the cache.
        // A delete that commits after this look finds the fill when it erases.
        const Result<bool> exists = store_->HasPart(key.collection, key.number, nullptr);
        keep = exists.ok() && *exists;
      }
      status = ReadInto(entry, keep, snapshot);
    } catch (...) {
      lock.lock();
      FinishFill(key, *fill);
      FreeSlots(entry);
      throw;
    }
    lock.lock();
    FinishFill(key, *fill);
    if (!status.ok()) {
      FreeSlots(entry);
      return status;
    }
    // Without memory for the bookkeeping it is handed out uncached.
    if (!entry->slots.empty() && !fill->erased) TryCache(entry);
    entry->pins = 1 + fill->waiters;
    fill->entry = entry;
    return BlockHandle(shared_from_this(), entry_owner.release());
  }

  // Those who wait look at the fill once they get the lock.
  void FinishFill(const BlockKey& key, Fill& fill) {
    fills_.erase(key);
    fill.done = true;
    filled_.notify_all();
  }

  // Copies the stored value into slots, or into private memory when it is not to be kept or no
  // slots can be had.
  Status ReadInto(BlockEntry* entry, bool keep, const Snapshot* snapshot) {
    Status status;
    const Status read = store_->ReadBlocks(
        entry->key.collection, entry->key.number,
        [&](const TensorView& tensor) {
          TensorShape expected = options_.shape;
          expected.n_chunks = tensor.shape.n_chunks;
          if (!(tensor.shape == expected)) {
            status = Status::Corruption(
                "the blocks of document " + std::to_string(entry->key.number) + " in collection " +
                std::to_string(entry->key.collection) + " have another shape than this model's");
            return;
          }
          const size_t n_chunks = tensor.shape.n_chunks;
          entry->n_chunks = tensor.shape.n_chunks;
          {
            const std::lock_guard lock(mutex_);
            stats_.fill_bytes += tensor.bytes.size();
            if (keep && n_chunks <= slot_count_) TakeSlots(entry, n_chunks);
          }
          if (entry->slots.empty()) {
            entry->private_memory =
                std::make_unique_for_overwrite<std::byte[]>(tensor.bytes.size());
            std::memcpy(entry->private_memory.get(), tensor.bytes.data(), tensor.bytes.size());
            return;
          }
          for (size_t i = 0; i < n_chunks; ++i) {
            std::memcpy(Slot(entry->slots[i]), tensor.bytes.data() + i * slot_bytes_, slot_bytes_);
          }
        },
        snapshot);
    return read.ok() ? status : read;
  }

  // Fills entry->slots, evicting others as need be; leaves it empty when too much is pinned.
  void TakeSlots(BlockEntry* entry, size_t count) {
    entry->slots.reserve(count);
    if (!MakeRoom(count)) return;
    for (size_t i = 0; i < count; ++i) {
      entry->slots.push_back(free_slots_.back());
      dirty_[free_slots_.back()] = true;
      free_slots_.pop_back();
    }
  }

  // Within the capacity reserved for free_slots_, so it cannot fail.
  void FreeSlots(BlockEntry* entry) {
    free_slots_.insert(free_slots_.end(), entry->slots.begin(), entry->slots.end());
    entry->slots.clear();
  }

  bool MakeRoom(size_t count) {
    // Every step either frees an entry, lowers a use count, moves an entry from small to main, or
    // passes over a pinned one; when a whole round passed over pinned ones only, there is no room.
    size_t passed_over = 0;
    while (free_slots_.size() < count) {
      if (passed_over > small_.size() + main_.size()) return false;
      const bool from_small =
          !small_.empty() && (small_slots_ > slot_count_ / kSmallFraction || main_.empty());
      if (!from_small && main_.empty()) return false;
      if (from_small ? EvictFromSmall() : EvictFromMain()) {
        passed_over = 0;
      } else {
        ++passed_over;
      }
    }
    return true;
  }

  // False when the oldest entry was pinned and only moved back.
  bool EvictFromSmall() {
    BlockEntry* entry = small_.front();
    if (entry->pins > 0) {
      // Someone is using it: let it live as long as one that was used again, so that a small queue
      // full of pinned entries does not hide evictable ones in main.
      MoveTo(entry, Queue::kMain);
      return false;
    }
    if (entry->uses > 0) {
      entry->uses = 0;
      MoveTo(entry, Queue::kMain);
      return true;
    }
    Remember(entry->key);
    ++stats_.evictions;
    Remove(entry);
    return true;
  }

  bool EvictFromMain() {
    BlockEntry* entry = main_.front();
    if (entry->pins > 0 || entry->uses > 0) {
      const bool progress = entry->pins == 0;
      if (progress) --entry->uses;
      main_.splice(main_.end(), main_, entry->position);
      return progress;
    }
    ++stats_.evictions;
    Remove(entry);
    return true;
  }

  // Keys that left the small queue unused: one that comes back soon goes straight to main.
  void Remember(const BlockKey& key) {
    try {
      if (ghosts_.insert(key).second) ghost_order_.push_back(key);
    } catch (const std::bad_alloc&) {
      return;  // a worse guess later, no more
    }
    while (ghost_order_.size() > slot_count_) {
      ghosts_.erase(ghost_order_.front());
      ghost_order_.pop_front();
    }
  }

  std::list<BlockEntry*>& ListOf(Queue queue) { return queue == Queue::kSmall ? small_ : main_; }
  size_t& SlotsOf(Queue queue) { return queue == Queue::kSmall ? small_slots_ : main_slots_; }

  void MoveTo(BlockEntry* entry, Queue queue) {
    std::list<BlockEntry*>& to = ListOf(queue);
    to.splice(to.end(), ListOf(entry->queue), entry->position);
    SlotsOf(entry->queue) -= entry->slots.size();
    SlotsOf(queue) += entry->slots.size();
    entry->queue = queue;
  }

  // Puts the entry into the map and a queue, or leaves it as it is when there is no memory for
  // that.
  void TryCache(BlockEntry* entry) {
    const Queue queue = ghosts_.contains(entry->key) ? Queue::kMain : Queue::kSmall;
    std::list<BlockEntry*>& list = ListOf(queue);
    std::list<BlockEntry*> node;
    try {
      node.push_back(entry);
      entries_.emplace(entry->key, entry);
    } catch (const std::bad_alloc&) {
      return;
    }
    list.splice(list.end(), node);
    entry->position = std::prev(list.end());
    entry->queue = queue;
    SlotsOf(queue) += entry->slots.size();
    entry->cached = true;
  }

  // Takes a cached entry out. When nobody has it pinned its slots are free at once, with their
  // bytes in them; else the last pin frees them.
  void Remove(BlockEntry* entry) {
    ListOf(entry->queue).erase(entry->position);
    SlotsOf(entry->queue) -= entry->slots.size();
    entry->queue = Queue::kNone;
    entry->cached = false;
    entries_.erase(entry->key);
    if (entry->pins == 0) {
      FreeSlots(entry);
      delete entry;
    }
  }

  void Work() {
    std::unique_lock lock(mutex_);
    while (true) {
      work_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (stopping_) return;
      Job job = std::move(jobs_.front());
      jobs_.pop_front();
      BlockHandle handle;
      if (Find(job.key) == nullptr && !fills_.contains(job.key)) {
        try {
          Result<BlockHandle> read = Read(job.key, job.snapshot.get(), 0, lock);
          if (read.ok()) {
            ++stats_.prefetches;
            handle = std::move(*read);
            // One who waited for this read has made the use it was for.
            handle.entry_->unread = handle.entry_->pins == 1;
          }
        } catch (const std::bad_alloc&) {
          if (!lock.owns_lock()) lock.lock();
        }
      }
      // A handle takes our lock to unpin, and the last owner of a snapshot may close the store. In
      // this order, so that nothing is pinned any more once the snapshot is seen to be gone.
      lock.unlock();
      handle = BlockHandle();
      job.snapshot.reset();
      lock.lock();
    }
  }

  std::shared_ptr<const Store> store_;
  const BlockCacheOptions options_;
  const size_t slot_bytes_;
  const size_t slot_count_;
  std::byte* slab_ = nullptr;
  std::vector<std::thread> workers_;

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable filled_;
  std::condition_variable work_;
  std::vector<uint32_t> free_slots_;
  std::vector<bool> dirty_;  // by slot: written since the last scrub
  std::unordered_map<BlockKey, BlockEntry*, BlockKeyHash> entries_;
  std::unordered_map<BlockKey, std::shared_ptr<Fill>, BlockKeyHash> fills_;
  std::list<BlockEntry*> small_;  // oldest first
  std::list<BlockEntry*> main_;
  size_t small_slots_ = 0;
  size_t main_slots_ = 0;
  std::unordered_set<BlockKey, BlockKeyHash> ghosts_;
  std::deque<BlockKey> ghost_order_;
  std::deque<Job> jobs_;
  bool stopping_ = false;
  BlockCacheStats stats_;
};

BlockHandle::BlockHandle(BlockHandle&& other) noexcept
    : core_(std::move(other.core_)), entry_(std::exchange(other.entry_, nullptr)) {}

BlockHandle& BlockHandle::operator=(BlockHandle&& other) noexcept {
  if (this != &other) {
    Release();
    core_ = std::move(other.core_);
    entry_ = std::exchange(other.entry_, nullptr);
  }
  return *this;
}

BlockHandle::~BlockHandle() { Release(); }

void BlockHandle::Release() {
  if (entry_ != nullptr) core_->Unpin(std::exchange(entry_, nullptr));
  core_.reset();
}

uint32_t BlockHandle::n_chunks() const { return entry_->n_chunks; }
size_t BlockHandle::slot_bytes() const { return core_->slot_bytes(); }

const std::byte* BlockHandle::slot(uint32_t chunk) const { return core_->Chunk(*entry_, chunk); }

const std::byte* BlockHandle::key(uint32_t chunk, uint32_t layer) const {
  const TensorShape& shape = core_->shape();
  return slot(chunk) + size_t{layer} * 2 * shape.dim * DataTypeBytes(shape.dtype);
}

const std::byte* BlockHandle::value(uint32_t chunk, uint32_t layer) const {
  const TensorShape& shape = core_->shape();
  return slot(chunk) + (size_t{layer} * 2 + 1) * shape.dim * DataTypeBytes(shape.dtype);
}

BlockCache::BlockCache(std::shared_ptr<BlockCacheCore> core) : core_(std::move(core)) {}

Result<std::unique_ptr<BlockCache>> BlockCache::Create(std::shared_ptr<const Store> store,
                                                       const BlockCacheOptions& options) try {
  TensorShape one_chunk = options.shape;
  one_chunk.n_chunks = 1;
  MSADB_ASSIGN_OR_RETURN([[maybe_unused]] const size_t bytes, BlocksBytes(one_chunk));
  auto core = std::make_shared<BlockCacheCore>(std::move(store), options);
  MSADB_RETURN_IF_ERROR(core->Allocate());
  std::unique_ptr<BlockCache> cache(new BlockCache(core));  // stops the workers if one cannot start
  core->StartWorkers();
  return cache;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory for the block cache");
} catch (const std::system_error& error) {
  return Status::ResourceExhausted(std::string("starting a fill thread: ") + error.what());
}

BlockCache::~BlockCache() { core_->StopWorkers(); }

Result<BlockHandle> BlockCache::Get(CollectionId collection, Number number,
                                    const Snapshot* snapshot, uint64_t reader) try {
  return core_->Get({collection, number}, snapshot, reader);
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to read content blocks");
}

void BlockCache::Prefetch(CollectionId collection, std::span<const Number> numbers,
                          std::shared_ptr<const Snapshot> snapshot) {
  try {
    core_->Prefetch(collection, numbers, snapshot);
  } catch (const std::bad_alloc&) {
    // Only a hint was lost.
  }
}

void BlockCache::Erase(CollectionId collection, Number number) {
  core_->Erase({collection, number});
}
void BlockCache::EraseCollection(CollectionId collection) { core_->EraseCollection(collection); }
void BlockCache::Scrub() { core_->Scrub(); }
BlockCacheStats BlockCache::Stats() const { return core_->Stats(); }

}  // namespace msadb::storage
