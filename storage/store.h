// The durable state of one database folder: collections, part records, routing keys and content
// blocks, in one RocksDB. Storage is the truth; indexes are derived from it.
//
//   auto store = Store::Open("notes", {.fingerprint = model_fingerprint});
//   auto id = (*store)->CreateCollection("default");
//   auto number = (*store)->ReserveNumbers(*id, 1);
//   WriteSet set = (*store)->NewWriteSet();
//   set.PutPart(*id, *number, record, routing, blocks);
//   (*store)->Commit(std::move(set));
//
// Threads: every method of Store and Snapshot may be called from any thread. A WriteSet belongs to
// one thread at a time. Readers never wait for writers; commits are serialised inside. Errors: a
// failed call changed nothing, unless it says otherwise. Codes used throughout:
//   Corruption         stored bytes are damaged; nothing was read from them
//   IOError            the operating system refused
//   ResourceExhausted  no memory, or too little free disk space for an insert
//   Unavailable        the store stopped accepting writes after a failure (below), or is locked
//   FailedPrecondition the store is read-only, or belongs to another model
// No exception leaves this class, but for std::bad_alloc from what returns a plain value.
//
// Fail-stop: after the first write that RocksDB could not make durable (a failed append, fsync,
// flush or compaction), the state of the tail of the log is unknown: it may or may not reappear.
// From then on every write answers Unavailable with the first cause, until the folder is opened
// again. Reads go on.
//
// The folder (mode 0700):
//   MSADB     names the format; written last when a database is created
//   LOCK      held by the process that has it open
//   COMMITS   how far log and MANIFEST must reach, so that a cut-off one is noticed
//   rocksdb/  everything else; docs/format.md
#ifndef MSADB_STORAGE_STORE_H_
#define MSADB_STORAGE_STORE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "msadb/status.h"
#include "storage/record.h"

namespace msadb::storage {

struct StoreHooks;  // storage/store_hooks.h: a file system of the tests' own

inline constexpr uint32_t kFormatVersion = 1;
inline constexpr size_t kCollectionNameBytesMax = 128;
// One commit, all values together. RocksDB's own bound on a batch is 4 GiB.
inline constexpr size_t kWriteSetBytesMax = size_t{2} << 30;

// When an acknowledged commit is on disk.
enum class CommitDurability : uint8_t {
  kSync,      // before Commit returns
  kBuffered,  // handed to the operating system: survives a killed process, not a power cut
};

struct StoreOptions {
  // --- Behavior ---
  bool create_if_missing = true;
  bool error_if_exists = false;  // AlreadyExists when the folder holds a database
  bool read_only = false;        // refuses every change; still takes the lock

  // Identity of the model whose memory is stored, and a line about it for people. A new database
  // adopts it; an existing one with another identity refuses with FailedPrecondition naming both.
  // Empty: any database opens, and a new one has no identity until SetModel.
  std::string fingerprint;
  std::string model_description;

  CommitDurability durability = CommitDurability::kSync;

  // --- Performance and room ---
  // RocksDB's memtables and block cache together, half each. At least 1 MiB.
  size_t memory_bytes = size_t{128} << 20;
  // Free disk space below which inserts answer ResourceExhausted (deletes and Purge go on).
  // Default: 3 x the write buffer + 64 MiB. The bytes of the insert come on top.
  std::optional<uint64_t> disk_headroom_bytes;
  // Compress texts and metadata (Zstandard, else LZ4). Blocks and routing keys never are.
  bool compress = true;

  std::shared_ptr<StoreHooks> hooks;  // tests only
};

// Per collection, kept exact by every commit.
struct CollectionStats {
  uint64_t documents = 0;
  uint64_t parts = 0;
  uint64_t tokens = 0;
  uint64_t chunks = 0;
  uint64_t text_bytes = 0;
  uint64_t routing_bytes = 0;  // as stored
  uint64_t blocks_bytes = 0;   // as stored

