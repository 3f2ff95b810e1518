// First committer wins: remembers what recent commits changed for as long as a transaction that
// began before them is still open.
//
// Not thread-safe: the collection calls it under its publish mutex.
#ifndef MSADB_DB_CONFLICT_TRACKER_H_
#define MSADB_DB_CONFLICT_TRACKER_H_

#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <vector>

#include "msadb/document.h"

namespace msadb::db {

// What one commit changes. A key counts as changed when it is taken, moved or freed.
struct ChangeSet {
  std::vector<std::string> keys;
  std::vector<DocumentId> documents;  // deleted ones; an inserted one cannot conflict
};

class ConflictTracker {
 public:
  // The number of commits so far: what a transaction beginning now is based on.
  uint64_t version() const { return version_; }

  void TransactionBegan() { open_.insert(version_); }
  // `began` is version() as it was at TransactionBegan.
  void TransactionEnded(uint64_t began);

  // Records a commit; version() grows by one. Keeps `changes` only if an open transaction may need
  // it. Cannot fail: it runs after the commit is durable. Without memory to remember it, all
  // transactions open now conflict.
  void Committed(ChangeSet&& changes) noexcept;

  // True when a commit after `began` changed something that `mine` changes too. Only for a
  // transaction that is still open.
  bool Conflicts(uint64_t began, const ChangeSet& mine) const;

  size_t remembered() const { return commits_.size(); }

 private:
  struct Commit {
    uint64_t version;  // version() after it
    ChangeSet changes;
  };
  uint64_t version_ = 0;
  std::multiset<uint64_t> open_;
  std::deque<Commit> commits_;  // ascending version
  uint64_t forgotten_ = 0;      // the newest commit that could not be remembered
};

}  // namespace msadb::db

#endif  // MSADB_DB_CONFLICT_TRACKER_H_
