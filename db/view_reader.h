// Everything a CollectionReader answers, over one View.
#ifndef MSADB_DB_VIEW_READER_H_
#define MSADB_DB_VIEW_READER_H_

#include <string>
#include <string_view>
#include <vector>

#include "db/engine.h"
#include "db/loader.h"
#include "db/memory_bank.h"
#include "msadb/database.h"

namespace msadb::db {

// What the view belongs to. Cheap to make; `engine` and `name` outlive it.
class ViewReader {
 public:
  ViewReader(const Engine& engine, storage::CollectionId collection, const std::string& name,
             View view)
      : engine_(engine), collection_(collection), name_(name), view_(std::move(view)) {}

  Result<Document> Get(DocumentId id) const;
  Result<Document> GetByKey(std::string_view key) const;
  // The visible document with this key. NotFound.
  Result<DocumentId> FindKey(std::string_view key) const;
  Result<DocumentPage> List(const ListOptions& options) const;
  Result<uint64_t> Count() const;
  // Ids of all visible documents whose metadata matches, ascending.
  Result<std::vector<DocumentId>> FindWhere(const Filter& where) const;

  // These need the view's index.
  Result<std::vector<SearchHit>> Search(std::string_view query, const SearchOptions& options) const;
  Result<Answer> Ask(std::string_view question, const AskOptions& options) const;

 private:
  Result<Document> Read(DocumentId id, bool include_text) const;
  Status NoDocument(DocumentId id) const;

  const Engine& engine_;
  const storage::CollectionId collection_;
  const std::string& name_;
  const View view_;
};

}  // namespace msadb::db

#endif  // MSADB_DB_VIEW_READER_H_
