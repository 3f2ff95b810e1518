// Store over RocksDB. Internal to storage. One class, by concern in several files:
//   store.cc              opening, collections, settings, commits
//   write_set.cc          building a commit
//   store_read.cc         snapshots, reads and scans
//   store_maintenance.cc  purge, statistics
//   store_verify.cc       verify
//
// Locks, in the order they may be taken:
//   maintenance_mutex_  one Purge or Verify at a time
//   commit_mutex_       one commit at a time, from checking it to publishing its effects
//   state_mutex_        the fields below it, for moments only; never held across RocksDB calls
#ifndef MSADB_STORAGE_STORE_IMPL_H_
#define MSADB_STORAGE_STORE_IMPL_H_

#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/write_batch.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "storage/codec.h"
#include "storage/commit_log.h"
#include "storage/folder.h"
#include "storage/info_log.h"
#include "storage/store.h"

namespace msadb::storage {

inline constexpr Number kNumberMax = Number{1} << 62;

Status CheckSettingName(std::string_view name);
Status UsedUp();  // what a write set that has been committed answers

inline rocksdb::Slice ToSlice(std::string_view v) { return {v.data(), v.size()}; }
inline std::string_view ToView(const rocksdb::Slice& v) { return {v.data(), v.size()}; }

// What the commits so far amount to.
struct Counters {
  uint64_t commits = 0;
  uint64_t deleted_bytes = 0;  // ever; at least 1 for each commit that removed something
  CollectionId next_collection = 1;
};

struct CollectionState {
  std::string name;
  int64_t created_us = 0;
  Number next_number = 1;    // as stored
  Number next_reserved = 1;  // >= next_number; in memory only
  CollectionStats stats;
};

// What a WriteSet adds to (or takes from) a collection.
struct CollectionChange {
  int64_t documents = 0;
  int64_t parts = 0;
  int64_t tokens = 0;
  int64_t chunks = 0;
  int64_t text_bytes = 0;
  int64_t routing_bytes = 0;
  int64_t blocks_bytes = 0;
  Number next_number = 0;  // at least
  Number number_put = 0;   // the greatest; must have been reserved
};

class StoreImpl;
using FamilyHandles = std::array<rocksdb::ColumnFamilyHandle*, kFamilyCount>;

struct WriteSet::State {
  const StoreImpl* store = nullptr;  // that made it; compared, never followed
  FamilyHandles families{};
  rocksdb::WriteBatch batch;
  std::map<CollectionId, CollectionChange> changes;
  uint64_t deleted_bytes = 0;
  uint64_t inserts = 0;
};

class SnapshotImpl final : public Snapshot {
 public:
  SnapshotImpl(std::shared_ptr<const StoreImpl> store, const rocksdb::Snapshot* snapshot)
      : store_(std::move(store)), snapshot_(snapshot) {}
  ~SnapshotImpl() override;
  uint64_t commit() const override { return counters_.commits; }

 private:
  friend class StoreImpl;
  std::shared_ptr<const StoreImpl> store_;
  const rocksdb::Snapshot* snapshot_;
  Counters counters_;
  bool registered_ = false;
};

class StoreImpl final : public Store, public std::enable_shared_from_this<StoreImpl> {
 public:
  StoreImpl(std::string folder, const StoreOptions& options);
  ~StoreImpl() override;
  Status OpenFolder();

  bool created() const override { return created_; }
  bool read_only() const override { return options_.read_only; }
  const std::string& folder() const override { return folder_; }
  Status write_status() const override;

  std::string fingerprint() const override;
  std::string model_description() const override;
  Status CheckModel(std::string_view fingerprint, std::string_view description) const override;
  Status SetModel(std::string_view fingerprint, std::string_view description) override;
  Result<std::string> GetSetting(std::string_view name) const override;

  Result<CollectionId> CreateCollection(std::string_view name) override;
  Status DropCollection(CollectionId id) override;
  Result<CollectionInfo> FindCollection(std::string_view name) const override;
  Result<CollectionInfo> GetCollection(CollectionId id, const Snapshot* snapshot) const override;
  Result<std::vector<CollectionInfo>> ListCollections() const override;

  Result<Number> ReserveNumbers(CollectionId collection, uint64_t count) override;
  WriteSet NewWriteSet() override;
  Status Commit(WriteSet&& set) override;
  Status Sync() override;

  Result<std::shared_ptr<const Snapshot>> TakeSnapshot() const override;
  Result<PartRecord> ReadPart(CollectionId collection, Number number, const Snapshot* snapshot,
                              PartFields fields) const override;
  Result<bool> HasPart(CollectionId collection, Number number,
                       const Snapshot* snapshot) const override;
  Result<Number> FindKey(CollectionId collection, std::string_view key,
                         const Snapshot* snapshot) const override;
  Status ReadRouting(CollectionId collection, Number number, const TensorUse& use,
                     const Snapshot* snapshot) const override;
  Status ReadBlocks(CollectionId collection, Number number, const TensorUse& use,
                    const Snapshot* snapshot) const override;
  Status ScanParts(CollectionId collection, Number first, Number last, const PartVisit& visit,
                   const Snapshot* snapshot, PartFields fields) const override;
  Status ScanRouting(CollectionId collection, Number first, Number last, const TensorVisit& visit,
                     const Snapshot* snapshot) const override;
  Result<std::vector<ExpiredPart>> FindExpired(int64_t now_us, size_t limit,
                                               const Snapshot* snapshot) const override;

