// Builds the index and the catalog of a collection from storage, which is the truth.
#ifndef MSADB_DB_LOADER_H_
#define MSADB_DB_LOADER_H_

#include <memory>

#include "db/catalog.h"
#include "db/engine.h"
#include "index/routing_index.h"
#include "storage/store.h"

namespace msadb::db {

// What a reader holds of a loaded collection: index and catalog of the same documents. Immutable.
struct IndexView {
  index::Snapshot index;
  std::shared_ptr<const Catalog> catalog;
};

struct LoadedIndex {
  std::shared_ptr<index::RoutingIndex> index;
  std::shared_ptr<const Catalog> catalog;
};

// Memory that the index of a collection with these statistics takes, about.
size_t EstimateIndexBytes(const Engine& engine, const storage::CollectionStats& stats);
// The same for one part.
size_t EstimateIndexBytes(const Engine& engine, uint32_t n_chunks);

// An index without documents.
Result<std::shared_ptr<index::RoutingIndex>> CreateIndex(const Engine& engine);

// Reads routing keys and records as of `snapshot` in one pass each, with several threads where the
// collection is large. Corruption names the damaged document; nothing is returned then.
Result<LoadedIndex> LoadIndex(const Engine& engine, const storage::CollectionInfo& collection,
                              const storage::Snapshot& snapshot);

// Routing keys as stored (float16) -> as the index is given them. They are the same numbers whether
// a document was just inserted or loaded again, so answers do not change with a restart.
std::vector<float> ExpandRouting(std::span<const uint16_t> routing);

// The same as the index holds them, rounded as Options::routing_keys says. `routing` is of whole
// rows.
std::vector<float> RoutingAsIndexed(const Engine& engine, std::span<const uint16_t> routing);

}  // namespace msadb::db

#endif  // MSADB_DB_LOADER_H_
