#include "db/transaction.h"

#include <utility>

#include "db/collection.h"
#include "db/guard.h"
#include "values/validate.h"

namespace msadb::db {
namespace {

Document ToDocument(const PendingDocument& pending) {
  std::vector<const storage::PartRecord*> parts;
  for (const PendingPart& part : pending.parts) parts.push_back(&part.record);
  return AssembleDocument(parts);
}

}  // namespace

Status RequireKey(const NewDocument& document) {
  if (document.key) return Status::Ok();
  return Status::InvalidArgument("Upsert needs a key to know what to replace; use Insert without");
}

TransactionImpl::TransactionImpl(std::shared_ptr<DatabaseImpl> database,
                                 std::shared_ptr<CollectionState> state, View view)
    : database_(std::move(database)),
      state_(std::move(state)),
      engine_(database_->engine()),
      began_(view.version) {
  reader_.emplace(engine_, state_->id(), state_->name(), std::move(view));
  ++engine_.open_snapshots;
}

TransactionImpl::~TransactionImpl() { End(); }

void TransactionImpl::End() {
  if (!reader_) return;
  reader_.reset();
  puts_.clear();
  --engine_.open_snapshots;
  state_->EndTransaction(began_);
}

Status TransactionImpl::CheckUsable() const {
  if (reader_) return Status::Ok();
  return Status::FailedPrecondition("the transaction is over; begin another one");
}

Status TransactionImpl::CountOperation() {
  MSADB_RETURN_IF_ERROR(CheckUsable());
  const size_t operations_max = engine_.options.limits.transaction_operations_max;
  if (operations_ >= operations_max) {
    return Status::ResourceExhausted("a transaction holds at most " +
                                     std::to_string(operations_max) +
                                     " operations; commit this one and begin another");
  }
  ++operations_;
  return Status::Ok();
}

Result<DocumentId> TransactionImpl::FindKey(std::string_view key) const {
  const auto own = keys_.find(key);
  if (own == keys_.end()) return reader_->FindKey(key);
  if (own->second) return *own->second;
  return Status::NotFound("no document with key '" + std::string(key) + "'");
}

void TransactionImpl::Remove(DocumentId id, const std::optional<std::string>& key) {
  const auto own = puts_.find(id);
  if (own != puts_.end()) {
    bytes_ -= own->second.bytes();
    puts_.erase(own);
  } else {
    deletes_.insert(id);
    changes_.documents.push_back(id);
  }
  if (key) {
    keys_[*key] = std::nullopt;
    changes_.keys.push_back(*key);
  }
}

Result<DocumentId> TransactionImpl::Put(const NewDocument& document, bool replace) {
  MSADB_RETURN_IF_ERROR(CountOperation());
  MSADB_RETURN_IF_ERROR(values::ValidateDocument(document, engine_.options.limits));
  MSADB_RETURN_IF_ERROR(values::ValidateExpiry(document, Now()));
  std::optional<DocumentId> owner;
  if (document.key) {
    auto found = FindKey(*document.key);
    if (found.ok()) {
      if (!replace) {
        return Status::AlreadyExists("key '" + *document.key + "' is taken by document " +
                                     std::to_string(*found) + "; use Upsert to replace it");
      }
      owner = *found;
    } else if (found.status().code() != StatusCode::kNotFound) {
      return found.status();
    }
  }
  MSADB_ASSIGN_OR_RETURN(const PlannedDocument planned, PlanDocument(engine_, document));
  const size_t bytes_max = engine_.options.limits.transaction_bytes_max;
  if (planned.bytes > bytes_max - std::min(bytes_, bytes_max)) {
    return Status::ResourceExhausted(
        "the transaction would hold more than "
        "Limits::transaction_bytes_max = " +
        std::to_string(bytes_max) + " bytes; commit what it has and begin another");
  }
  MSADB_ASSIGN_OR_RETURN(const auto ids, ReserveIds(engine_, state_->id(), {&planned, 1}));
  MSADB_ASSIGN_OR_RETURN(auto encoded, EncodeDocuments(engine_, {&planned, 1}, ids));
  if (owner) Remove(*owner, document.key);
  bytes_ += encoded[0].bytes();
  if (document.key) {
    keys_[*document.key] = ids[0];
    changes_.keys.push_back(*document.key);
  }
  puts_.emplace(ids[0], std::move(encoded[0]));
  return ids[0];
}

Result<DocumentId> TransactionImpl::Insert(const NewDocument& document) {
  return Guard([&] { return Put(document, /*replace=*/false); });
}

Result<DocumentId> TransactionImpl::Upsert(const NewDocument& document) {
  return Guard([&]() -> Result<DocumentId> {
    MSADB_RETURN_IF_ERROR(RequireKey(document));
    return Put(document, /*replace=*/true);
  });
}

Status TransactionImpl::Delete(DocumentId id) {
  return Guard([&]() -> Status {
    MSADB_RETURN_IF_ERROR(CountOperation());
    MSADB_ASSIGN_OR_RETURN(const Document document, Get(id));
    Remove(id, document.key);
    return Status::Ok();
  });
}

Status TransactionImpl::DeleteByKey(std::string_view key) {
  return Guard([&]() -> Status {
    MSADB_RETURN_IF_ERROR(CountOperation());
    MSADB_RETURN_IF_ERROR(values::ValidateKey(key, engine_.options.limits));
    MSADB_ASSIGN_OR_RETURN(const DocumentId id, FindKey(key));
    Remove(id, std::string(key));
    return Status::Ok();
  });
}

Result<Document> TransactionImpl::Get(DocumentId id) {
  return Guard([&]() -> Result<Document> {
    MSADB_RETURN_IF_ERROR(CheckUsable());
    const auto own = puts_.find(id);
    if (own != puts_.end()) return ToDocument(own->second);
    if (deletes_.contains(id)) {
      return Status::NotFound("this transaction deleted document " + std::to_string(id));
    }
    return reader_->Get(id);
  });
}

Result<Document> TransactionImpl::GetByKey(std::string_view key) {
  return Guard([&]() -> Result<Document> {
    MSADB_RETURN_IF_ERROR(CheckUsable());
    MSADB_RETURN_IF_ERROR(values::ValidateKey(key, engine_.options.limits));
    MSADB_ASSIGN_OR_RETURN(const DocumentId id, FindKey(key));
    return Get(id);
  });
}

Status TransactionImpl::CommitChanges() {
  CommitRequest request;
  for (const auto& [id, document] : puts_) {
    // Whoever owns the key now owned it at the beginning, else this ends with Conflict: it is
    // either in deletes_ or has expired.
    request.puts.push_back({&document, PutMode::kUpsert});
  }
  request.deletes.assign(deletes_.begin(), deletes_.end());
  request.ignore_missing = true;  // expired and swept meanwhile
  request.began = began_;
  request.changes = std::move(changes_);
  return state_->Commit(request).status();
}

Status TransactionImpl::Commit() {
  MSADB_RETURN_IF_ERROR(CheckUsable());
  Status status = Guard([&] { return CommitChanges(); });
  End();
  return status;
}

void TransactionImpl::Rollback() { End(); }

}  // namespace msadb::db
