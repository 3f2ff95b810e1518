// What all collections of one open database share.
//
// Lock order of db/ (take them in this order, never the other way round):
//   1. DatabaseImpl::mutex_              registry of collections; held briefly, and across
//                                        create and drop
//   2. CollectionState::commit_mutex_    one commit, load, eviction or drop of a collection at a
//   time
//   3. IndexBudget::mutex_               who has how much; other collections' commit_mutex_ is only
//                                        ever *tried* under it
//   4. CollectionState::publish_mutex_   readers and writers swap pointers under it, nothing slower
//                                        than a RocksDB snapshot
// The locks of storage/, index/ and model/ are leaves: those rooms never call back into db/, but
// for the MemoryBank, whose calls take no lock of db/. The model encodes and answers outside all of
// them.
#ifndef MSADB_DB_ENGINE_H_
#define MSADB_DB_ENGINE_H_

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "db/index_budget.h"
#include "db/loaded_model.h"
#include "index/routing_index.h"
#include "msadb/options.h"
#include "storage/block_cache.h"
#include "storage/store.h"

namespace msadb::db {

// The clock of created_at and expires_at.
inline TimePoint Now() {
  return std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
}
inline int64_t ToMicroseconds(TimePoint time) { return time.time_since_epoch().count(); }
inline TimePoint FromMicroseconds(int64_t us) { return TimePoint(std::chrono::microseconds(us)); }

struct Engine {
  Engine(Options o, std::shared_ptr<LoadedModelImpl> m, std::shared_ptr<storage::Store> s)
      : options(std::move(o)),
        loaded_model(std::move(m)),
        store(std::move(s)),
        budget(options.index_bytes_max) {}

  model::Model& model() const { return loaded_model->model(); }

  const Options options;
  const std::shared_ptr<LoadedModelImpl> loaded_model;
  const std::shared_ptr<storage::Store> store;
  std::unique_ptr<storage::BlockCache> cache;
  IndexBudget budget;
  std::atomic<int64_t> open_snapshots{0};  // the callers': Snapshot and Transaction objects
};

// The same documents in storage and in the index. Copying is cheap. Holding one keeps what it sees
// on disk and in memory.
struct IndexView;
struct View {
  std::shared_ptr<const storage::Snapshot> storage;  // never null
  std::shared_ptr<const IndexView> index;            // null: the index is not loaded
  uint64_t version = 0;                              // commits of this collection it includes
};

}  // namespace msadb::db

#endif  // MSADB_DB_ENGINE_H_
