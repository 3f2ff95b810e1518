// What stays in memory of every document of a loaded collection besides its routing keys: number of
// parts, expiry, metadata and provenance. It answers filters, expiry and "which document owns part
// 17" without reading storage.
//
// A Catalog is immutable; With() makes the next version and shares all pages that did not change,
// so a commit costs a page copy and every open view keeps its own version (pages of a B-tree of
// height two).
#ifndef MSADB_DB_CATALOG_H_
#define MSADB_DB_CATALOG_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "msadb/document.h"
#include "msadb/filter.h"

namespace msadb::db {

inline constexpr TimePoint kNeverExpires = TimePoint::max();

struct DocumentInfo {
  DocumentId id = 0;
  uint32_t part_count = 1;  // parts are numbered id, id + 1, ...
  TimePoint expires_at = kNeverExpires;
  Metadata metadata;
  std::string source;
  std::string written_by;
  TimePoint created_at{};

  Provenance provenance() const { return {written_by, source, created_at}; }
  bool ExpiredAt(TimePoint now) const { return expires_at <= now; }
};

class Catalog {
 public:
  Catalog() = default;

  // `documents`: ascending, unique ids.
  static std::shared_ptr<const Catalog> Build(std::vector<DocumentInfo> documents);
  // This catalog without `removed` (ids; unknown ones are ignored) and with `added` (any order; ids
  // not yet present).
  std::shared_ptr<const Catalog> With(std::vector<DocumentInfo> added,
                                      std::span<const DocumentId> removed) const;

  size_t document_count() const { return document_count_; }
  size_t part_count() const { return part_count_; }
  size_t bytes() const { return bytes_; }  // memory, estimated
  // kNeverExpires when nothing expires.
  TimePoint earliest_expiry() const;

  // nullptr when absent. Valid as long as this catalog.
  const DocumentInfo* Find(DocumentId id) const;
  // The document that has a part of this number, or nullptr.
  const DocumentInfo* FindByPart(DocumentId number) const;

  // Calls fn(const DocumentInfo&) for each document, ascending.
  template <typename Fn>
  void ForEach(Fn&& fn) const {
    for (const auto& page : pages_) {
      for (const auto& info : page->documents) fn(*info);
    }
  }
  // The same for documents expired at `now`; pages without one are skipped.
  template <typename Fn>
  void ForEachExpired(TimePoint now, Fn&& fn) const {
    for (const auto& page : pages_) {
      if (page->earliest_expiry > now) continue;
      for (const auto& info : page->documents) {
        if (info->ExpiredAt(now)) fn(*info);
      }
    }
  }

 private:
  struct Page {
    std::vector<std::shared_ptr<const DocumentInfo>> documents;  // ascending id, not empty
    TimePoint earliest_expiry = kNeverExpires;
    size_t parts = 0;
    size_t bytes = 0;
  };
  using Documents = std::vector<std::shared_ptr<const DocumentInfo>>;
  static constexpr size_t kPageDocumentsMax = 512;

  // The page that holds `id` or would hold it: the last one starting at or before it, else 0.
  size_t PageOf(DocumentId id) const;
  // Appends `documents` as pages of at most kPageDocumentsMax.
  void AppendPages(const Documents& documents);
  void AppendPage(std::shared_ptr<const Page> page);

  std::vector<std::shared_ptr<const Page>> pages_;  // ascending
  size_t document_count_ = 0;
  size_t part_count_ = 0;
  size_t bytes_ = 0;
};

}  // namespace msadb::db

#endif  // MSADB_DB_CATALOG_H_
