// The model's MemoryBank over one View: routing from the index, content from the block cache, text
// from storage. Everything it answers is of the same documents, whatever is committed meanwhile.
#ifndef MSADB_DB_MEMORY_BANK_H_
#define MSADB_DB_MEMORY_BANK_H_

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "db/engine.h"
#include "db/loader.h"
#include "model/memory_bank.h"
#include "msadb/filter.h"

namespace msadb::db {

class ViewBank final : public model::MemoryBank {
 public:
  // `view` has its index. Documents that `where` does not match or that have expired at `now` do
  // not exist for the bank: neither routing nor their number brings them back. `engine` outlives
  // it.
  static Result<std::unique_ptr<ViewBank>> Create(const Engine& engine,
                                                  storage::CollectionId collection, View view,
                                                  const std::optional<Filter>& where,
                                                  TimePoint now);

  size_t document_count() const override;
  Result<std::vector<model::RoutedDocument>> Route(int r, const model::RouteQuery& query) override;
  Status Fetch(int r, std::span<const model::DocumentNumber> documents,
               model::ContentBlocks* out) override;
  void Prefetch(std::span<const model::DocumentNumber> documents) override;
  Result<std::string> Text(model::DocumentNumber number) override;

  const View& view() const { return view_; }
  // The document that part `number` belongs to; nullptr when the bank does not have it.
  const DocumentInfo* Owner(model::DocumentNumber number) const;

 private:
  ViewBank(const Engine& engine, storage::CollectionId collection, View view)
      : engine_(engine), collection_(collection), view_(std::move(view)) {}

  bool Has(model::DocumentNumber number) const;
  Status CheckHas(model::DocumentNumber number) const;

  const Engine& engine_;
  const storage::CollectionId collection_;
  const View view_;
  // Empty: every document of the view is allowed.
  std::optional<index::Selection> selection_;
  std::vector<index::DocumentNumber> allowed_;  // parts, ascending; with selection_ only
};

}  // namespace msadb::db

#endif  // MSADB_DB_MEMORY_BANK_H_
