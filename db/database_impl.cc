#include "db/database_impl.h"

#include <chrono>
#include <utility>

#include "db/collection.h"
#include "db/guard.h"
#include "values/validate.h"

namespace msadb::db {

DatabaseImpl::DatabaseImpl(Options options, std::shared_ptr<LoadedModelImpl> model,
                           std::shared_ptr<storage::Store> store,
                           std::unique_ptr<storage::BlockCache> cache)
    : engine_(std::move(options), std::move(model), std::move(store)) {
  engine_.cache = std::move(cache);
  if (!engine_.options.read_only && engine_.options.expiry_interval.count() > 0) {
    upkeep_ = std::jthread([this](std::stop_token stop) { RunUpkeep(stop); });
  }
}

DatabaseImpl::~DatabaseImpl() {
  upkeep_.request_stop();
  if (upkeep_.joinable()) upkeep_.join();
}

std::shared_ptr<CollectionState> DatabaseImpl::StateOf(storage::CollectionId id,
                                                       const std::string& name) {
  std::lock_guard lock(mutex_);
  std::shared_ptr<CollectionState>& state = states_[id];
  if (state == nullptr) state = std::make_shared<CollectionState>(&engine_, id, name);
  return state;
}

Result<std::shared_ptr<CollectionState>> DatabaseImpl::FindState(std::string_view name) {
  MSADB_RETURN_IF_ERROR(values::ValidateCollectionName(name));
  auto info = engine_.store->FindCollection(name);
  if (info.status().code() == StatusCode::kNotFound) {
    return Status::NotFound("no collection '" + std::string(name) +
                            "'; create it first");
  }
  if (!info.ok()) return info.status();
  return StateOf(info->id, info->name);
}

std::shared_ptr<Collection> DatabaseImpl::Handle(std::shared_ptr<CollectionState> state) {
  return std::make_shared<CollectionImpl>(shared_from_this(), std::move(state));
}

std::vector<std::shared_ptr<CollectionState>> DatabaseImpl::OpenStates() {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<CollectionState>> states;
  states.reserve(states_.size());
  for (const auto& [id, state] : states_) states.push_back(state);
  return states;
}

Result<std::shared_ptr<Collection>> DatabaseImpl::CreateCollection(std::string_view name) {
  return Guard([&]() -> Result<std::shared_ptr<Collection>> {
    MSADB_RETURN_IF_ERROR(values::ValidateCollectionName(name));
    MSADB_RETURN_IF_ERROR(CheckWritable(engine_));
    MSADB_ASSIGN_OR_RETURN(const storage::CollectionId id, engine_.store->CreateCollection(name));
    return Handle(StateOf(id, std::string(name)));
  });
}

Result<std::shared_ptr<Collection>> DatabaseImpl::OpenCollection(std::string_view name) {
  return Guard([&]() -> Result<std::shared_ptr<Collection>> {
    MSADB_ASSIGN_OR_RETURN(std::shared_ptr<CollectionState> state, FindState(name));
    return Handle(std::move(state));
  });
}

Result<std::shared_ptr<Collection>> DatabaseImpl::GetOrCreateCollection(std::string_view name) {
  for (;;) {
    auto opened = OpenCollection(name);
    if (opened.status().code() != StatusCode::kNotFound) return opened;
    auto created = CreateCollection(name);
    // Somebody else may have created it between the two.
    if (created.status().code() != StatusCode::kAlreadyExists) return created;
  }
}

Status DatabaseImpl::DropCollection(std::string_view name) {
  return Guard([&]() -> Status {
    MSADB_ASSIGN_OR_RETURN(const auto state, FindState(name));
    MSADB_RETURN_IF_ERROR(CheckWritable(engine_));
    MSADB_RETURN_IF_ERROR(state->Drop());
    std::lock_guard lock(mutex_);
    states_.erase(state->id());
    return Status::Ok();
  });
}

Result<std::vector<std::string>> DatabaseImpl::ListCollections() {
  return Guard([&]() -> Result<std::vector<std::string>> {
    MSADB_ASSIGN_OR_RETURN(const auto collections, engine_.store->ListCollections());
    std::vector<std::string> names;
    names.reserve(collections.size());
    for (const auto& info : collections) names.push_back(info.name);
    return names;
  });
}

CollectionStats DatabaseImpl::MakeStats(const storage::CollectionInfo& info) {
  CollectionStats stats;
  stats.name = info.name;
  stats.documents = info.stats.documents;
  stats.parts = info.stats.parts;
  stats.tokens = info.stats.tokens;
  stats.chunks = info.stats.chunks;
  stats.text_bytes = info.stats.text_bytes;
  stats.routing_bytes = info.stats.routing_bytes;
  stats.content_bytes = info.stats.blocks_bytes;
  std::shared_ptr<CollectionState> state;
  {
    std::lock_guard lock(mutex_);
    const auto it = states_.find(info.id);
    if (it != states_.end()) state = it->second;
  }
  if (state != nullptr) {
    stats.index_loaded = state->index_loaded();
    stats.index_bytes = state->index_bytes();
  }
  return stats;
}

Result<CollectionStats> DatabaseImpl::StatsOf(CollectionState& state) {
  auto info = engine_.store->GetCollection(state.id());
  if (!info.ok()) return info.status();
  return MakeStats(*info);
}

Result<DatabaseStats> DatabaseImpl::Stats() {
  return Guard([&]() -> Result<DatabaseStats> {
    DatabaseStats stats;
    stats.model_fingerprint = engine_.store->fingerprint();
    MSADB_ASSIGN_OR_RETURN(const auto collections, engine_.store->ListCollections());
    for (const auto& info : collections) stats.collections.push_back(MakeStats(info));
    MSADB_ASSIGN_OR_RETURN(const storage::StoreStats store, engine_.store->Stats());
    stats.disk_bytes = store.disk_bytes;
    const storage::BlockCacheStats cache = engine_.cache->Stats();
    stats.block_cache_bytes = cache.used_bytes;
    stats.block_cache_capacity = cache.capacity_bytes;
    stats.block_cache_hits = cache.hits;
    stats.block_cache_misses = cache.misses;
    stats.index_bytes = engine_.budget.bytes_used();
    return stats;
  });
}

}  // namespace msadb::db
