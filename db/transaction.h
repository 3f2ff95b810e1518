// The public Transaction: a view at its beginning, an overlay of its own changes, one commit.
#ifndef MSADB_DB_TRANSACTION_H_
#define MSADB_DB_TRANSACTION_H_

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "db/database_impl.h"
#include "db/encoder.h"
#include "db/view_reader.h"
#include "msadb/database.h"

namespace msadb::db {

class TransactionImpl final : public Transaction {
 public:
  // `view` comes from state->BeginTransaction().
  TransactionImpl(std::shared_ptr<DatabaseImpl> database, std::shared_ptr<CollectionState> state,
                  View view);
  ~TransactionImpl() override;

  Result<DocumentId> Insert(const NewDocument& document) override;
  Result<DocumentId> Upsert(const NewDocument& document) override;
  Status Delete(DocumentId id) override;
  Status DeleteByKey(std::string_view key) override;
  Result<Document> Get(DocumentId id) override;
  Result<Document> GetByKey(std::string_view key) override;
  Status Commit() override;
  void Rollback() override;

 private:
  Status CheckUsable() const;
  Status CountOperation();
  // The document that has this key as the transaction sees it. NotFound.
  Result<DocumentId> FindKey(std::string_view key) const;
  Result<DocumentId> Put(const NewDocument& document, bool replace);
  // Hides a document that the transaction sees.
  void Remove(DocumentId id, const std::optional<std::string>& key);
  Status CommitChanges();
  void End();

  const std::shared_ptr<DatabaseImpl> database_;
  const std::shared_ptr<CollectionState> state_;
  Engine& engine_;
  const uint64_t began_;
  std::optional<ViewReader> reader_;  // empty once the transaction is over

  // The overlay.
  std::map<DocumentId, PendingDocument> puts_;
  std::set<DocumentId> deletes_;  // of documents in the view
  // Keys whose owner differs from the view's; empty: nobody has it.
  std::map<std::string, std::optional<DocumentId>, std::less<>> keys_;
  ChangeSet changes_;
  size_t operations_ = 0;
  size_t bytes_ = 0;
};

// InvalidArgument when an upsert has no key.
Status RequireKey(const NewDocument& document);

}  // namespace msadb::db

#endif  // MSADB_DB_TRANSACTION_H_
