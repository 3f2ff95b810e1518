#include "db/bulk_insert.h"

#include <string>
#include <utility>

#include "db/guard.h"
#include "db/view_reader.h"
#include "values/validate.h"

namespace msadb::db {
namespace {

// Skipped documents cost no tokens; progress is still reported after this many.
constexpr size_t kBatchDocumentsMax = 4096;

}  // namespace

Status BulkInsert::Validate() const {
  const TimePoint now = Now();
  for (size_t i = 0; i < documents_.size(); ++i) {
    Status status = values::ValidateDocument(documents_[i], engine_.options.limits);
    if (status.ok()) status = values::ValidateExpiry(documents_[i], now);
    if (!status.ok()) return status.WithContext("document " + std::to_string(i) + " of the batch");
  }
  return Status::Ok();
}

Result<size_t> BulkInsert::Run() {
  MSADB_RETURN_IF_ERROR(Validate());
  progress_.total = documents_.size();
  Status status = RunBatches();
  const Status last = FinishCommit();  // after an error, what was under way still counts
  if (status.ok()) status = last;
  if (status.ok()) return inserted_;
  return Status(status.code(), std::string(status.message()) + " (" +
                                   std::to_string(progress_.done) + " of " +
                                   std::to_string(progress_.total) + " documents are committed)");
}

Status BulkInsert::RunBatches() {
  while (next_ < documents_.size()) {
    const auto& key = documents_[next_].key;
    // The second document of a key must find the first one in the database.
    if (key && batch_keys_.contains(*key)) MSADB_RETURN_IF_ERROR(Flush());
    if (key && writing_ != nullptr && writing_->keys.contains(*key)) {
      MSADB_RETURN_IF_ERROR(FinishCommit());
    }
    MSADB_RETURN_IF_ERROR(Take());
    if (BatchFull()) MSADB_RETURN_IF_ERROR(Flush());
  }
  return Flush();
}

bool BulkInsert::BatchFull() const {
  return batch_tokens_ >= engine_.options.encode_batch_tokens ||
         batch_bytes_ >= engine_.options.limits.transaction_bytes_max / 2 ||
         batch_.size() + batch_skipped_ >= kBatchDocumentsMax;
}

Status BulkInsert::Take() {
  const NewDocument& document = documents_[next_];
  if (document.key && !options_.replace_existing) {
    MSADB_ASSIGN_OR_RETURN(View view, state_.CurrentView());
    const ViewReader reader(engine_, state_.id(), state_.name(), std::move(view));
    const auto owner = reader.FindKey(*document.key);
    if (owner.ok()) {
      ++next_;
      ++batch_skipped_;
      return Status::Ok();
    }
    if (owner.status().code() != StatusCode::kNotFound) return owner.status();
  }
  auto planned = PlanDocument(engine_, document);
  if (!planned.ok()) {
    return planned.status().WithContext("document " + std::to_string(next_) + " of the batch");
  }
  // Room for it in this batch? One that alone is too large is refused by the encoder.
  if (!batch_.empty() &&
      batch_bytes_ + planned->bytes > engine_.options.limits.transaction_bytes_max) {
    MSADB_RETURN_IF_ERROR(Flush());
  }
  batch_tokens_ += planned->tokens;
  batch_bytes_ += planned->bytes;
  if (document.key) batch_keys_.insert(*document.key);
  batch_.push_back(std::move(*planned));
  ++next_;
  return Status::Ok();
}

Status BulkInsert::Flush() {
  if (batch_.empty() && batch_skipped_ == 0) return Status::Ok();
  auto next = std::make_unique<Writing>();
  if (!batch_.empty()) {
    MSADB_ASSIGN_OR_RETURN(const auto ids, ReserveIds(engine_, state_.id(), batch_));
    MSADB_ASSIGN_OR_RETURN(next->documents, EncodeDocuments(engine_, batch_, ids));
    for (const PendingDocument& document : next->documents) {
      next->request.puts.push_back(
          {&document, options_.replace_existing ? PutMode::kUpsert : PutMode::kInsertOrSkip});
      for (const PendingPart& part : document.parts) next->tokens += part.record.token_count;
    }
  }
  next->done = batch_.size() + batch_skipped_;
  next->keys = std::move(batch_keys_);
  batch_.clear();
  batch_keys_.clear();
  batch_tokens_ = batch_bytes_ = batch_skipped_ = 0;

  MSADB_RETURN_IF_ERROR(FinishCommit());
  writing_ = std::move(next);
  if (writing_->documents.empty()) return FinishCommit();
  const auto write = [this, writing = writing_.get()] {
    writing->status = Guard([&]() -> Status {
      MSADB_ASSIGN_OR_RETURN(writing->outcome, state_.Commit(writing->request));
      return Status::Ok();
    });
  };
  if (next_ == documents_.size()) {  // nothing is left to encode meanwhile
    write();
    return FinishCommit();
  }
  writing_->thread = std::jthread(write);
  return Status::Ok();
}

Status BulkInsert::FinishCommit() {
  if (writing_ == nullptr) return Status::Ok();
  const std::unique_ptr<Writing> written = std::move(writing_);
  if (written->thread.joinable()) written->thread.join();
  MSADB_RETURN_IF_ERROR(written->status);
  inserted_ += written->outcome.put;
  progress_.done += written->done;
  progress_.tokens += written->tokens;
  if (options_.on_progress && !options_.on_progress(progress_)) {
    return Status::Cancelled("stopped by on_progress; run it again to go on");
  }
  return Status::Ok();
}

}  // namespace msadb::db
