// One collection of an open database: its commits, its loaded index and what readers see of it.
//
// A reader takes a View: under publish_mutex_ it copies the pointer to the published index and
// takes a storage snapshot. A commit becomes visible in two places, first in storage, then in the
// index; so that no reader sees one without the other, the writer pins a storage snapshot before
// its storage commit, readers that come meanwhile use the pinned one, and index and unpinning are
// published together. A reader therefore never waits for an fsync, and one that starts after a
// commit was acknowledged sees it.
//
// Everything may be called from any thread. Lock order: db/engine.h.
#ifndef MSADB_DB_COLLECTION_STATE_H_
#define MSADB_DB_COLLECTION_STATE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "db/conflict_tracker.h"
#include "db/encoder.h"
#include "db/engine.h"
#include "db/loader.h"

namespace msadb::db {

// What a put does when its key has an owner at the time of the commit.
enum class PutMode : uint8_t {
  kInsert,        // AlreadyExists
  kInsertOrSkip,  // leaves the owner and drops the put
  kUpsert,        // deletes the owner
};

struct CommitRequest {
  struct Put {
    const PendingDocument* document = nullptr;  // the caller's
    PutMode mode = PutMode::kInsert;
  };
  std::vector<Put> puts;
  std::vector<DocumentId> deletes;
  std::vector<std::string> deleted_keys;
  bool ignore_missing = false;          // else a missing document or key is NotFound
  std::optional<TimePoint> expired_at;  // delete only what has expired by then
  // Of a transaction: the version it began at and all it changed.
  std::optional<uint64_t> began;
  ChangeSet changes;
};

struct CommitOutcome {
  size_t put = 0;      // documents; without those skipped
  size_t deleted = 0;  // documents, replaced ones included
};

class CollectionState final : public IndexBudget::Holder {
 public:
  // `engine` outlives it.
  CollectionState(Engine* engine, storage::CollectionId id, std::string name);
  ~CollectionState() override;

  storage::CollectionId id() const { return id_; }
  const std::string& name() const { return name_; }

  // NotFound when the collection was dropped.
  Result<View> CurrentView();
  // With the index: loads it at the first use, while commits to this collection wait.
  Result<View> LoadedView();

  // A view and, until EndTransaction, memory of what is committed after it.
  Result<View> BeginTransaction();
  void EndTransaction(uint64_t began);

  // All of the request or nothing. Conflict, AlreadyExists, NotFound, ResourceExhausted, IOError,
  // Unavailable, FailedPrecondition (read-only).
  Result<CommitOutcome> Commit(const CommitRequest& request);

  Status Drop();
  // Forgets every key of deleted documents in the index.
  Status CompactIndex();
  // After deletes: rewrites index segments that are mostly dead. Takes seconds when there are
  // millions of them, so the upkeep thread calls it; reads and commits go on meanwhile.
  void TidyIndex();

  // False while the index is not in memory.
  bool index_loaded() const;
  size_t index_bytes() const { return engine_->budget.BytesOf(const_cast<CollectionState*>(this)); }

  // IndexBudget::Holder.
  bool TryEvict() override;

 private:
  friend class Committer;

  Status CheckOpen() const;   // NotFound; needs publish_mutex_
  Result<View> ViewLocked();  // needs publish_mutex_
  Status Load();              // needs commit_mutex_
  void DropIndex();           // needs commit_mutex_
  Status RewriteIndex(const std::function<Status(index::RoutingIndex& index)>& rewrite);

  Engine* const engine_;
  const storage::CollectionId id_;
  const std::string name_;

  std::atomic<bool> untidy_ = false;  // documents were deleted since the last TidyIndex
  std::mutex commit_mutex_;
  std::shared_ptr<index::RoutingIndex> index_;  // commit_mutex_; null: not loaded

  mutable std::mutex publish_mutex_;
  // All of publish_mutex_.
  bool dropped_ = false;
  std::shared_ptr<const IndexView> index_view_;               // null: not loaded
  std::shared_ptr<const storage::Snapshot> pinned_snapshot_;  // during a storage commit
  ConflictTracker tracker_;
};

}  // namespace msadb::db

#endif  // MSADB_DB_COLLECTION_STATE_H_
