// Each verb of the protocol as a value: the request's bytes, and how its reply is read. Blocking
// and asynchronous use share them.
#ifndef MSADB_CLIENT_CALLS_H_
#define MSADB_CLIENT_CALLS_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "client/channel.h"
#include "client/codec.h"

namespace msadb::client {

using Unit = std::monostate;

// What a verb is about: a live collection, or a transaction or snapshot of one connection.
struct Target {
  std::string collection;
  uint64_t handle = 0;
  uint64_t epoch = 0;
};

struct Handle {
  uint64_t number = 0;
  uint64_t epoch = 0;  // filled in by whoever made the call
};

template <typename T>
struct Call {
  std::vector<uint8_t> payload;
  bool changes = false;
  uint64_t epoch = 0;
  std::optional<std::chrono::steady_clock::time_point> deadline;
  // Reads one message that is not an Error. The last one completes `value`.
  std::function<Status(const wire::fb::Reply&, wire::Decoder&, T* value)> take;
  T value{};
};

// Builds calls with the time limit of the options.
class Calls {
 public:
  explicit Calls(const ClientOptions& options) : timeout_(options.request_timeout) {}

  Call<Unit> Ping() const;
  Call<Unit> OpenCollection(std::string_view name, wire::fb::OpenMode mode) const;
  Call<Unit> DropCollection(std::string_view name) const;
  Call<std::vector<std::string>> ListCollections() const;
  Call<DatabaseStats> Stats() const;
  Call<CollectionStats> Stats(std::string_view collection) const;
  Call<VerifyReport> Verify() const;
  Call<Unit> Compact() const;

  Call<Document> Get(const Target& target, DocumentId id) const;
  Call<Document> GetByKey(const Target& target, std::string_view key) const;
  Call<DocumentPage> List(const Target& target, const ListOptions& options) const;
  Call<uint64_t> Count(const Target& target) const;
  Call<std::vector<SearchHit>> Search(const Target& target, std::string_view query,
                                      const SearchOptions& options) const;
  Call<Answer> Ask(const Target& target, std::string_view question,
                   const AskOptions& options) const;
  Call<DocumentId> Put(const Target& target, const NewDocument& document, bool upsert) const;
  // `on_progress` may be empty; it gets this batch's numbers.
  Call<uint64_t> InsertBatch(std::string_view collection, std::span<const NewDocument> documents,
                             bool replace_existing,
                             std::function<void(uint64_t done, uint64_t tokens)> on_progress) const;
  Call<Unit> Delete(const Target& target, DocumentId id) const;
  Call<Unit> DeleteByKey(const Target& target, std::string_view key) const;
  Call<uint64_t> DeleteWhere(std::string_view collection, const Filter& where) const;
  Call<Handle> Begin(std::string_view collection) const;
  Call<Handle> TakeSnapshot(std::string_view collection) const;
  Call<Unit> Commit(const Target& target) const;
  Call<Unit> Release(const Target& target) const;

 private:
  template <typename T, typename Table>
  Call<T> Make(wire::Builder* b, flatbuffers::Offset<Table> body) const;

  const std::chrono::milliseconds timeout_;
};

}  // namespace msadb::client

#endif  // MSADB_CLIENT_CALLS_H_
