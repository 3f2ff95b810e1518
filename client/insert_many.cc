// InsertMany over a connection: checked as a whole, then sent in batches, one after the other. The
// next batch leaves when the one before is committed, which is all the back-pressure needed.
#include <algorithm>
#include <utility>

#include "client/remote.h"
#include "client/run.h"
#include "values/validate.h"

namespace msadb::client {
namespace {

class BatchSender {
 public:
  BatchSender(const Session& session, const std::string& collection,
              std::span<const NewDocument> documents, const InsertManyOptions& options)
      : session_(session), collection_(collection), documents_(documents), options_(options) {}

  Result<size_t> Send() {
    MSADB_RETURN_IF_ERROR(Validate());
    progress_.total = documents_.size();
    size_t inserted = 0;
    while (begin_ < documents_.size()) {
      end_ = BatchEnd();
      auto batch = SendBatch();
      if (!batch.ok()) return Totals(batch.status());
      inserted += *batch;
      begin_ = end_;
      progress_.done = begin_;
      tokens_before_ = progress_.tokens;
    }
    return inserted;
  }

 private:
  // The server checks again; this makes one bad document among many refuse all, wherever it is.
  Status Validate() const {
    const Limits limits = session_.channel->info().limits;
    const TimePoint now =
        std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
    for (size_t i = 0; i < documents_.size(); ++i) {
      Status status = values::ValidateDocument(documents_[i], limits);
      if (status.ok()) status = values::ValidateExpiry(documents_[i], now);
      if (!status.ok()) {
        return status.WithContext("document " + std::to_string(i) + " of the batch");
      }
    }
    return Status::Ok();
  }

  size_t BatchEnd() const {
    size_t bytes = 0;
    size_t tables = 0;
    size_t end = begin_;
    while (end < documents_.size()) {
      const NewDocument& document = documents_[end];
      bytes += wire::ByteCount(document);
      tables += wire::TableCount(document.metadata);
      if (end > begin_ && (bytes > wire::kBatchBytes || tables > wire::kBatchTables)) break;
      ++end;
    }
    return end;
  }

  Result<uint64_t> SendBatch() {
    std::shared_ptr<Exchange> exchange;
    std::function<void(uint64_t, uint64_t)> on_progress;
    if (options_.on_progress) {
      on_progress = [&](uint64_t done, uint64_t tokens) {
        progress_.done = begin_ + done;
        progress_.tokens = tokens_before_ + tokens;
        if (stopped_ || options_.on_progress(progress_)) return;
        stopped_ = true;
        session_.channel->RequestCancel(exchange);
      };
    }
    auto sent =
        Run(*session_.channel,
            session_.calls.InsertBatch(collection_, documents_.subspan(begin_, end_ - begin_),
                                       options_.replace_existing, std::move(on_progress)),
            {}, &exchange);
    if (sent.ok() && stopped_) {
      return Status::Cancelled("stopped by on_progress; run it again to go on (" +
                               std::to_string(end_ - begin_) + " of " +
                               std::to_string(end_ - begin_) + " documents are committed)");
    }
    return sent;
  }

  // The server counts within its batch.
  Status Totals(const Status& status) const {
    std::string message(status.message());
    const size_t bracket = message.rfind(" (");
    if (bracket == std::string::npos || !message.ends_with(" documents are committed)")) {
      return begin_ == 0 ? status
                         : Status(status.code(), message + " (the first " + std::to_string(begin_) +
                                                     " documents are committed)");
    }
    const uint64_t in_batch = std::strtoull(message.c_str() + bracket + 2, nullptr, 10);
    message.resize(bracket);
    return Status(status.code(), message + " (" + std::to_string(begin_ + in_batch) + " of " +
                                     std::to_string(documents_.size()) +
                                     " documents are committed)");
  }

  const Session& session_;
  const std::string& collection_;
  const std::span<const NewDocument> documents_;
  const InsertManyOptions& options_;
  InsertProgress progress_;
  uint64_t tokens_before_ = 0;
  size_t begin_ = 0;  // of the batch under way
  size_t end_ = 0;
  bool stopped_ = false;
};

}  // namespace

Result<size_t> RemoteCollection::InsertMany(std::span<const NewDocument> documents,
                                            const InsertManyOptions& options) {
  try {
    return BatchSender(*session_, target_.collection, documents, options).Send();
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("out of memory");
  } catch (const std::exception& e) {
    return Status::Internal(std::string("unexpected exception: ") + e.what());
  }
}

}  // namespace msadb::client
