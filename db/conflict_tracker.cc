#include "db/conflict_tracker.h"

#include <new>
#include <string_view>
#include <unordered_set>
#include <utility>

namespace msadb::db {

void ConflictTracker::TransactionEnded(uint64_t began) {
  const auto it = open_.find(began);
  if (it != open_.end()) open_.erase(it);
  const uint64_t oldest = open_.empty() ? version_ : *open_.begin();
  while (!commits_.empty() && commits_.front().version <= oldest) commits_.pop_front();
}

void ConflictTracker::Committed(ChangeSet&& changes) noexcept {
  ++version_;
  if (open_.empty()) return;
  try {
    commits_.push_back({version_, std::move(changes)});
  } catch (const std::bad_alloc&) {
    forgotten_ = version_;
  }
}

bool ConflictTracker::Conflicts(uint64_t began, const ChangeSet& mine) const {
  if (began < forgotten_) return true;
  if (commits_.empty() || commits_.back().version <= began) return false;
  const std::unordered_set<std::string_view> keys(mine.keys.begin(), mine.keys.end());
  const std::unordered_set<DocumentId> documents(mine.documents.begin(), mine.documents.end());
  for (auto commit = commits_.rbegin(); commit != commits_.rend() && commit->version > began;
       ++commit) {
    for (const std::string& key : commit->changes.keys) {
      if (keys.contains(key)) return true;
    }
    for (const DocumentId id : commit->changes.documents) {
      if (documents.contains(id)) return true;
    }
  }
  return false;
}

}  // namespace msadb::db
