// What happens to documents after their time: the background thread that deletes expired ones and
// takes the keys of deleted ones out of the index, and Compact, which removes every trace of them.
#include <chrono>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "db/collection.h"
#include "db/database_impl.h"
#include "db/guard.h"

namespace msadb::db {
namespace {

constexpr size_t kExpiredPerRound = 1000;
// Questions in progress hold what they read; Compact waits this long for them to finish.
constexpr int kPurgeTriesMax = 20;
constexpr std::chrono::milliseconds kPurgePause{50};

}  // namespace

Status DatabaseImpl::DeleteExpired() {
  const TimePoint now = Now();
  for (;;) {
    MSADB_ASSIGN_OR_RETURN(const auto expired,
                           engine_.store->FindExpired(ToMicroseconds(now), kExpiredPerRound));
    std::map<storage::CollectionId, std::vector<DocumentId>> by_collection;
    for (const auto& part : expired) by_collection[part.collection].push_back(part.number);
    size_t deleted = 0;
    for (auto& [id, documents] : by_collection) {
      const auto info = engine_.store->GetCollection(id);
      if (!info.ok()) continue;  // dropped meanwhile
      CommitRequest request;
      request.deletes = std::move(documents);
      request.expired_at = now;
      auto outcome = StateOf(id, info->name)->Commit(request);
      if (outcome.status().code() == StatusCode::kNotFound) continue;
      if (!outcome.ok()) return outcome.status();
      deleted += outcome->deleted;
    }
    if (deleted == 0 || expired.size() < kExpiredPerRound) return Status::Ok();
  }
}

void DatabaseImpl::RunUpkeep(std::stop_token stop) {
  std::unique_lock lock(upkeep_mutex_);
  while (!stop.stop_requested()) {
    upkeep_wake_.wait_for(lock, stop, engine_.options.expiry_interval, [] { return false; });
    if (stop.stop_requested()) return;
    // A failure is met again, and reported, by the next call that writes.
    (void)Guard([&] {
      const Status status = DeleteExpired();
      for (const auto& state : OpenStates()) state->TidyIndex();
      return status;
    });
  }
}

Status DatabaseImpl::Compact() {
  return Guard([&]() -> Status {
    MSADB_RETURN_IF_ERROR(CheckWritable(engine_));
    MSADB_RETURN_IF_ERROR(DeleteExpired());
    // Waits for commits under way, so that what they deleted is out of the cache too, also when it
    // was the upkeep thread that deleted it.
    for (const auto& state : OpenStates()) MSADB_RETURN_IF_ERROR(state->CompactIndex());
    // What questions in progress have pinned is overwritten when they end, which Purge waits for:
    // they hold a snapshot.
    engine_.cache->Scrub();
    for (int tries = 1;; ++tries) {
      MSADB_ASSIGN_OR_RETURN(const storage::PurgeReport report, engine_.store->Purge());
      if (report.complete()) return Status::Ok();
      if (engine_.open_snapshots > 0 || tries == kPurgeTriesMax) {
        return Status::FailedPrecondition(
            "about " + std::to_string(report.bytes_retained) +
            " bytes of deleted documents are still on disk, because an open Snapshot, Transaction "
            "or "
            "question can read them; end those and run Compact again");
      }
      std::this_thread::sleep_for(kPurgePause);
    }
  });
}

}  // namespace msadb::db