  bool operator==(const CollectionStats&) const = default;
};

struct CollectionInfo {
  CollectionId id = 0;
  std::string name;
  int64_t created_us = 0;
  Number next_number = 1;  // greater than every number ever committed here
  CollectionStats stats;
};

struct ColumnFamilyStats {
  std::string name;
  uint64_t sst_bytes = 0;
  uint64_t blob_bytes = 0;          // blob files, garbage included
  uint64_t blob_garbage_bytes = 0;  // known to be dead; Purge removes it
  uint64_t memtable_bytes = 0;
  uint64_t estimated_keys = 0;
};

struct StoreStats {
  std::vector<ColumnFamilyStats> column_families;
  uint64_t wal_bytes = 0;
  uint64_t disk_bytes = 0;  // all files of the folder
  uint64_t free_disk_bytes = 0;
  uint64_t memory_bytes = 0;  // memtables, block cache and table readers
  uint64_t commits = 0;       // ever, in this database
  uint64_t open_snapshots = 0;
};

struct PurgeReport {
  uint64_t disk_bytes_before = 0;
  uint64_t disk_bytes_after = 0;
  uint64_t open_snapshots = 0;
  // What was deleted but is still on disk, because an open snapshot or a read under way can still
  // see it (an estimate of its size, never 0 when there is any). Release them and purge again.
  uint64_t bytes_retained = 0;
  bool complete() const { return bytes_retained == 0; }
};

struct Damage {
  CollectionId collection = 0;  // 0: not of one collection
  Number number = 0;            // 0: not of one part
  std::string what;             // for people; names the file, or collection and number
};

struct StoreVerifyOptions {
  size_t damages_max = 1000;  // listed; all are counted
  // Called now and then. Return false to stop with Cancelled. May be empty.
  std::function<bool(uint64_t bytes_done, uint64_t bytes_total)> on_progress;
};

struct StoreVerifyReport {
  uint64_t parts_checked = 0;
  uint64_t bytes_checked = 0;
  std::vector<Damage> damages;
  uint64_t damages_total = 0;
  bool ok() const { return damages_total == 0; }
};

// A frozen view. Commits after TakeSnapshot are invisible through it. It keeps the Store open and
// deleted data on disk, so release it soon. Take it by Store::TakeSnapshot only.
class Snapshot {
 public:
  virtual ~Snapshot() = default;
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;
  // Number of the last commit it sees.
  virtual uint64_t commit() const = 0;

 protected:
  Snapshot() = default;
};

// Changes that become durable and visible together, in the order they were added. Made by
// Store::NewWriteSet, used up by Store::Commit; dropping it drops the changes. Statistics, key
// mappings and expiry entries follow from the parts: there is nothing else to keep in step.
class WriteSet {
 public:
  WriteSet(WriteSet&&) noexcept;
  WriteSet& operator=(WriteSet&&) noexcept;
  ~WriteSet();

  // Adds one part: record, routing keys and content blocks, and for part 0 its key and expiry.
  // Copies everything. `number` was reserved with ReserveNumbers and is record.first_number +
  // record.part_index; both shapes have record.chunk_count chunks.
  // A part 0 with a key takes over that key: delete the document it named before, in this set.
  // InvalidArgument: shapes, sizes or fields contradict each other. ResourceExhausted: the set
  // would exceed kWriteSetBytesMax. On error the set is as before.
  Status PutPart(CollectionId collection, Number number, const PartRecord& record,
                 const TensorView& routing, const TensorView& blocks);

  // Deletes one part; `record` is what Store::ReadPart returned for it (kNoText suffices). Delete
  // all parts of a document in the same set. Between that read and the commit nobody else may
  // delete the part: storage counts what it is told, and refuses with Internal when the count goes
  // below zero.
  Status DeletePart(CollectionId collection, Number number, const PartRecord& record);

  // Numbers below `next` are never given out again (by a reopened store either), used or not. For
  // copying a collection with its numbers. Never lowers.
  Status RaiseNextNumber(CollectionId collection, Number next);

  // Small named values of the database itself (model path and the like). An empty value removes it.
  // Names: 1..64 bytes of [a-z0-9_.]; values up to 64 KiB.
  Status PutSetting(std::string_view name, std::string_view value);

  size_t bytes() const;  // what the commit will write to the log, about
  bool empty() const;
  bool inserts() const;  // has a PutPart, so the disk headroom applies

