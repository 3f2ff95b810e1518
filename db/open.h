// The pieces of Database::Open that Database::Reencode needs too.
#ifndef MSADB_DB_OPEN_H_
#define MSADB_DB_OPEN_H_

#include <memory>
#include <string>

#include "db/loaded_model.h"
#include "msadb/options.h"
#include "storage/block_cache.h"
#include "storage/store.h"

namespace msadb::db {

// Name of the setting that remembers the model folder.
inline constexpr char kModelPathSetting[] = "model_path";

struct ResolvedModel {
  std::shared_ptr<LoadedModelImpl> model;
  std::string path;  // absolute; empty when the caller handed in a loaded model
};

// The model of `options`: Options::model, else model_path, else `remembered`, else $MSADB_MODEL.
// InvalidArgument when none of them says anything.
Result<ResolvedModel> ResolveModel(const Options& options, const std::string& remembered);

storage::StoreOptions ToStoreOptions(const Options& options);
bool HoldsDatabase(const std::string& folder);
Result<std::unique_ptr<storage::BlockCache>> MakeBlockCache(const Options& options,
                                                            const model::Model& model,
                                                            std::shared_ptr<storage::Store> store);

}  // namespace msadb::db

#endif  // MSADB_DB_OPEN_H_
