// Get, List and Count. Search and Ask are in search.cc and ask.cc.
#include "db/view_reader.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "db/encoder.h"
#include "values/validate.h"

namespace msadb::db {
namespace {

constexpr storage::Number kLastNumber = std::numeric_limits<storage::Number>::max();

bool Expired(const storage::PartRecord& first, TimePoint now) {
  return first.expires_us && *first.expires_us <= ToMicroseconds(now);
}

bool Matches(const Filter& where, const storage::PartRecord& first) {
  return where.Matches(first.metadata, {.written_by = first.written_by,
                                        .source = first.source,
                                        .created_at = FromMicroseconds(first.created_us)});
}

// Collects scanned parts into whole documents.
class PageBuilder {
 public:
  PageBuilder(const ListOptions& options, TimePoint now) : options_(options), now_(now) {}

  // Returns false when the page is full and another document follows.
  bool Add(storage::PartRecord&& record) {
    if (record.part_index == 0) {
      Finish();
      if (Expired(record, now_)) return true;
      if (options_.where && !Matches(*options_.where, record)) return true;
      if (page_.documents.size() == options_.limit) {
        page_.next = page_.documents.back().id;
        return false;
      }
    } else if (parts_.empty() || parts_[0].first_number != record.first_number) {
      // A part of a document that is left out, or that began before the page.
      return true;
    }
    if (!options_.include_text) record.text.clear();
    parts_.push_back(std::move(record));
    return true;
  }

  DocumentPage Take() {
    Finish();
    return std::move(page_);
  }

 private:
  void Finish() {
    if (parts_.empty()) return;
    std::vector<const storage::PartRecord*> pointers;
    pointers.reserve(parts_.size());
    for (const storage::PartRecord& part : parts_) pointers.push_back(&part);
    page_.documents.push_back(AssembleDocument(pointers));
    parts_.clear();
  }

  const ListOptions& options_;
  const TimePoint now_;
  std::vector<storage::PartRecord> parts_;
  DocumentPage page_;
};

}  // namespace

Status ViewReader::NoDocument(DocumentId id) const {
  return Status::NotFound("no document " + std::to_string(id) + " in collection '" + name_ + "'");
}

Result<Document> ViewReader::Read(DocumentId id, bool include_text) const {
  const auto fields = include_text ? storage::PartFields::kAll : storage::PartFields::kNoText;
  const auto read = [&](storage::Number number) {
    return engine_.store->ReadPart(collection_, number, view_.storage.get(), fields);
  };
  auto first = read(id);
  if (first.status().code() == StatusCode::kNotFound) return NoDocument(id);
  if (!first.ok()) return first.status();
  if (first->part_index != 0) {
    return Status::NotFound(std::to_string(id) + " is part " +
                            std::to_string(first->part_index + 1) + " of document " +
                            std::to_string(first->first_number) + "; ask for that");
  }
  if (Expired(*first, Now())) return NoDocument(id);
  std::vector<storage::PartRecord> parts;
  parts.reserve(first->part_count);
  parts.push_back(std::move(*first));
  for (uint32_t i = 1; i < parts[0].part_count; ++i) {
    auto part = read(id + i);
    if (!part.ok()) {
      return Status::Corruption("part " + std::to_string(id + i) + " of document " +
                                std::to_string(id) + ": " + part.status().ToString());
    }
    parts.push_back(std::move(*part));
  }
  std::vector<const storage::PartRecord*> pointers;
  for (const storage::PartRecord& part : parts) pointers.push_back(&part);
  return AssembleDocument(pointers);
}

Result<Document> ViewReader::Get(DocumentId id) const {
  if (id == 0) return Status::InvalidArgument("document ids begin at 1");
  return Read(id, true);
}

Result<DocumentId> ViewReader::FindKey(std::string_view key) const {
  MSADB_RETURN_IF_ERROR(values::ValidateKey(key, engine_.options.limits));
  const auto none = [&] {
    return Status::NotFound("no document with key '" + std::string(key) + "' in collection '" +
                            name_ + "'");
  };
  auto id = engine_.store->FindKey(collection_, key, view_.storage.get());
  if (id.status().code() == StatusCode::kNotFound) return none();
  if (!id.ok()) return id.status();
  MSADB_ASSIGN_OR_RETURN(
      const storage::PartRecord first,
      engine_.store->ReadPart(collection_, *id, view_.storage.get(), storage::PartFields::kNoText));
  if (Expired(first, Now())) return none();
  return *id;
}

Result<Document> ViewReader::GetByKey(std::string_view key) const {
  MSADB_ASSIGN_OR_RETURN(const DocumentId id, FindKey(key));
  return Read(id, true);
}

Result<DocumentPage> ViewReader::List(const ListOptions& options) const {
  MSADB_RETURN_IF_ERROR(values::ValidateList(options));
  if (options.start_after == kLastNumber) return DocumentPage();
  PageBuilder page(options, Now());
  MSADB_RETURN_IF_ERROR(engine_.store->ScanParts(
      collection_, options.start_after + 1, kLastNumber,
      [&](storage::Number, storage::PartRecord&& record) { return page.Add(std::move(record)); },
      view_.storage.get(),
      options.include_text ? storage::PartFields::kAll : storage::PartFields::kNoText));
  return page.Take();
}

Result<uint64_t> ViewReader::Count() const {
  MSADB_ASSIGN_OR_RETURN(const auto info,
                         engine_.store->GetCollection(collection_, view_.storage.get()));
  // Expired documents not yet deleted: few, because a thread deletes them.
  MSADB_ASSIGN_OR_RETURN(
      const auto expired,
      engine_.store->FindExpired(ToMicroseconds(Now()), std::numeric_limits<size_t>::max(),
                                 view_.storage.get()));
  uint64_t mine = 0;
  for (const storage::ExpiredPart& part : expired) mine += part.collection == collection_;
  return info.stats.documents - std::min(info.stats.documents, mine);
}

Result<std::vector<DocumentId>> ViewReader::FindWhere(const Filter& where) const {
  std::vector<DocumentId> ids;
  const TimePoint now = Now();
  if (view_.index != nullptr) {
    view_.index->catalog->ForEach([&](const DocumentInfo& info) {
      if (!info.ExpiredAt(now) && where.Matches(info.metadata, info.provenance()))
        ids.push_back(info.id);
    });
    return ids;
  }
  MSADB_RETURN_IF_ERROR(engine_.store->ScanParts(
      collection_, 1, kLastNumber,
      [&](storage::Number, storage::PartRecord&& record) {
        if (record.part_index == 0 && !Expired(record, now) && Matches(where, record)) {
          ids.push_back(record.first_number);
        }
        return true;
      },
      view_.storage.get(), storage::PartFields::kNoText));
  return ids;
}

}  // namespace msadb::db