  Result<PurgeReport> Purge() override;
  Result<StoreVerifyReport> Verify(const StoreVerifyOptions& options) override;
  Result<StoreStats> Stats() const override;
  std::vector<std::string> RecentLog() const override { return log_->Lines(); }

  // Ends writing for good; the first cause stays. Safe to call from RocksDB's threads.
  void Stop(std::string_view cause);
  void Release(SnapshotImpl& snapshot) const;
  // RocksDB has written or dropped files, so that its MANIFEST has grown.
  void NoteFilesChanged() { files_changed_ = true; }

 private:
  friend class Verifier;  // store_maintenance.cc

  // --- Opening ---
  rocksdb::Options DbOptions(bool create) const;
  rocksdb::ColumnFamilyOptions FamilyOptions(Family family) const;
  Result<uint64_t> InspectLog();
  // RocksDB's verdict on opening, in our words.
  Status OpenStatus(const rocksdb::Status& s) const;
  std::vector<rocksdb::ColumnFamilyDescriptor> FamilyDescriptors(size_t cache_bytes) const;
  // Commits after `last_commit` in the log are not applied.
  Status OpenRocksdb(bool create, uint64_t last_commit);
  Status Initialize();  // the first commit of a new database
  Status LoadState();   // Corruption, FailedPrecondition, Unsupported
  uint64_t WriteBufferBytes() const { return options_.memory_bytes / 2; }

  // --- Writing ---
  // Everything a write must pass first: open for writing, not stopped.
  Status CheckWritable() const;
  Status CheckHeadroom(uint64_t bytes) const;
  Result<uint64_t> FreeDiskBytes() const;
  // With commit_mutex_ held: adds the counters to `batch` and writes it. On failure stops the
  // store.
  Status WriteBatchLocked(rocksdb::WriteBatch* batch, Counters counters);
  // With commit_mutex_ held (or none else about): notes in COMMITS how far log and MANIFEST reach.
  void RecordMark();

  // --- Reading ---
  rocksdb::ColumnFamilyHandle* family(Family f) const { return families_[static_cast<size_t>(f)]; }
  static rocksdb::ReadOptions ReadOptionsFor(const Snapshot* snapshot);
  // The unsealed payload, in `value`'s memory. Collection and number are for messages (0: of
  // neither).
  Result<std::string_view> GetSealed(Family f, std::string_view key, const Snapshot* snapshot,
                                     rocksdb::PinnableSlice* value, CollectionId collection,
                                     Number number) const;
  Status ReadTensor(Family f, CollectionId collection, Number number, const TensorUse& use,
                    const Snapshot* snapshot) const;
  // Calls visit(number, payload) for parts in [first, last].
  Status ScanSealed(Family f, CollectionId collection, Number first, Number last,
                    const Snapshot* snapshot, size_t readahead_bytes,
                    const std::function<Result<bool>(Number, std::string_view)>& visit) const;
  // "document 17 in collection 'notes'".
  std::string PartName(CollectionId collection, Number number) const;
  std::string CollectionName(CollectionId collection) const;
  Result<CollectionState> DecodeCollection(CollectionId id, std::string_view name_payload,
                                           std::string_view stats_payload) const;
  // Adds the deletion of every row of a collection, in all families but meta. Caller holds
  // commit_mutex_.
  Status DeleteRowsOf(CollectionId id, rocksdb::WriteBatch* batch);

  // --- Upkeep ---
  Status FlushAll();
  Status CompactFamily(Family f);
  Status CollectBlobGarbage();
  Status CheckRewriteRoom(uint64_t bytes) const;
  // Deletes files that no version needs any more. Of `before` (the data files when the purge
  // began), returns the bytes of those that had to stay, because a read under way holds them.
  Result<uint64_t> DropObsoleteFiles(const std::vector<FolderFile>& before);

  const std::string folder_;
  const std::string rocksdb_folder_;
  const StoreOptions options_;
  bool created_ = false;

  std::shared_ptr<InfoLog> log_;
  std::unique_ptr<FolderLock> lock_;
  std::shared_ptr<rocksdb::FileSystem> file_system_;
  std::shared_ptr<rocksdb::Env> env_;
  std::unique_ptr<rocksdb::DB> db_;
  FamilyHandles families_{};
  std::unique_ptr<CommitMarkFile> mark_file_;  // guarded by commit_mutex_ after Open
  ManifestDigest manifest_;                    // likewise
  std::string mark_damage_;                    // set by Open, then constant
  std::atomic<bool> files_changed_{true};

  std::mutex maintenance_mutex_;
  mutable std::mutex commit_mutex_;

  std::atomic<bool> stopped_{false};
  std::mutex stop_mutex_;   // a leaf: taken under any other, and inside RocksDB's callbacks
  std::string stop_cause_;  // written once under stop_mutex_, before stopped_ is set

  mutable std::mutex state_mutex_;
  std::string fingerprint_;
  std::string model_description_;
  Counters counters_;
  uint64_t purged_bytes_ = 0;
  uint64_t synced_commits_ = 0;
  std::map<CollectionId, CollectionState> collections_;
  std::map<std::string, CollectionId, std::less<>> collection_ids_;
  mutable std::multiset<uint64_t>
      snapshot_deleted_bytes_;  // Counters::deleted_bytes of each open snapshot
};

}  // namespace msadb::storage

#endif  // MSADB_STORAGE_STORE_IMPL_H_