 private:
  friend class StoreImpl;
  struct State;
  explicit WriteSet(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

struct ExpiredPart {
  CollectionId collection = 0;
  Number number = 0;  // of the first part
  int64_t expires_us = 0;
};

class Store {
 public:
  // Opens the database in `folder`, or creates one there (the parent folder must exist).
  // NotFound: none there and create_if_missing is off. AlreadyExists: error_if_exists.
  // FailedPrecondition: another model's memory; or the folder holds something else.
  // Unsupported: a newer format. Unavailable: another process (or this one) has it open.
  // Corruption: damaged, or acknowledged commits are missing from the log.
  static Result<std::shared_ptr<Store>> Open(const std::string& folder,
                                             const StoreOptions& options = {});
  // Closes. What was committed under kBuffered is synced first.
  virtual ~Store() = default;

  virtual bool created() const = 0;  // Open made a new database
  virtual bool read_only() const = 0;
  virtual const std::string& folder() const = 0;
  // OK, or the Unavailable that every write now answers with.
  virtual Status write_status() const = 0;

  // --- Model identity and settings ---
  virtual std::string fingerprint() const = 0;
  virtual std::string model_description() const = 0;
  // OK when the stored identity is `fingerprint`; else FailedPrecondition naming both.
  virtual Status CheckModel(std::string_view fingerprint, std::string_view description) const = 0;
  // Adopts another identity. The caller has re-encoded everything, or there is nothing to
  // re-encode.
  virtual Status SetModel(std::string_view fingerprint, std::string_view description) = 0;
  virtual Result<std::string> GetSetting(std::string_view name) const = 0;  // NotFound

  // --- Collections ---
  // Names: 1 to 128 bytes of UTF-8 without control characters or '/'. InvalidArgument,
  // AlreadyExists.
  virtual Result<CollectionId> CreateCollection(std::string_view name) = 0;
  // Deletes the collection with everything in it, in one commit, whose size is about 100 bytes a
  // part. NotFound; Corruption when its rows cannot be listed.
  virtual Status DropCollection(CollectionId id) = 0;
  virtual Result<CollectionInfo> FindCollection(std::string_view name) const = 0;  // NotFound
  // As of `snapshot`, or now when it is null. NotFound.
  virtual Result<CollectionInfo> GetCollection(CollectionId id,
                                               const Snapshot* snapshot = nullptr) const = 0;
  virtual Result<std::vector<CollectionInfo>> ListCollections() const = 0;  // ascending name

  // --- Writing ---
  // The first of `count` (1..2^32) consecutive numbers that nobody else gets while the store is
  // open. Numbers of documents that are then not committed may be given out again after a reopen.
  virtual Result<Number> ReserveNumbers(CollectionId collection, uint64_t count) = 0;
  virtual WriteSet NewWriteSet() = 0;
  // Applies the set: all of it, durable as StoreOptions::durability says, or nothing. NotFound: one
  // of its collections was dropped. After IOError or Unavailable the outcome of this one commit is
  // decided by the next open: there whole, or not at all.
  virtual Status Commit(WriteSet&& set) = 0;
  // Makes buffered commits durable.
  virtual Status Sync() = 0;

  // --- Reading: as of `snapshot`, or now when it is null ---
  virtual Result<std::shared_ptr<const Snapshot>> TakeSnapshot() const = 0;
  // NotFound, Corruption.
  virtual Result<PartRecord> ReadPart(CollectionId collection, Number number,
                                      const Snapshot* snapshot = nullptr,
                                      PartFields fields = PartFields::kAll) const = 0;
  virtual Result<bool> HasPart(CollectionId collection, Number number,
                               const Snapshot* snapshot = nullptr) const = 0;
  // The id of the document with this key. NotFound. InvalidArgument in the case nobody has seen
  // yet: another key of the collection has the same 128-bit hash, so that this one cannot be
  // stored.
  virtual Result<Number> FindKey(CollectionId collection, std::string_view key,
                                 const Snapshot* snapshot = nullptr) const = 0;
  // Calls `use` with the verified value; the view ends with the call.
  using TensorUse = std::function<void(const TensorView& tensor)>;
  virtual Status ReadRouting(CollectionId collection, Number number, const TensorUse& use,
                             const Snapshot* snapshot = nullptr) const = 0;
  virtual Status ReadBlocks(CollectionId collection, Number number, const TensorUse& use,
                            const Snapshot* snapshot = nullptr) const = 0;

  // Parts with number in [first, last], ascending, until `visit` returns false. A damaged value
  // ends the scan with Corruption naming it.
  using PartVisit = std::function<bool(Number number, PartRecord&& record)>;
  virtual Status ScanParts(CollectionId collection, Number first, Number last,
                           const PartVisit& visit, const Snapshot* snapshot = nullptr,
                           PartFields fields = PartFields::kAll) const = 0;
  // Routing keys likewise, read ahead in large steps and without filling caches. To rebuild an
  // index with several threads, give each a range of numbers.
  using TensorVisit = std::function<bool(Number number, const TensorView& tensor)>;
  virtual Status ScanRouting(CollectionId collection, Number first, Number last,
                             const TensorVisit& visit,
                             const Snapshot* snapshot = nullptr) const = 0;
  // Documents of all collections whose expires_us <= now_us; at most `limit`.
  virtual Result<std::vector<ExpiredPart>> FindExpired(
      int64_t now_us, size_t limit, const Snapshot* snapshot = nullptr) const = 0;

  // --- Upkeep ---
  // Rewrites the files so that no byte of deleted texts, metadata, keys or blocks is left on disk,
  // but for what open snapshots can still read (see PurgeReport). Does nothing when nothing was
  // deleted since the last one. Readers and writers go on meanwhile; what is deleted after the call
  // began may stay until the next. ResourceExhausted: not enough free space to rewrite.
  virtual Result<PurgeReport> Purge() = 0;
  // Reads every byte and cross-checks: file checksums, every record, routing and blocks value,
  // keys, expiry entries and statistics. Damage goes into the report; the Status is about the
  // checking.
  virtual Result<StoreVerifyReport> Verify(const StoreVerifyOptions& options = {}) = 0;
  virtual Result<StoreStats> Stats() const = 0;
  // RocksDB's newest warnings and errors, oldest first, for a bug report. No stored text.
  virtual std::vector<std::string> RecentLog() const = 0;

 protected:
  Store() = default;
};

// OK, or InvalidArgument saying what a collection name may be.
Status CheckCollectionName(std::string_view name);

}  // namespace msadb::storage

#endif  // MSADB_STORAGE_STORE_H_
