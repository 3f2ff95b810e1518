// InsertMany: many documents, encoded together in batches of about encode_batch_tokens, each batch
// one commit. A thread writes one batch while the model encodes the next, and never falls further
// behind: two batches at most are in memory.
#ifndef MSADB_DB_BULK_INSERT_H_
#define MSADB_DB_BULK_INSERT_H_

#include <memory>
#include <span>
#include <string_view>
#include <thread>
#include <unordered_set>
#include <vector>

#include "db/collection_state.h"
#include "db/encoder.h"
#include "msadb/options.h"

namespace msadb::db {

class BulkInsert {
 public:
  // All arguments outlive it.
  BulkInsert(Engine& engine, CollectionState& state, std::span<const NewDocument> documents,
             const InsertManyOptions& options)
      : engine_(engine), state_(state), documents_(documents), options_(options) {}

  // How many were inserted or replaced. A failure's message says how many are durable.
  Result<size_t> Run();

 private:
  // A batch on its way to storage.
  struct Writing {
    std::vector<PendingDocument> documents;
    CommitRequest request;
    std::unordered_set<std::string_view> keys;
    size_t done = 0;  // of the caller's documents, skipped ones included
    uint64_t tokens = 0;
    Status status;
    CommitOutcome outcome;
    std::jthread thread;  // last: it ends before what it uses goes
  };

  Status Validate() const;
  Status RunBatches();
  // Takes documents_[next_] into the batch, or skips it when its key is present.
  Status Take();
  bool BatchFull() const;
  // Encodes the batch, ends the commit before it and starts its own.
  Status Flush();
  // Waits for the commit under way, if any, and reports progress.
  Status FinishCommit();

  Engine& engine_;
  CollectionState& state_;
  const std::span<const NewDocument> documents_;
  const InsertManyOptions& options_;

  size_t next_ = 0;
  std::vector<PlannedDocument> batch_;
  std::unordered_set<std::string_view> batch_keys_;
  size_t batch_tokens_ = 0;
  size_t batch_bytes_ = 0;
  size_t batch_skipped_ = 0;

  std::unique_ptr<Writing> writing_;
  size_t inserted_ = 0;
  InsertProgress progress_;
};

}  // namespace msadb::db

#endif  // MSADB_DB_BULK_INSERT_H_
