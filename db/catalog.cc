#include "db/catalog.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "values/validate.h"

namespace msadb::db {
namespace {

// Estimates: a map node and a variant per entry, the control block of a shared_ptr.
size_t InfoBytes(const DocumentInfo& info) {
  return sizeof(DocumentInfo) + 48 + info.metadata.size() * 136 +
         values::MetadataBytes(info.metadata) + info.source.size() + info.written_by.size();
}

}  // namespace

void Catalog::AppendPage(std::shared_ptr<const Page> page) {
  document_count_ += page->documents.size();
  part_count_ += page->parts;
  bytes_ += page->bytes;
  pages_.push_back(std::move(page));
}

void Catalog::AppendPages(const Documents& documents) {
  for (size_t begin = 0; begin < documents.size(); begin += kPageDocumentsMax) {
    const size_t end = std::min(begin + kPageDocumentsMax, documents.size());
    auto page = std::make_shared<Page>();
    page->documents.assign(documents.begin() + begin, documents.begin() + end);
    for (const auto& info : page->documents) {
      page->earliest_expiry = std::min(page->earliest_expiry, info->expires_at);
      page->parts += info->part_count;
      page->bytes += InfoBytes(*info);
    }
    AppendPage(std::move(page));
  }
}

std::shared_ptr<const Catalog> Catalog::Build(std::vector<DocumentInfo> documents) {
  return Catalog().With(std::move(documents), {});
}

size_t Catalog::PageOf(DocumentId id) const {
  const auto after = std::upper_bound(
      pages_.begin(), pages_.end(), id,
      [](DocumentId value, const auto& page) { return value < page->documents.front()->id; });
  return after == pages_.begin() ? 0 : static_cast<size_t>(after - pages_.begin()) - 1;
}

std::shared_ptr<const Catalog> Catalog::With(std::vector<DocumentInfo> added,
                                             std::span<const DocumentId> removed) const {
  Documents fresh;
  fresh.reserve(added.size());
  for (DocumentInfo& info : added) {
    fresh.push_back(std::make_shared<const DocumentInfo>(std::move(info)));
  }
  std::sort(fresh.begin(), fresh.end(), [](const auto& a, const auto& b) { return a->id < b->id; });
  std::vector<DocumentId> gone(removed.begin(), removed.end());
  std::sort(gone.begin(), gone.end());

  auto next = std::make_shared<Catalog>();
  next->pages_.reserve(pages_.size() + 1);
  size_t f = 0, g = 0;
  for (size_t p = 0; p < pages_.size(); ++p) {
    const auto& page = pages_[p];
    // Ids below the next page's first belong here; those below the first page's, to page 0.
    const DocumentId limit = p + 1 < pages_.size() ? pages_[p + 1]->documents.front()->id
                                                   : std::numeric_limits<DocumentId>::max();
    const size_t f_begin = f, g_begin = g;
    while (f < fresh.size() && fresh[f]->id < limit) ++f;
    while (g < gone.size() && gone[g] < limit) ++g;
    if (f == f_begin && g == g_begin) {
      next->AppendPage(page);
      continue;
    }
    // Ascending appends, the usual case, leave a full page alone and start the next one.
    if (g == g_begin && page->documents.size() >= kPageDocumentsMax &&
        fresh[f_begin]->id > page->documents.back()->id) {
      next->AppendPage(page);
      next->AppendPages(Documents(fresh.begin() + f_begin, fresh.begin() + f));
      continue;
    }
    Documents merged;
    merged.reserve(page->documents.size() + (f - f_begin));
    size_t add = f_begin;
    for (const auto& info : page->documents) {
      while (add < f && fresh[add]->id < info->id) merged.push_back(fresh[add++]);
      if (!std::binary_search(gone.begin() + g_begin, gone.begin() + g, info->id)) {
        merged.push_back(info);
      }
    }
    merged.insert(merged.end(), fresh.begin() + add, fresh.begin() + f);
    next->AppendPages(merged);
  }
  next->AppendPages(Documents(fresh.begin() + f, fresh.end()));
  return next;
}

TimePoint Catalog::earliest_expiry() const {
  TimePoint earliest = kNeverExpires;
  for (const auto& page : pages_) earliest = std::min(earliest, page->earliest_expiry);
  return earliest;
}

const DocumentInfo* Catalog::FindByPart(DocumentId number) const {
  if (pages_.empty()) return nullptr;
  const Documents& documents = pages_[PageOf(number)]->documents;
  const auto after =
      std::upper_bound(documents.begin(), documents.end(), number,
                       [](DocumentId value, const auto& info) { return value < info->id; });
  if (after == documents.begin()) return nullptr;
  const DocumentInfo* info = std::prev(after)->get();
  return number - info->id < info->part_count ? info : nullptr;
}

const DocumentInfo* Catalog::Find(DocumentId id) const {
  const DocumentInfo* info = FindByPart(id);
  return info != nullptr && info->id == id ? info : nullptr;
}

}  // namespace msadb::db
