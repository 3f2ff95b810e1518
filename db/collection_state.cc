#include "db/collection_state.h"

#include <utility>

namespace msadb::db {

CollectionState::CollectionState(Engine* engine, storage::CollectionId id, std::string name)
    : engine_(engine), id_(id), name_(std::move(name)) {}

CollectionState::~CollectionState() { engine_->budget.Remove(this); }

Status CollectionState::CheckOpen() const {
  if (dropped_) {
    return Status::NotFound("collection '" + name_ + "' was dropped; create it again");
  }
  return Status::Ok();
}

Result<View> CollectionState::ViewLocked() {
  MSADB_RETURN_IF_ERROR(CheckOpen());
  View view;
  view.version = tracker_.version();
  view.index = index_view_;
  if (pinned_snapshot_ != nullptr) {
    view.storage = pinned_snapshot_;
  } else {
    MSADB_ASSIGN_OR_RETURN(view.storage, engine_->store->TakeSnapshot());
  }
  return view;
}

Result<View> CollectionState::CurrentView() {
  std::lock_guard publish(publish_mutex_);
  return ViewLocked();
}

Result<View> CollectionState::LoadedView() {
  engine_->budget.Touch(this);
  {
    std::lock_guard publish(publish_mutex_);
    MSADB_RETURN_IF_ERROR(CheckOpen());
    if (index_view_ != nullptr) return ViewLocked();
  }
  std::lock_guard commit(commit_mutex_);
  if (index_ == nullptr) MSADB_RETURN_IF_ERROR(Load());
  // Before others may drop it again.
  std::lock_guard publish(publish_mutex_);
  return ViewLocked();
}

Result<View> CollectionState::BeginTransaction() {
  std::lock_guard publish(publish_mutex_);
  MSADB_ASSIGN_OR_RETURN(View view, ViewLocked());
  tracker_.TransactionBegan();
  return view;
}

void CollectionState::EndTransaction(uint64_t began) {
  std::lock_guard publish(publish_mutex_);
  tracker_.TransactionEnded(began);
}

Status CollectionState::Load() {
  {
    std::lock_guard publish(publish_mutex_);
    MSADB_RETURN_IF_ERROR(CheckOpen());
  }
  MSADB_ASSIGN_OR_RETURN(const auto snapshot, engine_->store->TakeSnapshot());
  MSADB_ASSIGN_OR_RETURN(const auto info, engine_->store->GetCollection(id_, snapshot.get()));
  MSADB_RETURN_IF_ERROR(engine_->budget.Charge(this, EstimateIndexBytes(*engine_, info.stats)));
  auto loaded = LoadIndex(*engine_, info, *snapshot);
  if (!loaded.ok()) {
    engine_->budget.Remove(this);
    return loaded.status();
  }
  auto view = std::make_shared<IndexView>();
  view->index = loaded->index->TakeSnapshot();
  view->catalog = loaded->catalog;
  engine_->budget.Set(this, loaded->index->Stats().bytes_used + loaded->catalog->bytes());
  index_ = std::move(loaded->index);
  std::lock_guard publish(publish_mutex_);
  index_view_ = std::move(view);
  return Status::Ok();
}

void CollectionState::DropIndex() {
  std::shared_ptr<const IndexView> old;  // freed outside the lock
  {
    std::lock_guard publish(publish_mutex_);
    old = std::move(index_view_);
    index_view_ = nullptr;
  }
  index_ = nullptr;
  engine_->budget.Remove(this);
}

bool CollectionState::TryEvict() {
  std::unique_lock commit(commit_mutex_, std::try_to_lock);
  if (!commit.owns_lock()) return false;
  std::shared_ptr<const IndexView> old;
  {
    std::lock_guard publish(publish_mutex_);
    // Readers copy the pointer only under this lock, so a count of one stays one.
    if (index_view_ == nullptr || index_view_.use_count() > 1) return false;
    old = std::move(index_view_);
    index_view_ = nullptr;
  }
  index_ = nullptr;
  return true;
}

Status CollectionState::Drop() {
  std::lock_guard commit(commit_mutex_);
  {
    std::lock_guard publish(publish_mutex_);
    MSADB_RETURN_IF_ERROR(CheckOpen());
  }
  MSADB_RETURN_IF_ERROR(engine_->store->DropCollection(id_));
  {
    std::lock_guard publish(publish_mutex_);
    dropped_ = true;
  }
  DropIndex();
  engine_->cache->EraseCollection(id_);
  return Status::Ok();
}

bool CollectionState::index_loaded() const {
  std::lock_guard publish(publish_mutex_);
  return index_view_ != nullptr;
}

void CollectionState::TidyIndex() {
  if (!untidy_.exchange(false)) return;
  // A failure leaves dead keys in memory until the next delete or Compact: nothing is wrong.
  (void)RewriteIndex([](index::RoutingIndex& index) { return index.CompactIfNeeded(); });
}

Status CollectionState::CompactIndex() {
  return RewriteIndex([](index::RoutingIndex& index) { return index.Compact(); });
}

Status CollectionState::RewriteIndex(
    const std::function<Status(index::RoutingIndex& index)>& rewrite) {
  std::shared_ptr<index::RoutingIndex> index;
  {
    std::lock_guard commit(commit_mutex_);
    index = index_;
  }
  if (index == nullptr) return Status::Ok();
  // Commits go on meanwhile.
  MSADB_RETURN_IF_ERROR(rewrite(*index));
  auto view = std::make_shared<IndexView>();
  std::lock_guard commit(commit_mutex_);
  if (index_ != index) return Status::Ok();
  view->index = index_->TakeSnapshot();
  std::shared_ptr<const IndexView> old;
  {
    std::lock_guard publish(publish_mutex_);
    view->catalog = index_view_->catalog;
    old = std::exchange(index_view_, std::move(view));
  }
  engine_->budget.Set(this, index_->Stats().bytes_used + old->catalog->bytes());
  return Status::Ok();
}

}  // namespace msadb::db
