// The public Snapshot: one View, kept.
#ifndef MSADB_DB_SNAPSHOT_H_
#define MSADB_DB_SNAPSHOT_H_

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "db/database_impl.h"
#include "db/view_reader.h"
#include "msadb/database.h"

namespace msadb::db {

// The index is only needed to search. A snapshot taken while it was not in memory finds it at its
// first search: the collection's own, if nothing was committed since, else one built for the
// snapshot alone, which counts against the index budget until the snapshot is gone.
class SnapshotImpl final : public Snapshot, private IndexBudget::Holder {
 public:
  SnapshotImpl(std::shared_ptr<DatabaseImpl> database, std::shared_ptr<CollectionState> state,
               View view);
  ~SnapshotImpl() override;

  std::string name() const override { return state_->name(); }
  Result<Document> Get(DocumentId id) override;
  Result<Document> GetByKey(std::string_view key) override;
  Result<DocumentPage> List(const ListOptions& options) override;
  Result<uint64_t> Count() override;
  Result<std::vector<SearchHit>> Search(std::string_view query,
                                        const SearchOptions& options) override;
  Result<Answer> Ask(std::string_view question, const AskOptions& options) override;

 private:
  bool TryEvict() override { return false; }
  ViewReader Reader();
  Result<ViewReader> LoadedReader();
  Status Load();  // needs mutex_

  const std::shared_ptr<DatabaseImpl> database_;
  const std::shared_ptr<CollectionState> state_;
  std::mutex mutex_;  // before all locks of db/engine.h
  View view_;         // mutex_; its index is filled in once
};

}  // namespace msadb::db

#endif  // MSADB_DB_SNAPSHOT_H_
