#include "db/open.h"

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "db/database_impl.h"
#include "db/device.h"
#include "db/encoder.h"
#include "db/guard.h"
#include "kernels/cuda_backend.h"
#include "values/validate.h"

namespace msadb::db {
namespace {

namespace fs = std::filesystem;

std::string AbsolutePath(const std::string& path) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  return error ? path : absolute.lexically_normal().string();
}

bool Exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

std::string ModelPath(const Options& options, const std::string& remembered) {
  if (!options.model_path.empty()) return options.model_path;
  const char* environment = std::getenv("MSADB_MODEL");
  const bool in_environment = environment != nullptr && *environment != '\0';
  // A model that moved can be pointed to without touching the database.
  if (!remembered.empty() && (Exists(remembered) || !in_environment)) return remembered;
  return in_environment ? environment : "";
}

// A database that exists: its settings say which model, so the store comes first.
Result<std::shared_ptr<storage::Store>> OpenExisting(const std::string& folder,
                                                     const Options& options,
                                                     ResolvedModel* resolved) {
  MSADB_ASSIGN_OR_RETURN(std::shared_ptr<storage::Store> store,
                         storage::Store::Open(folder, ToStoreOptions(options)));
  const auto remembered = store->GetSetting(kModelPathSetting);
  if (!remembered.ok() && remembered.status().code() != StatusCode::kNotFound) {
    return remembered.status();
  }
  MSADB_ASSIGN_OR_RETURN(*resolved, ResolveModel(options, remembered.ok() ? *remembered : ""));
  const std::string fingerprint = resolved->model->fingerprint();
  const std::string description = resolved->model->description();
  if (store->fingerprint().empty() && !options.read_only) {
    // Its creation was cut short before the model was known: it cannot hold documents yet.
    MSADB_RETURN_IF_ERROR(store->SetModel(fingerprint, description));
  }
  const Status same = store->CheckModel(fingerprint, description);
  if (same.code() == StatusCode::kFailedPrecondition) {
    return Status::FailedPrecondition(std::string(same.message()) +
                                      " (Database::Reencode, `msadb reencode`)");
  }
  MSADB_RETURN_IF_ERROR(same);
  if (!resolved->path.empty() && !options.read_only &&
      (!remembered.ok() || *remembered != resolved->path)) {
    storage::WriteSet set = store->NewWriteSet();
    MSADB_RETURN_IF_ERROR(set.PutSetting(kModelPathSetting, resolved->path));
    MSADB_RETURN_IF_ERROR(store->Commit(std::move(set)));
  }
  return store;
}

// A new one: the model comes first, so that a wrong path leaves no empty database behind.
Result<std::shared_ptr<storage::Store>> CreateNew(const std::string& folder, const Options& options,
                                                  ResolvedModel* resolved) {
  storage::StoreOptions store_options = ToStoreOptions(options);
  if (!options.create_if_missing || options.read_only) {
    store_options.create_if_missing = false;
    return storage::Store::Open(folder, store_options);  // says what is missing
  }
  MSADB_ASSIGN_OR_RETURN(*resolved, ResolveModel(options, ""));
  store_options.fingerprint = resolved->model->fingerprint();
  store_options.model_description = resolved->model->description();
  MSADB_ASSIGN_OR_RETURN(std::shared_ptr<storage::Store> store,
                         storage::Store::Open(folder, store_options));
  if (!resolved->path.empty()) {
    storage::WriteSet set = store->NewWriteSet();
    MSADB_RETURN_IF_ERROR(set.PutSetting(kModelPathSetting, resolved->path));
    MSADB_RETURN_IF_ERROR(store->Commit(std::move(set)));
  }
  return store;
}

}  // namespace

Result<ResolvedModel> ResolveModel(const Options& options, const std::string& remembered) {
  ResolvedModel resolved;
  if (options.model != nullptr) {
    MSADB_ASSIGN_OR_RETURN(resolved.model, LoadedModelImpl::Cast(options.model));
    return resolved;
  }
  const std::string path = ModelPath(options, remembered);
  if (path.empty()) {
    return Status::InvalidArgument(
        "no model: set Options::model_path to a model folder, or the environment variable "
        "MSADB_MODEL");
  }
  model::ModelOptions model_options;
  model_options.threads = options.threads;
  MSADB_ASSIGN_OR_RETURN(const DeviceChoice device, ParseDevice(options.device));
  model_options.device = device.ForModel();
  model_options.encode_batch_tokens = options.encode_batch_tokens;
  auto model = LoadedModelImpl::LoadFrom(path, model_options);
  if (!model.ok()) return model.status().WithContext("model folder '" + path + "'");
  resolved.model = std::move(*model);
  resolved.path = AbsolutePath(path);
  return resolved;
}

bool HoldsDatabase(const std::string& folder) {
  return Exists((fs::path(folder) / "MSADB").string());
}

storage::StoreOptions ToStoreOptions(const Options& options) {
  storage::StoreOptions out;
  out.create_if_missing = options.create_if_missing;
  out.error_if_exists = options.error_if_exists;
  out.read_only = options.read_only;
  out.durability = options.durability == Durability::kBuffered
                       ? storage::CommitDurability::kBuffered
                       : storage::CommitDurability::kSync;
  out.memory_bytes = options.storage_memory_bytes;
  return out;
}

Result<std::unique_ptr<storage::BlockCache>> MakeBlockCache(const Options& options,
                                                            const model::Model& model,
                                                            std::shared_ptr<storage::Store> store) {
  storage::BlockCacheOptions cache_options;
  cache_options.bytes = options.block_cache_bytes;
  cache_options.shape = {kBlocksType, static_cast<uint32_t>(model.routing_layer_count()), 1,
                         static_cast<uint32_t>(model.kv_dim())};
  if (model.wants_pinned_content()) {
    // Page-locked memory can be refused where plain memory is not: then reads take the longer way.
    cache_options.allocator.allocate = [](size_t bytes) { return kernels::AllocatePinned(bytes); };
    cache_options.allocator.deallocate = [](void* memory, size_t) { kernels::FreePinned(memory); };
    auto pinned = storage::BlockCache::Create(store, cache_options);
    if (pinned.ok() || pinned.status().code() != StatusCode::kResourceExhausted) return pinned;
    cache_options.allocator = {};
  }
  return storage::BlockCache::Create(std::move(store), cache_options);
}

}  // namespace msadb::db

namespace msadb {

Result<std::shared_ptr<Database>> Database::Open(const std::string& folder,
                                                 const Options& options) {
  return db::Guard([&]() -> Result<std::shared_ptr<Database>> {
    MSADB_RETURN_IF_ERROR(values::ValidateOptions(options));
    MSADB_RETURN_IF_ERROR(db::ParseDevice(options.device).status());
    if (folder.empty()) return Status::InvalidArgument("the folder's name is empty; name one");
    db::ResolvedModel resolved;
    MSADB_ASSIGN_OR_RETURN(std::shared_ptr<storage::Store> store,
                           db::HoldsDatabase(folder) ? db::OpenExisting(folder, options, &resolved)
                                                     : db::CreateNew(folder, options, &resolved));
    MSADB_ASSIGN_OR_RETURN(std::unique_ptr<storage::BlockCache> cache,
                           db::MakeBlockCache(options, resolved.model->model(), store));
    return std::shared_ptr<Database>(std::make_shared<db::DatabaseImpl>(
        options, std::move(resolved.model), std::move(store), std::move(cache)));
  });
}

}  // namespace msadb
