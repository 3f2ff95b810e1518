// The public Collection: a thin shell that checks input and picks a View.
#ifndef MSADB_DB_COLLECTION_H_
#define MSADB_DB_COLLECTION_H_

#include <memory>
#include <string>
#include <vector>

#include "db/database_impl.h"
#include "db/view_reader.h"
#include "msadb/database.h"

namespace msadb::db {

class CollectionImpl final : public Collection {
 public:
  CollectionImpl(std::shared_ptr<DatabaseImpl> database, std::shared_ptr<CollectionState> state)
      : database_(std::move(database)), state_(std::move(state)) {}

  std::string name() const override { return state_->name(); }
  Result<Document> Get(DocumentId id) override;
  Result<Document> GetByKey(std::string_view key) override;
  Result<DocumentPage> List(const ListOptions& options) override;
  Result<uint64_t> Count() override;
  Result<std::vector<SearchHit>> Search(std::string_view query,
                                        const SearchOptions& options) override;
  Result<Answer> Ask(std::string_view question, const AskOptions& options) override;

  Result<DocumentId> Insert(const NewDocument& document) override;
  Result<DocumentId> Upsert(const NewDocument& document) override;
  Result<size_t> InsertMany(std::span<const NewDocument> documents,
                            const InsertManyOptions& options) override;
  Status Delete(DocumentId id) override;
  Status DeleteByKey(std::string_view key) override;
  Result<uint64_t> DeleteWhere(const Filter& where) override;

  Result<std::unique_ptr<Transaction>> Begin() override;
  Result<std::unique_ptr<Snapshot>> TakeSnapshot() override;
  Result<CollectionStats> Stats() override;

 private:
  Engine& engine() const { return database_->engine(); }
  Result<ViewReader> Reader();        // storage only
  Result<ViewReader> LoadedReader();  // with the index
  Result<DocumentId> Put(const NewDocument& document, PutMode mode);

  const std::shared_ptr<DatabaseImpl> database_;
  const std::shared_ptr<CollectionState> state_;
};

// FailedPrecondition when the database is open read-only, Unavailable when it stopped accepting
// writes. Checked before a document is encoded.
Status CheckWritable(const Engine& engine);

}  // namespace msadb::db

#endif  // MSADB_DB_COLLECTION_H_
