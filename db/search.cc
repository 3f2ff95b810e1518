// Search: the model ranks parts by routing alone; documents are ranked by their best part.
#include <algorithm>
#include <unordered_set>
#include <utility>

#include "db/view_reader.h"
#include "values/validate.h"

namespace msadb::db {
namespace {

struct RankedPart {
  model::RoutedDocument part;
  const DocumentInfo* document;
};

// The best part of each document, best first.
std::vector<RankedPart> BestParts(const ViewBank& bank,
                                  const std::vector<model::RoutedDocument>& parts, size_t top_k) {
  std::vector<RankedPart> best;
  std::unordered_set<DocumentId> seen;
  for (const model::RoutedDocument& part : parts) {
    const DocumentInfo* document = bank.Owner(part.number);
    if (document == nullptr || !seen.insert(document->id).second) continue;
    best.push_back({part, document});
    if (best.size() == top_k) break;
  }
  return best;
}

}  // namespace

Result<std::vector<SearchHit>> ViewReader::Search(std::string_view query,
                                                  const SearchOptions& options) const {
  MSADB_RETURN_IF_ERROR(values::ValidateQuestion(query, engine_.options.limits));
  MSADB_RETURN_IF_ERROR(values::ValidateSearch(options));
  MSADB_ASSIGN_OR_RETURN(const auto bank,
                         ViewBank::Create(engine_, collection_, view_, options.where, Now()));
  std::vector<RankedPart> ranked;
  // Parts of one document may crowd out others: ask for more until there are enough documents.
  for (size_t count = options.top_k;; count *= 2) {
    count = std::min(count, bank->document_count());
    if (count == 0) break;
    MSADB_ASSIGN_OR_RETURN(const auto parts, engine_.model().Search(query, *bank, count));
    ranked = BestParts(*bank, parts, options.top_k);
    if (ranked.size() == options.top_k || count >= bank->document_count()) break;
  }

  std::vector<SearchHit> hits;
  hits.reserve(ranked.size());
  const storage::Snapshot* snapshot = view_.storage.get();
  for (const RankedPart& best : ranked) {
    SearchHit hit;
    hit.id = best.document->id;
    hit.part = best.part.number;
    hit.score = best.part.score;
    hit.metadata = best.document->metadata;
    MSADB_ASSIGN_OR_RETURN(storage::PartRecord first,
                           engine_.store->ReadPart(collection_, hit.id, snapshot,
                                                   options.include_text && hit.part == hit.id
                                                       ? storage::PartFields::kAll
                                                       : storage::PartFields::kNoText));
    hit.key = std::move(first.key);
    hit.source = std::move(first.source);
    hit.written_by = std::move(first.written_by);
    hit.created_at = FromMicroseconds(first.created_us);
    if (hit.part == hit.id) {
      hit.text = std::move(first.text);
    } else {
      MSADB_ASSIGN_OR_RETURN(
          storage::PartRecord part,
          engine_.store->ReadPart(
              collection_, hit.part, snapshot,
              options.include_text ? storage::PartFields::kAll : storage::PartFields::kNoText));
      hit.text = std::move(part.text);
      hit.text_offset = part.text_offset;
    }
    hits.push_back(std::move(hit));
  }
  return hits;
}

}  // namespace msadb::db
