// Verify: storage checks every byte against itself, then each loaded index is compared with
// storage. An index that is not loaded has nothing to be wrong.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "db/database_impl.h"
#include "db/guard.h"
#include "db/loader.h"

namespace msadb::db {
namespace {

constexpr size_t kProblemsMax = 1000;

void Report(VerifyReport* report, std::string problem) {
  if (report->problems.size() >= kProblemsMax) {
    report->truncated = true;
    return;
  }
  report->problems.push_back(std::move(problem));
}

// The keys that storage holds for a part, as the index should have them.
bool SameKeys(const Engine& engine, const index::Snapshot& index, storage::Number number,
              const storage::TensorView& tensor) {
  if (tensor.shape != RoutingShape(engine, tensor.shape.n_chunks)) return false;
  const auto indexed = index.Keys(number);
  if (!indexed.ok()) return false;
  std::vector<uint16_t> stored(tensor.bytes.size() / sizeof(uint16_t));
  std::memcpy(stored.data(), tensor.bytes.data(), stored.size() * sizeof(uint16_t));
  return RoutingAsIndexed(engine, stored) == *indexed;
}

}  // namespace

Status DatabaseImpl::VerifyIndex(CollectionState& state, VerifyReport* report) {
  if (!state.index_loaded()) return Status::Ok();
  auto view = state.LoadedView();
  if (view.status().code() == StatusCode::kNotFound) return Status::Ok();  // dropped meanwhile
  if (!view.ok()) return view.status();
  const index::Snapshot& index = view->index->index;
  const Catalog& catalog = *view->index->catalog;
  const std::string where = "collection '" + state.name() + "': ";
  uint64_t parts = 0;
  const Status scanned = engine_.store->ScanRouting(
      state.id(), 1, std::numeric_limits<storage::Number>::max(),
      [&](storage::Number number, const storage::TensorView& tensor) {
        ++parts;
        if (!SameKeys(engine_, index, number, tensor)) {
          Report(report, where + "the index differs from storage at part " +
                             std::to_string(number) + "; reopen the database to rebuild it");
        }
        if (catalog.FindByPart(number) == nullptr) {
          Report(report, where + "part " + std::to_string(number) + " belongs to no document");
        }
        return true;
      },
      view->storage.get());
  // Damaged values are in the report of storage already.
  if (scanned.code() == StatusCode::kCorruption) return Status::Ok();
  MSADB_RETURN_IF_ERROR(scanned);
  if (index.document_count() != parts || catalog.part_count() != parts) {
    Report(report, where + "the index has " + std::to_string(index.document_count()) +
                       " parts and the catalog " + std::to_string(catalog.part_count()) +
                       ", storage has " + std::to_string(parts) +
                       "; reopen the database to rebuild them");
  }
  return Status::Ok();
}

Result<VerifyReport> DatabaseImpl::Verify() {
  return Guard([&]() -> Result<VerifyReport> {
    VerifyReport report;
    storage::StoreVerifyOptions options;
    options.damages_max = kProblemsMax;
    MSADB_ASSIGN_OR_RETURN(const storage::StoreVerifyReport store, engine_.store->Verify(options));
    report.bytes_checked = store.bytes_checked;
    report.truncated = store.damages_total > store.damages.size();
    for (const storage::Damage& damage : store.damages) Report(&report, damage.what);
    MSADB_ASSIGN_OR_RETURN(const auto collections, engine_.store->ListCollections());
    for (const auto& info : collections) {
      report.documents_checked += info.stats.documents;
      MSADB_RETURN_IF_ERROR(VerifyIndex(*StateOf(info.id, info.name), &report));
    }
    return report;
  });
}

}  // namespace msadb::db
