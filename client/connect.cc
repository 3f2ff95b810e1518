// client::Connect and the asynchronous classes.
#include <utility>

#include "client/remote.h"
#include "client/run.h"

namespace msadb::client {
namespace {

std::function<void(Result<Unit>)> AsUnit(DoneCallback done) {
  return [done = std::move(done)](const Result<Unit>& result) {
    done(result.ok() ? Status::Ok() : result.status());
  };
}

class AsyncRemoteCollection final : public AsyncCollection {
 public:
  AsyncRemoteCollection(SessionPtr session, std::string name)
      : session_(std::move(session)), target_{std::move(name)} {}

  std::string name() const override { return target_.collection; }
  void Get(DocumentId id, Callback<Document> done) override {
    Go(calls().Get(target_, id), std::move(done));
  }
  void GetByKey(std::string_view key, Callback<Document> done) override {
    Go(calls().GetByKey(target_, key), std::move(done));
  }
  void List(const ListOptions& options, Callback<DocumentPage> done) override {
    Go(calls().List(target_, options), std::move(done));
  }
  void Count(Callback<uint64_t> done) override { Go(calls().Count(target_), std::move(done)); }
  void Search(std::string_view query, const SearchOptions& options,
              Callback<std::vector<SearchHit>> done) override {
    Go(calls().Search(target_, query, options), std::move(done));
  }
  void Ask(std::string_view question, const AskOptions& options, Callback<Answer> done) override {
    StartCall(session_->channel, calls().Ask(target_, question, options), std::move(done),
              options.stop);
  }
  void Insert(const NewDocument& document, Callback<DocumentId> done) override {
    Go(calls().Put(target_, document, /*upsert=*/false), std::move(done));
  }
  void Upsert(const NewDocument& document, Callback<DocumentId> done) override {
    Go(calls().Put(target_, document, /*upsert=*/true), std::move(done));
  }
  void Delete(DocumentId id, DoneCallback done) override {
    Go(calls().Delete(target_, id), AsUnit(std::move(done)));
  }
  void DeleteByKey(std::string_view key, DoneCallback done) override {
    Go(calls().DeleteByKey(target_, key), AsUnit(std::move(done)));
  }
  void DeleteWhere(const Filter& where, Callback<uint64_t> done) override {
    Go(calls().DeleteWhere(target_.collection, where), std::move(done));
  }
  void Stats(Callback<CollectionStats> done) override {
    Go(calls().Stats(target_.collection), std::move(done));
  }

 private:
  const Calls& calls() const { return session_->calls; }
  template <typename T>
  void Go(Call<T> call, std::function<void(Result<T>)> done) {
    StartCall(session_->channel, std::move(call), std::move(done));
  }

  const SessionPtr session_;
  const Target target_;
};

class AsyncRemoteDatabase final : public AsyncDatabase {
 public:
  explicit AsyncRemoteDatabase(SessionPtr session) : session_(std::move(session)) {}

  std::shared_ptr<AsyncCollection> Collection(std::string_view name) override {
    return std::make_shared<AsyncRemoteCollection>(session_, std::string(name));
  }
  void CreateCollection(std::string_view name, DoneCallback done) override {
    StartCall(session_->channel, session_->calls.OpenCollection(name, wire::fb::OpenMode::Create),
              AsUnit(std::move(done)));
  }
  void DropCollection(std::string_view name, DoneCallback done) override {
    StartCall(session_->channel, session_->calls.DropCollection(name), AsUnit(std::move(done)));
  }
  void ListCollections(Callback<std::vector<std::string>> done) override {
    StartCall(session_->channel, session_->calls.ListCollections(), std::move(done));
  }
  void Ping(DoneCallback done) override {
    StartCall(session_->channel, session_->calls.Ping(), AsUnit(std::move(done)));
  }

 private:
  const SessionPtr session_;
};

}  // namespace

Result<std::shared_ptr<Database>> Connect(const ClientOptions& options) {
  if (options.host.empty()) return Status::InvalidArgument("ClientOptions::host is empty");
  if (options.port == 0) return Status::InvalidArgument("ClientOptions::port is 0");
  if (options.token.size() + options.name.size() > wire::kHelloBytesMax / 2) {
    return Status::InvalidArgument("ClientOptions::token and name are too long");
  }
  if (options.connect_timeout.count() <= 0 || options.request_timeout.count() < 0) {
    return Status::InvalidArgument(
        "ClientOptions::connect_timeout must be positive, request_timeout not negative");
  }
  try {
    MSADB_ASSIGN_OR_RETURN(std::shared_ptr<Channel> channel, Channel::Open(options));
    return std::shared_ptr<Database>(
        std::make_shared<RemoteDatabase>(std::make_shared<const Session>(std::move(channel))));
  } catch (const std::exception& e) {
    return Status::Internal(std::string("unexpected exception: ") + e.what());
  }
}

bool OutcomeUnknown(const Status& status) {
  return status.message().find(kOutcomeUnknownWords) != std::string_view::npos;
}

std::shared_ptr<AsyncDatabase> AsyncDatabase::Of(const std::shared_ptr<Database>& database) {
  const auto* remote = dynamic_cast<const RemoteDatabase*>(database.get());
  if (remote == nullptr) return nullptr;
  return std::make_shared<AsyncRemoteDatabase>(remote->session());
}

}  // namespace msadb::client
