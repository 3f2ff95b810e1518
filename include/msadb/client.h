// A memory on another machine, through the same classes as one in the same process:
//
//   auto db = msadb::client::Connect({.host = "127.0.0.1", .token = token});
//   auto notes = (*db)->OpenCollection("default");
//
// From there on everything is as msadb/database.h says. Link msadb::client; it needs no model, no
// GPU and no database library. What differs from an embedded database:
// - Unavailable also means that the server cannot be reached. Reads are then tried once more on a
//   new connection. A change is sent again only if it cannot have been made; otherwise the call
//   ends with Unavailable and OutcomeUnknown() is true of its Status.
// - A Transaction or Snapshot lives on the server as long as the connection and as long as it is
//   used now and then; after that its calls end with Unavailable or FailedPrecondition, and nothing
//   of the transaction is committed.
// - A Collection is known by its name: dropped and created again, the same object serves the new
//   one.
// - InsertMany stops after on_progress said so, but batches sent before may still be committed; the
//   message says how many documents were.
//
// Threads: everything may be called from any thread at any time. All calls of one Database share
// one connection, and a slow one does not hold up the others.
#ifndef MSADB_CLIENT_H_
#define MSADB_CLIENT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "msadb/database.h"
#include "msadb/status.h"

namespace msadb::client {

inline constexpr uint16_t kDefaultPort = 7411;

struct TlsOptions {
  bool enabled = false;
  std::string ca_file;      // PEM; empty: the system's authorities
  std::string server_name;  // what the certificate must be for; empty: ClientOptions::host
  bool verify = true;       // false: anybody may answer. For experiments.
};

struct ClientOptions {
  std::string host = "127.0.0.1";
  uint16_t port = kDefaultPort;
  std::string token;               // from `msadb tokens add`; sent only inside the connection
  std::string name = "msadb-cpp";  // shown in the server's log
  TlsOptions tls;

  std::chrono::milliseconds connect_timeout{5000};
  // For calls without a deadline of their own, Verify and Compact excepted: they end with
  // DeadlineExceeded. 0: wait for as long as it takes.
  std::chrono::milliseconds request_timeout{600'000};
  // Connect again when the connection was lost. False: every later call ends with Unavailable.
  bool reconnect = true;

  // Back-pressure. Calls begun beyond either end with ResourceExhausted at once.
  size_t queued_requests_max = 4096;
  size_t queued_bytes_max = 256u << 20;
  // The largest message taken from the server.
  size_t message_bytes_max = 256u << 20;
};

// Connects and says who it is. Unavailable: cannot be reached. PermissionDenied: the token is not
// valid there. Unsupported: the server speaks another version of the protocol. InvalidArgument: not
// an msadb server, or wrong options.
Result<std::shared_ptr<Database>> Connect(const ClientOptions& options);

// True of an error that leaves open whether a change was made: it was sent, and no answer came.
// Look before doing it again.
bool OutcomeUnknown(const Status& status);

// ---- Without blocking

// Called exactly once, from a thread of the client, before or after the call that took it returns.
// It must not block; blocking calls of the same connection made from it end with
// FailedPrecondition. An exception thrown by it is swallowed.
template <typename T>
using Callback = std::function<void(Result<T>)>;
using DoneCallback = std::function<void(Status)>;

// The verbs of Collection with callbacks. msadb/client_coroutine.h makes them awaitable.
class AsyncCollection {
 public:
  virtual ~AsyncCollection() = default;
  virtual std::string name() const = 0;

  virtual void Get(DocumentId id, Callback<Document> done) = 0;
  virtual void GetByKey(std::string_view key, Callback<Document> done) = 0;
  virtual void List(const ListOptions& options, Callback<DocumentPage> done) = 0;
  virtual void Count(Callback<uint64_t> done) = 0;
  virtual void Search(std::string_view query, const SearchOptions& options,
                      Callback<std::vector<SearchHit>> done) = 0;
  // AskOptions::on_text is called from a thread of the client.
  virtual void Ask(std::string_view question, const AskOptions& options, Callback<Answer> done) = 0;
  virtual void Insert(const NewDocument& document, Callback<DocumentId> done) = 0;
  virtual void Upsert(const NewDocument& document, Callback<DocumentId> done) = 0;
  virtual void Delete(DocumentId id, DoneCallback done) = 0;
  virtual void DeleteByKey(std::string_view key, DoneCallback done) = 0;
  virtual void DeleteWhere(const Filter& where, Callback<uint64_t> done) = 0;
  virtual void Stats(Callback<CollectionStats> done) = 0;
};

class AsyncDatabase {
 public:
  // Over the connection of `database`, which must be one that Connect returned; else null.
  static std::shared_ptr<AsyncDatabase> Of(const std::shared_ptr<Database>& database);
  virtual ~AsyncDatabase() = default;

  // Does not ask the server whether the collection exists; the first verb will tell.
  virtual std::shared_ptr<AsyncCollection> Collection(std::string_view name) = 0;
  virtual void CreateCollection(std::string_view name, DoneCallback done) = 0;
  virtual void DropCollection(std::string_view name, DoneCallback done) = 0;
  virtual void ListCollections(Callback<std::vector<std::string>> done) = 0;
  // A round trip.
  virtual void Ping(DoneCallback done) = 0;
};

}  // namespace msadb::client

#endif  // MSADB_CLIENT_H_
