#include "db/memory_bank.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "db/encoder.h"
#include "db/guard.h"

namespace msadb::db {

Result<std::unique_ptr<ViewBank>> ViewBank::Create(const Engine& engine,
                                                   storage::CollectionId collection, View view,
                                                   const std::optional<Filter>& where,
                                                   TimePoint now) {
  std::unique_ptr<ViewBank> bank(new ViewBank(engine, collection, std::move(view)));
  const Catalog& catalog = *bank->view_.index->catalog;
  if (!where && catalog.earliest_expiry() > now) return bank;
  catalog.ForEach([&](const DocumentInfo& info) {
    if (info.ExpiredAt(now) || (where && !where->Matches(info.metadata, info.provenance()))) return;
    for (uint32_t i = 0; i < info.part_count; ++i) bank->allowed_.push_back(info.id + i);
  });
  MSADB_ASSIGN_OR_RETURN(bank->selection_, bank->view_.index->index.Select(bank->allowed_));
  return bank;
}

size_t ViewBank::document_count() const {
  return selection_ ? allowed_.size() : view_.index->index.document_count();
}

bool ViewBank::Has(model::DocumentNumber number) const {
  if (selection_) return std::binary_search(allowed_.begin(), allowed_.end(), number);
  return view_.index->index.Contains(number);
}

Status ViewBank::CheckHas(model::DocumentNumber number) const {
  if (Has(number)) return Status::Ok();
  return Status::NotFound("no document " + std::to_string(number) + " in this view");
}

const DocumentInfo* ViewBank::Owner(model::DocumentNumber number) const {
  return Has(number) ? view_.index->catalog->FindByPart(number) : nullptr;
}

Result<std::vector<model::RoutedDocument>> ViewBank::Route(int r, const model::RouteQuery& query) {
  return Guard([&]() -> Result<std::vector<model::RoutedDocument>> {
    if (query.kv_dim != engine_.model().kv_dim()) {
      return Status::Internal("the model's queries and its routing keys differ in width");
    }
    MSADB_ASSIGN_OR_RETURN(const auto found,
                           view_.index->index.Search(r, query.queries, query.n_tokens, query.top_k,
                                                     selection_ ? &*selection_ : nullptr));
    std::vector<model::RoutedDocument> routed;
    routed.reserve(found.size());
    for (const auto& [number, score] : found) routed.push_back({number, score});
    return routed;
  });
}

Status ViewBank::Fetch(int r, std::span<const model::DocumentNumber> documents,
                       model::ContentBlocks* out) {
  return Guard([&]() -> Status {
    out->Clear();
    auto handles = std::make_shared<std::vector<storage::BlockHandle>>();
    handles->reserve(documents.size());
    for (const model::DocumentNumber number : documents) {
      MSADB_RETURN_IF_ERROR(CheckHas(number));
      MSADB_ASSIGN_OR_RETURN(storage::BlockHandle handle,
                             engine_.cache->Get(collection_, number, view_.storage.get()));
      // Slots are aligned to their element type (storage/block_cache.h).
      for (uint32_t chunk = 0; chunk < handle.n_chunks(); ++chunk) {
        out->key_rows.push_back(
            reinterpret_cast<const uint16_t*>(handle.key(chunk, static_cast<uint32_t>(r))));
        out->value_rows.push_back(
            reinterpret_cast<const uint16_t*>(handle.value(chunk, static_cast<uint32_t>(r))));
      }
      out->n_rows += handle.n_chunks();
      handles->push_back(std::move(handle));
    }
    out->keep = std::move(handles);
    return Status::Ok();
  });
}

void ViewBank::Prefetch(std::span<const model::DocumentNumber> documents) {
  engine_.cache->Prefetch(collection_, documents, view_.storage);
}

Result<std::string> ViewBank::Text(model::DocumentNumber number) {
  return Guard([&]() -> Result<std::string> {
    MSADB_RETURN_IF_ERROR(CheckHas(number));
    MSADB_ASSIGN_OR_RETURN(storage::PartRecord part,
                           engine_.store->ReadPart(collection_, number, view_.storage.get()));
    return std::move(part.text);
  });
}

}  // namespace msadb::db
