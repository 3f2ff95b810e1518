#include "db/snapshot.h"

#include <utility>

#include "db/guard.h"
#include "db/loader.h"

namespace msadb::db {

SnapshotImpl::SnapshotImpl(std::shared_ptr<DatabaseImpl> database,
                           std::shared_ptr<CollectionState> state, View view)
    : database_(std::move(database)), state_(std::move(state)), view_(std::move(view)) {
  ++database_->engine().open_snapshots;
}

SnapshotImpl::~SnapshotImpl() {
  database_->engine().budget.Remove(this);
  --database_->engine().open_snapshots;
}

ViewReader SnapshotImpl::Reader() {
  std::lock_guard lock(mutex_);
  return ViewReader(database_->engine(), state_->id(), state_->name(), view_);
}

Result<ViewReader> SnapshotImpl::LoadedReader() {
  std::lock_guard lock(mutex_);
  if (view_.index == nullptr) MSADB_RETURN_IF_ERROR(Load());
  return ViewReader(database_->engine(), state_->id(), state_->name(), view_);
}

Status SnapshotImpl::Load() {
  const auto current = state_->CurrentView();
  if (current.ok() && current->version == view_.version) {
    MSADB_ASSIGN_OR_RETURN(const View live, state_->LoadedView());
    if (live.version == view_.version) {
      view_.index = live.index;
      return Status::Ok();
    }
  }
  Engine& engine = database_->engine();
  MSADB_ASSIGN_OR_RETURN(const auto info,
                         engine.store->GetCollection(state_->id(), view_.storage.get()));
  MSADB_RETURN_IF_ERROR(engine.budget.Charge(this, EstimateIndexBytes(engine, info.stats)));
  auto loaded = LoadIndex(engine, info, *view_.storage);
  if (!loaded.ok()) {
    engine.budget.Remove(this);
    return loaded.status();
  }
  view_.index = std::make_shared<IndexView>(
      IndexView{loaded->index->TakeSnapshot(), std::move(loaded->catalog)});
  return Status::Ok();
}

Result<Document> SnapshotImpl::Get(DocumentId id) {
  return Guard([&] { return Reader().Get(id); });
}

Result<Document> SnapshotImpl::GetByKey(std::string_view key) {
  return Guard([&] { return Reader().GetByKey(key); });
}

Result<DocumentPage> SnapshotImpl::List(const ListOptions& options) {
  return Guard([&] { return Reader().List(options); });
}

Result<uint64_t> SnapshotImpl::Count() {
  return Guard([&] { return Reader().Count(); });
}

Result<std::vector<SearchHit>> SnapshotImpl::Search(std::string_view query,
                                                    const SearchOptions& options) {
  return Guard([&]() -> Result<std::vector<SearchHit>> {
    MSADB_ASSIGN_OR_RETURN(const ViewReader reader, LoadedReader());
    return reader.Search(query, options);
  });
}

Result<Answer> SnapshotImpl::Ask(std::string_view question, const AskOptions& options) {
  return Guard([&]() -> Result<Answer> {
    MSADB_ASSIGN_OR_RETURN(const ViewReader reader, LoadedReader());
    return reader.Ask(question, options);
  });
}

}  // namespace msadb::db
