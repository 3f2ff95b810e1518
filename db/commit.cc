// One commit of a collection, from the check for conflicts to the published index.
//
// The order makes a failure at any step harmless: everything that can fail for want of memory comes
// before the storage commit, everything after it is pointer swaps. Should the index contradict
// storage, it is dropped and rebuilt at its next use; storage is the truth.
#include <map>
#include <utility>

#include "db/collection_state.h"

namespace msadb::db {

class Committer {
 public:
  Committer(CollectionState* state, const CommitRequest& request)
      : state_(*state), engine_(*state->engine_), request_(request), now_(Now()) {}

  // Needs commit_mutex_.
  Result<CommitOutcome> Run() {
    MSADB_RETURN_IF_ERROR(CheckWritable());
    MSADB_RETURN_IF_ERROR(CheckConflicts());
    MSADB_RETURN_IF_ERROR(ResolveDeletes());
    MSADB_RETURN_IF_ERROR(ResolvePuts());
    CommitOutcome outcome;
    outcome.put = puts_.size();
    outcome.deleted = doomed_.size();
    if (puts_.empty() && doomed_.empty()) return outcome;
    MSADB_ASSIGN_OR_RETURN(storage::WriteSet set, BuildWriteSet());
    MSADB_RETURN_IF_ERROR(PrepareIndex());
    const Status committed = CommitStorage(std::move(set));
    if (!committed.ok()) {
      change_.reset();
      CorrectBudget();
      return committed;
    }
    for (const auto& [id, parts] : doomed_) {
      for (size_t i = 0; i < parts.size(); ++i) engine_.cache->Erase(state_.id_, id + i);
    }
    return outcome;
  }

 private:
  using Parts = std::vector<storage::PartRecord>;

  Status CheckWritable() {
    if (engine_.options.read_only) {
      return Status::FailedPrecondition(
          "the database is open read-only; open it without Options::read_only to change it");
    }
    MSADB_RETURN_IF_ERROR(engine_.store->write_status());
    std::lock_guard publish(state_.publish_mutex_);
    return state_.CheckOpen();
  }

  Status CheckConflicts() {
    if (!request_.began) return Status::Ok();
    std::lock_guard publish(state_.publish_mutex_);
    if (!state_.tracker_.Conflicts(*request_.began, request_.changes)) return Status::Ok();
    return Status::Conflict(
        "another commit changed a key or document of this transaction first; nothing was changed, "
        "begin again and repeat it");
  }

  static bool Expired(const storage::PartRecord& first, TimePoint now) {
    return first.expires_us && *first.expires_us <= ToMicroseconds(now);
  }

  // Reads all parts of the document whose first part is `first` and marks it for deletion.
  Status Doom(storage::PartRecord&& first, bool record_change) {
    const DocumentId id = first.first_number;
    if (doomed_.contains(id)) return Status::Ok();
    Parts parts;
    parts.reserve(first.part_count);
    parts.push_back(std::move(first));
    for (uint32_t i = 1; i < parts[0].part_count; ++i) {
      auto part =
          engine_.store->ReadPart(state_.id_, id + i, nullptr, storage::PartFields::kNoText);
      if (!part.ok()) {
        return Status::Corruption("part " + std::to_string(id + i) + " of document " +
                                  std::to_string(id) +
                                  " cannot be read: " + part.status().ToString());
      }
      parts.push_back(std::move(*part));
    }
    if (record_change) {
      changes_.documents.push_back(id);
      if (parts[0].key) changes_.keys.push_back(*parts[0].key);
    }
    doomed_.emplace(id, std::move(parts));
    return Status::Ok();
  }

  // The first part of document `id`, expired or not. NotFound.
  Result<storage::PartRecord> ReadFirst(DocumentId id) {
    auto first = engine_.store->ReadPart(state_.id_, id, nullptr, storage::PartFields::kNoText);
    if (first.ok() && first->part_index != 0) return Status::NotFound("not a first part");
    return first;
  }

  Status DeleteDocument(DocumentId id) {
    auto first = ReadFirst(id);
    const bool missing = first.status().code() == StatusCode::kNotFound;
    if (!first.ok() && !missing) return first.status();
    if (request_.expired_at) {
      if (missing || !Expired(*first, *request_.expired_at)) return Status::Ok();
      // It is invisible already: removing it is no change that anyone can see.
      return Doom(std::move(*first), /*record_change=*/false);
    }
    if (missing || Expired(*first, now_)) {
      if (request_.ignore_missing) return Status::Ok();
      return Status::NotFound("no document " + std::to_string(id) + " in collection '" +
                              state_.name_ + "'");
    }
    return Doom(std::move(*first), /*record_change=*/true);
  }

  Status ResolveDeletes() {
    for (const DocumentId id : request_.deletes) MSADB_RETURN_IF_ERROR(DeleteDocument(id));
    for (const std::string& key : request_.deleted_keys) {
      auto id = engine_.store->FindKey(state_.id_, key);
      Status status = id.ok() ? DeleteDocument(*id) : id.status();
      if (status.code() == StatusCode::kNotFound) {
        if (request_.ignore_missing) continue;
        return Status::NotFound("no document with key '" + key + "' in collection '" +
                                state_.name_ + "'");
      }
      MSADB_RETURN_IF_ERROR(std::move(status));
    }
    return Status::Ok();
  }

