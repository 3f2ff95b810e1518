#include "client/remote.h"

#include <utility>

#include "client/run.h"

namespace msadb::client {
namespace {

// No exception leaves the public classes.
template <typename Fn>
auto Guard(Fn&& fn) -> decltype(fn()) {
  try {
    return fn();
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("out of memory");
  } catch (const std::exception& e) {
    return Status::Internal(std::string("unexpected exception: ") + e.what());
  } catch (...) {
    return Status::Internal("unexpected exception of an unknown type");
  }
}

template <typename T>
Status AsStatus(const Result<T>& result) {
  return result.ok() ? Status::Ok() : result.status();
}

// Lets go of a handle without waiting for the server to say so.
void Release(const Session& session, const Target& target) {
  try {
    StartCall<Unit>(session.channel, session.calls.Release(target), [](const Result<Unit>&) {});
  } catch (...) {
    // Out of memory: the server closes it when it has been idle for long enough.
  }
}

class RemoteModel final : public LoadedModel {
 public:
  explicit RemoteModel(ServerInfo info) : info_(std::move(info)) {}
  std::string fingerprint() const override { return info_.model_fingerprint; }
  std::string description() const override { return info_.model_description; }
  size_t document_tokens_max() const override { return info_.document_tokens_max; }

 private:
  const ServerInfo info_;
};

}  // namespace

// ---- Database

Result<std::shared_ptr<Collection>> RemoteDatabase::Open(std::string_view name,
                                                         wire::fb::OpenMode mode) {
  return Guard([&]() -> Result<std::shared_ptr<Collection>> {
    MSADB_RETURN_IF_ERROR(
        AsStatus(Run(*session_->channel, session_->calls.OpenCollection(name, mode))));
    return std::shared_ptr<Collection>(
        std::make_shared<RemoteCollection>(session_, Target{std::string(name)}));
  });
}

Result<std::shared_ptr<Collection>> RemoteDatabase::CreateCollection(std::string_view name) {
  return Open(name, wire::fb::OpenMode::Create);
}
Result<std::shared_ptr<Collection>> RemoteDatabase::OpenCollection(std::string_view name) {
  return Open(name, wire::fb::OpenMode::Open);
}
Result<std::shared_ptr<Collection>> RemoteDatabase::GetOrCreateCollection(std::string_view name) {
  return Open(name, wire::fb::OpenMode::OpenOrCreate);
}

Status RemoteDatabase::DropCollection(std::string_view name) {
  return Guard(
      [&] { return AsStatus(Run(*session_->channel, session_->calls.DropCollection(name))); });
}

Result<std::vector<std::string>> RemoteDatabase::ListCollections() {
  return Guard([&] { return Run(*session_->channel, session_->calls.ListCollections()); });
}

Result<DatabaseStats> RemoteDatabase::Stats() {
  return Guard([&] { return Run(*session_->channel, session_->calls.Stats()); });
}

Result<VerifyReport> RemoteDatabase::Verify() {
  return Guard([&] { return Run(*session_->channel, session_->calls.Verify()); });
}

Status RemoteDatabase::Compact() {
  return Guard([&] { return AsStatus(Run(*session_->channel, session_->calls.Compact())); });
}

std::shared_ptr<LoadedModel> RemoteDatabase::model() const {
  return std::make_shared<RemoteModel>(session_->channel->info());
}

// ---- Reading

template <typename Interface>
Result<Document> RemoteReader<Interface>::Get(DocumentId id) {
  return Guard([&] { return Run(channel(), calls().Get(target_, id)); });
}

template <typename Interface>
Result<Document> RemoteReader<Interface>::GetByKey(std::string_view key) {
  return Guard([&] { return Run(channel(), calls().GetByKey(target_, key)); });
}

template <typename Interface>
Result<DocumentPage> RemoteReader<Interface>::List(const ListOptions& options) {
  return Guard([&] { return Run(channel(), calls().List(target_, options)); });
}

template <typename Interface>
Result<uint64_t> RemoteReader<Interface>::Count() {
  return Guard([&] { return Run(channel(), calls().Count(target_)); });
}

template <typename Interface>
Result<std::vector<SearchHit>> RemoteReader<Interface>::Search(std::string_view query,
                                                               const SearchOptions& options) {
  return Guard([&] { return Run(channel(), calls().Search(target_, query, options)); });
}

template <typename Interface>
Result<Answer> RemoteReader<Interface>::Ask(std::string_view question, const AskOptions& options) {
  return Guard(
      [&] { return Run(channel(), calls().Ask(target_, question, options), options.stop); });
}

template class RemoteReader<Collection>;
template class RemoteReader<Snapshot>;

RemoteSnapshot::~RemoteSnapshot() { Release(*session_, target_); }

// ---- Collection

Result<DocumentId> RemoteCollection::Insert(const NewDocument& document) {
  return Guard([&] { return Run(channel(), calls().Put(target_, document, /*upsert=*/false)); });
}

Result<DocumentId> RemoteCollection::Upsert(const NewDocument& document) {
  return Guard([&] { return Run(channel(), calls().Put(target_, document, /*upsert=*/true)); });
}

Status RemoteCollection::Delete(DocumentId id) {
  return Guard([&] { return AsStatus(Run(channel(), calls().Delete(target_, id))); });
}

Status RemoteCollection::DeleteByKey(std::string_view key) {
  return Guard([&] { return AsStatus(Run(channel(), calls().DeleteByKey(target_, key))); });
}

Result<uint64_t> RemoteCollection::DeleteWhere(const Filter& where) {
  return Guard([&] { return Run(channel(), calls().DeleteWhere(target_.collection, where)); });
}

Result<std::unique_ptr<Transaction>> RemoteCollection::Begin() {
  return Guard([&]() -> Result<std::unique_ptr<Transaction>> {
    MSADB_ASSIGN_OR_RETURN(const Handle handle, Run(channel(), calls().Begin(target_.collection)));
    return std::unique_ptr<Transaction>(std::make_unique<RemoteTransaction>(
        session_, Target{target_.collection, handle.number, handle.epoch}));
  });
}

Result<std::unique_ptr<Snapshot>> RemoteCollection::TakeSnapshot() {
  return Guard([&]() -> Result<std::unique_ptr<Snapshot>> {
    MSADB_ASSIGN_OR_RETURN(const Handle handle,
                           Run(channel(), calls().TakeSnapshot(target_.collection)));
    return std::unique_ptr<Snapshot>(std::make_unique<RemoteSnapshot>(
        session_, Target{target_.collection, handle.number, handle.epoch}));
  });
}

Result<CollectionStats> RemoteCollection::Stats() {
  return Guard([&] { return Run(channel(), calls().Stats(target_.collection)); });
}

// ---- Transaction

template <typename T>
Result<T> RemoteTransaction::RunHere(Call<T> call) {
  if (over_) {
    return Status::FailedPrecondition("the transaction is over; begin another one");
  }
  return Run(*session_->channel, std::move(call));
}

Result<DocumentId> RemoteTransaction::Insert(const NewDocument& document) {
  return Guard([&] { return RunHere(session_->calls.Put(target_, document, /*upsert=*/false)); });
}
Result<DocumentId> RemoteTransaction::Upsert(const NewDocument& document) {
  return Guard([&] { return RunHere(session_->calls.Put(target_, document, /*upsert=*/true)); });
}
Status RemoteTransaction::Delete(DocumentId id) {
  return Guard([&] { return AsStatus(RunHere(session_->calls.Delete(target_, id))); });
}
Status RemoteTransaction::DeleteByKey(std::string_view key) {
  return Guard([&] { return AsStatus(RunHere(session_->calls.DeleteByKey(target_, key))); });
}
Result<Document> RemoteTransaction::Get(DocumentId id) {
  return Guard([&] { return RunHere(session_->calls.Get(target_, id)); });
}
Result<Document> RemoteTransaction::GetByKey(std::string_view key) {
  return Guard([&] { return RunHere(session_->calls.GetByKey(target_, key)); });
}

Status RemoteTransaction::Commit() {
  return Guard([&] {
    const auto result = RunHere(session_->calls.Commit(target_));
    over_ = true;
    return AsStatus(result);
  });
}

void RemoteTransaction::Rollback() {
  if (std::exchange(over_, true)) return;
  Release(*session_, target_);
}

}  // namespace msadb::client
