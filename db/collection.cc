#include "db/collection.h"

#include <utility>

#include "db/bulk_insert.h"
#include "db/encoder.h"
#include "db/guard.h"
#include "db/snapshot.h"
#include "db/transaction.h"
#include "values/validate.h"

namespace msadb::db {

Status CheckWritable(const Engine& engine) {
  if (engine.options.read_only) {
    return Status::FailedPrecondition(
        "the database is open read-only; open it without Options::read_only to change it");
  }
  return engine.store->write_status();
}

Result<ViewReader> CollectionImpl::Reader() {
  MSADB_ASSIGN_OR_RETURN(View view, state_->CurrentView());
  return ViewReader(engine(), state_->id(), state_->name(), std::move(view));
}

Result<ViewReader> CollectionImpl::LoadedReader() {
  MSADB_ASSIGN_OR_RETURN(View view, state_->LoadedView());
  return ViewReader(engine(), state_->id(), state_->name(), std::move(view));
}

Result<Document> CollectionImpl::Get(DocumentId id) {
  return Guard([&]() -> Result<Document> {
    MSADB_ASSIGN_OR_RETURN(const ViewReader reader, Reader());
    return reader.Get(id);
  });
}

Result<Document> CollectionImpl::GetByKey(std::string_view key) {
  return Guard([&]() -> Result<Document> {
    MSADB_ASSIGN_OR_RETURN(const ViewReader reader, Reader());
    return reader.GetByKey(key);
  });
}

Result<DocumentPage> CollectionImpl::List(const ListOptions& options) {
  return Guard([&]() -> Result<DocumentPage> {
    MSADB_ASSIGN_OR_RETURN(const ViewReader reader, Reader());
    return reader.List(options);
  });
}

Result<uint64_t> CollectionImpl::Count() {
  return Guard([&]() -> Result<uint64_t> {
    MSADB_ASSIGN_OR_RETURN(const ViewReader reader, Reader());
    return reader.Count();
  });
}

Result<std::vector<SearchHit>> CollectionImpl::Search(std::string_view query,
                                                      const SearchOptions& options) {
  return Guard([&]() -> Result<std::vector<SearchHit>> {
    MSADB_ASSIGN_OR_RETURN(const ViewReader reader, LoadedReader());
    return reader.Search(query, options);
  });
}

Result<Answer> CollectionImpl::Ask(std::string_view question, const AskOptions& options) {
  return Guard([&]() -> Result<Answer> {
    MSADB_ASSIGN_OR_RETURN(const ViewReader reader, LoadedReader());
    return reader.Ask(question, options);
  });
}

Result<DocumentId> CollectionImpl::Put(const NewDocument& document, PutMode mode) {
  MSADB_RETURN_IF_ERROR(CheckWritable(engine()));
  MSADB_RETURN_IF_ERROR(values::ValidateDocument(document, engine().options.limits));
  MSADB_RETURN_IF_ERROR(values::ValidateExpiry(document, Now()));
  if (document.key && mode == PutMode::kInsert) {
    // Before the expensive encoding; the commit checks again.
    MSADB_ASSIGN_OR_RETURN(const ViewReader reader, Reader());
    auto owner = reader.FindKey(*document.key);
    if (owner.ok()) {
      return Status::AlreadyExists("key '" + *document.key + "' is taken by document " +
                                   std::to_string(*owner) + "; use Upsert to replace it");
    }
    if (owner.status().code() != StatusCode::kNotFound) return owner.status();
  }
  MSADB_ASSIGN_OR_RETURN(const PlannedDocument planned, PlanDocument(engine(), document));
  MSADB_ASSIGN_OR_RETURN(const auto ids, ReserveIds(engine(), state_->id(), {&planned, 1}));
  MSADB_ASSIGN_OR_RETURN(const auto encoded, EncodeDocuments(engine(), {&planned, 1}, ids));
  CommitRequest request;
  request.puts.push_back({&encoded[0], mode});
  MSADB_ASSIGN_OR_RETURN(const CommitOutcome outcome, state_->Commit(request));
  (void)outcome;
  return encoded[0].id;
}

Result<DocumentId> CollectionImpl::Insert(const NewDocument& document) {
  return Guard([&] { return Put(document, PutMode::kInsert); });
}

Result<DocumentId> CollectionImpl::Upsert(const NewDocument& document) {
  return Guard([&]() -> Result<DocumentId> {
    MSADB_RETURN_IF_ERROR(RequireKey(document));
    return Put(document, PutMode::kUpsert);
  });
}

Result<size_t> CollectionImpl::InsertMany(std::span<const NewDocument> documents,
                                          const InsertManyOptions& options) {
  return Guard([&]() -> Result<size_t> {
    MSADB_RETURN_IF_ERROR(CheckWritable(engine()));
    return BulkInsert(engine(), *state_, documents, options).Run();
  });
}

Status CollectionImpl::Delete(DocumentId id) {
  return Guard([&]() -> Status {
    CommitRequest request;
    request.deletes.push_back(id);
    return state_->Commit(request).status();
  });
}

Status CollectionImpl::DeleteByKey(std::string_view key) {
  return Guard([&]() -> Status {
    MSADB_RETURN_IF_ERROR(values::ValidateKey(key, engine().options.limits));
    CommitRequest request;
    request.deleted_keys.emplace_back(key);
    return state_->Commit(request).status();
  });
}

Result<uint64_t> CollectionImpl::DeleteWhere(const Filter& where) {
  return Guard([&]() -> Result<uint64_t> {
    MSADB_RETURN_IF_ERROR(CheckWritable(engine()));
    MSADB_ASSIGN_OR_RETURN(const ViewReader reader, Reader());
    CommitRequest request;
    MSADB_ASSIGN_OR_RETURN(request.deletes, reader.FindWhere(where));
    request.ignore_missing = true;  // somebody else may have deleted one meanwhile
    MSADB_ASSIGN_OR_RETURN(const CommitOutcome outcome, state_->Commit(request));
    return static_cast<uint64_t>(outcome.deleted);
  });
}

Result<std::unique_ptr<Transaction>> CollectionImpl::Begin() {
  return Guard([&]() -> Result<std::unique_ptr<Transaction>> {
    MSADB_RETURN_IF_ERROR(CheckWritable(engine()));
    MSADB_ASSIGN_OR_RETURN(View view, state_->BeginTransaction());
    return std::unique_ptr<Transaction>(
        std::make_unique<TransactionImpl>(database_, state_, std::move(view)));
  });
}

Result<std::unique_ptr<Snapshot>> CollectionImpl::TakeSnapshot() {
  return Guard([&]() -> Result<std::unique_ptr<Snapshot>> {
    MSADB_ASSIGN_OR_RETURN(View view, state_->CurrentView());
    return std::unique_ptr<Snapshot>(
        std::make_unique<SnapshotImpl>(database_, state_, std::move(view)));
  });
}

Result<CollectionStats> CollectionImpl::Stats() {
  return Guard([&] { return database_->StatsOf(*state_); });
}

}  // namespace msadb::db