  Status ResolvePuts() {
    for (const CommitRequest::Put& put : request_.puts) {
      const auto& key = put.document->first().key;
      if (key) {
        auto owner = engine_.store->FindKey(state_.id_, *key);
        if (!owner.ok() && owner.status().code() != StatusCode::kNotFound) return owner.status();
        if (owner.ok() && !doomed_.contains(*owner)) {
          MSADB_ASSIGN_OR_RETURN(storage::PartRecord first, ReadFirst(*owner));
          if (!Expired(first, now_) && put.mode != PutMode::kUpsert) {
            if (put.mode == PutMode::kInsertOrSkip) continue;
            return Status::AlreadyExists("key '" + *key + "' is taken by document " +
                                         std::to_string(*owner) + "; use Upsert to replace it");
          }
          MSADB_RETURN_IF_ERROR(Doom(std::move(first), true));
        }
        changes_.keys.push_back(*key);
      }
      puts_.push_back(put.document);
    }
    return Status::Ok();
  }

  Result<storage::WriteSet> BuildWriteSet() {
    storage::WriteSet set = engine_.store->NewWriteSet();
    for (const auto& [id, parts] : doomed_) {
      for (const storage::PartRecord& part : parts) {
        MSADB_RETURN_IF_ERROR(set.DeletePart(state_.id_, id + part.part_index, part));
      }
    }
    for (const PendingDocument* document : puts_) {
      MSADB_RETURN_IF_ERROR(AddToWriteSet(engine_, state_.id_, *document, &set));
    }
    return set;
  }

  // Takes all memory that showing the commit will need. Without a loaded index there is nothing to
  // do: it will be built from storage.
  Status PrepareIndex() {
    if (state_.index_ == nullptr) return Status::Ok();
    Status status = TryPrepareIndex();
    if (status.ok()) return status;
    const bool no_room = status.code() == StatusCode::kResourceExhausted;
    if (no_room && !puts_.empty()) {
      CorrectBudget();
      return status;
    }
    // Deleting must work without memory too; and an index that contradicts storage is worth
    // nothing.
    change_.reset();
    index_ = nullptr;
    state_.DropIndex();
    return Status::Ok();
  }

  Status TryPrepareIndex() {
    index_ = state_.index_;
    std::vector<std::vector<float>> keys;
    std::vector<index::DocumentKeys> inserts;
    std::vector<index::DocumentNumber> deletes;
    std::vector<DocumentInfo> added;
    std::vector<DocumentId> removed;
    size_t bytes = 0;
    for (const PendingDocument* document : puts_) {
      for (const PendingPart& part : document->parts) {
        keys.push_back(ExpandRouting(part.routing));
        inserts.push_back({part.number(), part.record.chunk_count, keys.back().data()});
        bytes += EstimateIndexBytes(engine_, part.record.chunk_count);
      }
      const storage::PartRecord& first = document->first();
      added.push_back({document->id, first.part_count,
                       first.expires_us ? FromMicroseconds(*first.expires_us) : kNeverExpires,
                       first.metadata, first.source, first.written_by,
                       FromMicroseconds(first.created_us)});
    }
    for (const auto& [id, parts] : doomed_) {
      removed.push_back(id);
      for (size_t i = 0; i < parts.size(); ++i) deletes.push_back(id + i);
    }
    try {
      if (bytes > 0) MSADB_RETURN_IF_ERROR(engine_.budget.Charge(&state_, bytes));
      next_view_ = std::make_shared<IndexView>();
      next_view_->catalog = state_.index_view_->catalog->With(std::move(added), removed);
      MSADB_ASSIGN_OR_RETURN(index::Change change, index_->Prepare(inserts, deletes));
      change_.emplace(std::move(change));
    } catch (const std::bad_alloc&) {
      return Status::ResourceExhausted("no memory for the index of collection '" + state_.name_ +
                                       "'; nothing was changed");
    }
    return Status::Ok();
  }

  Status CommitStorage(storage::WriteSet&& set) {
    {
      std::lock_guard publish(state_.publish_mutex_);
      MSADB_ASSIGN_OR_RETURN(state_.pinned_snapshot_, engine_.store->TakeSnapshot());
    }
    const Status status = engine_.store->Commit(std::move(set));
    Publish(status.ok());
    return status;
  }

  // Nothing in here can fail.
  void Publish(bool committed) noexcept {
    std::shared_ptr<const storage::Snapshot> old_snapshot;  // freed outside the lock
    std::shared_ptr<const IndexView> old_view;
    if (committed && change_) {
      change_->Publish();
      change_.reset();
      next_view_->index = index_->TakeSnapshot();
    }
    {
      std::lock_guard publish(state_.publish_mutex_);
      old_snapshot = std::move(state_.pinned_snapshot_);
      state_.pinned_snapshot_ = nullptr;
      if (committed) {
        state_.tracker_.Committed(std::move(changes_));
        if (index_ != nullptr) old_view = std::exchange(state_.index_view_, std::move(next_view_));
      }
    }
    if (committed) CorrectBudget();
  }

  void CorrectBudget() noexcept {
    if (state_.index_ == nullptr) return;
    engine_.budget.Set(&state_,
                       state_.index_->Stats().bytes_used + state_.index_view_->catalog->bytes());
  }

  CollectionState& state_;
  Engine& engine_;
  const CommitRequest& request_;
  const TimePoint now_;
  std::map<DocumentId, Parts> doomed_;
  std::vector<const PendingDocument*> puts_;
  ChangeSet changes_;
  std::shared_ptr<index::RoutingIndex> index_;  // before change_, which must not outlive it
  std::optional<index::Change> change_;
  std::shared_ptr<IndexView> next_view_;
};

Result<CommitOutcome> CollectionState::Commit(const CommitRequest& request) {
  Result<CommitOutcome> outcome = [&] {
    std::lock_guard commit(commit_mutex_);
    return Committer(this, request).Run();
  }();
  if (outcome.ok() && outcome->deleted > 0) {
    untidy_ = true;
    if (engine_->options.expiry_interval.count() <= 0) TidyIndex();  // no upkeep thread
  }
  return outcome;
}

}  // namespace msadb::db
