// The open database behind the public classes.
#ifndef MSADB_DB_DATABASE_IMPL_H_
#define MSADB_DB_DATABASE_IMPL_H_

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "db/collection_state.h"
#include "db/engine.h"
#include "msadb/database.h"

namespace msadb::db {

class DatabaseImpl final : public Database, public std::enable_shared_from_this<DatabaseImpl> {
 public:
  // Starts the upkeep thread unless the options forbid it. Made by Database::Open.
  DatabaseImpl(Options options, std::shared_ptr<LoadedModelImpl> model,
               std::shared_ptr<storage::Store> store, std::unique_ptr<storage::BlockCache> cache);
  ~DatabaseImpl() override;

  Result<std::shared_ptr<Collection>> CreateCollection(std::string_view name) override;
  Result<std::shared_ptr<Collection>> OpenCollection(std::string_view name) override;
  Result<std::shared_ptr<Collection>> GetOrCreateCollection(std::string_view name) override;
  Status DropCollection(std::string_view name) override;
  Result<std::vector<std::string>> ListCollections() override;
  Result<DatabaseStats> Stats() override;
  Result<VerifyReport> Verify() override;
  Status Compact() override;
  std::shared_ptr<LoadedModel> model() const override { return engine_.loaded_model; }

  Engine& engine() { return engine_; }
  Result<CollectionStats> StatsOf(CollectionState& state);

 private:
  // The state of a collection that storage knows, made at its first use.
  std::shared_ptr<CollectionState> StateOf(storage::CollectionId id, const std::string& name);
  Result<std::shared_ptr<CollectionState>> FindState(std::string_view name);
  std::shared_ptr<Collection> Handle(std::shared_ptr<CollectionState> state);
  std::vector<std::shared_ptr<CollectionState>> OpenStates();
  CollectionStats MakeStats(const storage::CollectionInfo& info);

  // Deletes documents that have expired by now. OK also when a collection vanished meanwhile.
  Status DeleteExpired();
  void RunUpkeep(std::stop_token stop);
  // Appends differences between the loaded index and storage.
  Status VerifyIndex(CollectionState& state, VerifyReport* report);

  Engine engine_;
  std::mutex mutex_;
  std::map<storage::CollectionId, std::shared_ptr<CollectionState>> states_;  // mutex_

  std::mutex upkeep_mutex_;
  std::condition_variable_any upkeep_wake_;
  std::jthread upkeep_;  // last: stopped and joined before the rest goes
};

}  // namespace msadb::db

#endif  // MSADB_DB_DATABASE_IMPL_H_
