// Who may do what. A token names a principal; the principal has one right for each collection it was
// given, and none for any other.
//
// A token is "msadb_" and 64 hexadecimal digits, 256 random bits. The token file holds only SHA-256
// hashes of tokens, so reading it gives nobody a token. It belongs to its owner alone (mode 0600);
// a file that others can read or write is refused. Its form:
//
//   {"version": 1, "tokens": [{"name": "admin", "sha256": "9f86...", "created_at": "2026-...Z",
//                              "grants": [{"collection": "*", "right": "admin"}]}]}
//
// "*" grants the right for every collection, and for the server itself.
// A name that was not granted is answered exactly like one that does not exist: NotFound.
// Nothing here throws. Every method may be called from any thread.
#ifndef MSADB_SERVER_ACCESS_H_
#define MSADB_SERVER_ACCESS_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "msadb/status.h"

namespace msadb::server {

// Each right includes those before it.
enum class Right : uint8_t {
  kRead = 1,   // get, list, search, ask, statistics
  kWrite = 2,  // insert, upsert, delete, transactions
  kAdmin = 3,  // create and drop the collection; with "*" the server's own affairs
};

const char* RightName(Right right);                        // "read", "write", "admin"
Result<Right> RightFromName(std::string_view name);        // InvalidArgument

inline constexpr std::string_view kEveryCollection = "*";
inline constexpr size_t kTokenNameBytesMax = 128;
inline constexpr size_t kTokensMax = 100'000;

// What a token stands for. Immutable.
class Principal {
 public:
  Principal(std::string name, std::map<std::string, Right, std::less<>> grants)
      : name_(std::move(name)), grants_(std::move(grants)) {}

  const std::string& name() const { return name_; }
  const std::map<std::string, Right, std::less<>>& grants() const { return grants_; }

  // The right for this collection, by its own name or by "*", whichever is greater.
  std::optional<Right> RightFor(std::string_view collection) const;

  // OK, or NotFound when the collection was not granted at all (the words of CollectionNotFound),
  // or PermissionDenied when the right is too small. Call before touching the database.
  Status CheckCollection(std::string_view collection, Right needed) const;
  // For what concerns the whole server: the right must come from "*".
  Status CheckServer(Right needed) const;

 private:
  std::string name_;
  std::map<std::string, Right, std::less<>> grants_;
};

// The database's own words for a collection that does not exist, so that a foreign name cannot be
// told from a missing one.
Status CollectionNotFound(std::string_view collection);

struct NewToken {
  std::string name;  // 1..128 bytes of printable ASCII; shown in logs; unique in the file
  std::map<std::string, Right, std::less<>> grants;  // at least one
};

// What may be told about a token: everything but the token.
struct TokenInfo {
  std::string name;
  std::string created_at;
  std::map<std::string, Right, std::less<>> grants;
};

// The tokens of one token file. Changes are written beside the file and renamed over it, under a
// lock that other processes honour too.
class TokenStore {
 public:
  // Reads the file. NotFound: there is none. PermissionDenied: others than its owner can access it.
  // Corruption: its contents are not a token file.
  static Result<std::unique_ptr<TokenStore>> Open(const std::string& path);

  // Makes a token and writes its hash, creating the file if there is none. Returns the token, which
  // cannot be had a second time. AlreadyExists: the name is taken.
  static Result<std::string> Add(const std::string& path, const NewToken& token);
  // NotFound: no such name. A server that has the file open notices within a second.
  static Status Revoke(const std::string& path, std::string_view name);

  // PermissionDenied for anything that is not a token of the file. Compares hashes in constant
  // time. Reads the file again when it changed, which is noticed within a second for a token that
  // was revoked and at once for one that was added; when it can no longer be read, the tokens
  // known so far stay valid.
  Result<std::shared_ptr<const Principal>> Authenticate(std::string_view token);

  std::vector<TokenInfo> List() const;

 private:
  using Hash = std::array<uint8_t, 32>;
  struct Entry {
    Hash hash;
    std::string created_at;
    std::shared_ptr<const Principal> principal;
  };
  // What tells one version of the file from another.
  struct FileStamp {
    uint64_t inode = 0;
    uint64_t size = 0;
    int64_t modified_ns = 0;
    bool operator==(const FileStamp&) const = default;
  };
  struct Contents {
    std::vector<Entry> entries;
    FileStamp stamp;
  };

  explicit TokenStore(std::string path) : path_(std::move(path)) {}

  static Result<Contents> Read(const std::string& path);
  static Status Write(const std::string& path, const std::vector<Entry>& entries);
  static Result<std::vector<Entry>> Parse(std::string_view json);
  // Looks at the file unless that was done less than `age_min` ago.
  void ReloadIfChanged(std::chrono::milliseconds age_min);
  std::shared_ptr<const Principal> Find(const Hash& hash) const;
  std::shared_ptr<const std::vector<Entry>> entries() const;

  const std::string path_;
  mutable std::mutex mutex_;  // guards everything below
  std::shared_ptr<const std::vector<Entry>> entries_;
  FileStamp stamp_;
  std::chrono::steady_clock::time_point looked_at_{};
};

}  // namespace msadb::server

#endif  // MSADB_SERVER_ACCESS_H_
