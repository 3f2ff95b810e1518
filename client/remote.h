// The public classes of msadb/database.h over a Channel.
#ifndef MSADB_CLIENT_REMOTE_H_
#define MSADB_CLIENT_REMOTE_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "client/calls.h"
#include "client/channel.h"
#include "msadb/database.h"

namespace msadb::client {

// A channel and the calls that fit it; shared by everything made from one Connect.
struct Session {
  explicit Session(std::shared_ptr<Channel> open)
      : channel(std::move(open)), calls(channel->options()) {}
  const std::shared_ptr<Channel> channel;
  const Calls calls;
};
using SessionPtr = std::shared_ptr<const Session>;

class RemoteDatabase final : public Database {
 public:
  explicit RemoteDatabase(SessionPtr session) : session_(std::move(session)) {}

  Result<std::shared_ptr<Collection>> CreateCollection(std::string_view name) override;
  Result<std::shared_ptr<Collection>> OpenCollection(std::string_view name) override;
  Result<std::shared_ptr<Collection>> GetOrCreateCollection(std::string_view name) override;
  Status DropCollection(std::string_view name) override;
  Result<std::vector<std::string>> ListCollections() override;
  Result<DatabaseStats> Stats() override;
  Result<VerifyReport> Verify() override;
  Status Compact() override;
  std::shared_ptr<LoadedModel> model() const override;

  const SessionPtr& session() const { return session_; }

 private:
  Result<std::shared_ptr<Collection>> Open(std::string_view name, wire::fb::OpenMode mode);

  const SessionPtr session_;
};

// The reading verbs, of a collection and of a snapshot.
template <typename Interface>
class RemoteReader : public Interface {
 public:
  RemoteReader(SessionPtr session, Target target)
      : session_(std::move(session)), target_(std::move(target)) {}

  std::string name() const override { return target_.collection; }
  Result<Document> Get(DocumentId id) override;
  Result<Document> GetByKey(std::string_view key) override;
  Result<DocumentPage> List(const ListOptions& options) override;
  Result<uint64_t> Count() override;
  Result<std::vector<SearchHit>> Search(std::string_view query,
                                        const SearchOptions& options) override;
  Result<Answer> Ask(std::string_view question, const AskOptions& options) override;

 protected:
  Channel& channel() const { return *session_->channel; }
  const Calls& calls() const { return session_->calls; }

  const SessionPtr session_;
  const Target target_;
};

class RemoteSnapshot final : public RemoteReader<Snapshot> {
 public:
  using RemoteReader::RemoteReader;
  ~RemoteSnapshot() override;
};

class RemoteCollection final : public RemoteReader<Collection> {
 public:
  using RemoteReader::RemoteReader;

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
};

class RemoteTransaction final : public Transaction {
 public:
  RemoteTransaction(SessionPtr session, Target target)
      : session_(std::move(session)), target_(std::move(target)) {}
  ~RemoteTransaction() override { Rollback(); }

  Result<DocumentId> Insert(const NewDocument& document) override;
  Result<DocumentId> Upsert(const NewDocument& document) override;
  Status Delete(DocumentId id) override;
  Status DeleteByKey(std::string_view key) override;
  Result<Document> Get(DocumentId id) override;
  Result<Document> GetByKey(std::string_view key) override;
  Status Commit() override;
  void Rollback() override;

 private:
  template <typename T>
  Result<T> RunHere(Call<T> call);

  const SessionPtr session_;
  const Target target_;
  bool over_ = false;
};

}  // namespace msadb::client

#endif  // MSADB_CLIENT_REMOTE_H_
