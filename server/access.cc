#include "server/access.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "values/validate.h"
#include "model/json_input.h"
#include "msadb/transfer.h"

namespace msadb::server {
namespace {

constexpr std::string_view kTokenPrefix = "msadb_";
constexpr size_t kTokenBytes = 32;
constexpr size_t kFileBytesMax = 64u << 20;

class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

Status SystemError(const std::string& what, const std::string& path) {
  return Status::IOError(path + ": " + what + ": " + std::strerror(errno));
}

template <typename Bytes>
std::string Hex(const Bytes& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const uint8_t byte : bytes) {
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

std::array<uint8_t, 32> Sha256(std::string_view text) {
  std::array<uint8_t, 32> hash;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), hash.data());
  return hash;
}

bool IsTokenName(std::string_view name) {
  return !name.empty() && name.size() <= kTokenNameBytesMax &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

Status CheckNewToken(const NewToken& token) {
  if (!IsTokenName(token.name)) {
    return Status::InvalidArgument(
        "a token's name is 1 to 128 printable ASCII characters without spaces");
  }
  if (token.grants.empty()) {
    return Status::InvalidArgument("a token needs at least one collection, or \"*\" for all");
  }
  for (const auto& [collection, right] : token.grants) {
    if (collection != kEveryCollection) {
      MSADB_RETURN_IF_ERROR(values::ValidateCollectionName(collection));
    }
  }
  return Status::Ok();
}

// Holds `path`.lock exclusively, so that two programs adding tokens do not lose one.
Result<std::unique_ptr<File>> LockBeside(const std::string& path) {
  const std::string lock_path = path + ".lock";
  auto lock = std::make_unique<File>(open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (lock->get() < 0) return SystemError("cannot open", lock_path);
  if (flock(lock->get(), LOCK_EX) != 0) return SystemError("cannot lock", lock_path);
  return lock;
}

Status WriteAll(int descriptor, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(descriptor, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return SystemError("cannot write", path);
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return Status::Ok();
}

}  // namespace

const char* RightName(Right right) {
  switch (right) {
    case Right::kRead:
      return "read";
    case Right::kWrite:
      return "write";
    case Right::kAdmin:
      return "admin";
  }
  return "none";
}

Result<Right> RightFromName(std::string_view name) {
  for (const Right right : {Right::kRead, Right::kWrite, Right::kAdmin}) {
    if (name == RightName(right)) return right;
  }
  return Status::InvalidArgument("'" + std::string(name.substr(0, 64)) +
                                 "' is not a right; rights are read, write and admin");
}

std::optional<Right> Principal::RightFor(std::string_view collection) const {
  std::optional<Right> right;
  for (const std::string_view name : {collection, kEveryCollection}) {
    const auto found = grants_.find(name);
    if (found != grants_.end() && (!right || *right < found->second)) right = found->second;
  }
  return right;
}

Status Principal::CheckCollection(std::string_view collection, Right needed) const {
  // "*" is how grants name all collections; as a collection's own name it means nothing special.
  const auto right = RightFor(collection);
  if (!right) return CollectionNotFound(collection);
  if (*right < needed) {
    return Status::PermissionDenied("the token '" + name_ + "' has the right " + RightName(*right) +
                                    " for this collection; this needs " + RightName(needed));
  }
  return Status::Ok();
}

Status Principal::CheckServer(Right needed) const {
  const auto found = grants_.find(kEveryCollection);
  if (found != grants_.end() && found->second >= needed) return Status::Ok();
  return Status::PermissionDenied("the token '" + name_ + "' has no right for the whole server; " +
                                  "this needs " + RightName(needed) + " for \"*\"");
}

Status CollectionNotFound(std::string_view collection) {
  return Status::NotFound("no collection '" + std::string(collection) +
                          "'; create it first");
}

Result<std::vector<TokenStore::Entry>> TokenStore::Parse(std::string_view json) {
  const auto bad = [](const std::string& what) {
    return Status::Corruption("not a token file: " + what);
  };
  auto parsed = model::ParseJson(json, {.depth_max = 6, .values_max = kTokensMax * 64});
  if (!parsed.ok()) return bad(std::string(parsed.status().message()));
  const auto& root = *parsed;
  if (!root.is_object() || !root.contains("version") || !root.contains("tokens") ||
      !root["tokens"].is_array()) {
    return bad("it needs \"version\" and a list \"tokens\"");
  }
  if (root["version"] != 1) {
    return Status::Unsupported("the token file has another version than 1; use a newer msadb");
  }
  if (root["tokens"].size() > kTokensMax) return bad("more than 100,000 tokens");

  std::vector<Entry> entries;
  for (const auto& item : root["tokens"]) {
    const auto is_string = [&](const char* name) {
      return item.contains(name) && item[name].is_string();
    };
    if (!item.is_object() || !is_string("name") || !is_string("sha256") ||
        !is_string("created_at") || !item.contains("grants") || !item["grants"].is_array()) {
      return bad("a token needs name, sha256, created_at and grants");
    }
    const auto& name = item["name"].get_ref<const std::string&>();
    if (!IsTokenName(name)) return bad("a token's name is 1 to 128 printable characters");
    const auto& digits = item["sha256"].get_ref<const std::string&>();
    Entry entry;
    if (digits.size() != 2 * entry.hash.size()) return bad("a sha256 has 64 digits");
    for (size_t i = 0; i < entry.hash.size(); ++i) {
      const int high = HexDigit(digits[2 * i]);
      const int low = HexDigit(digits[2 * i + 1]);
      if (high < 0 || low < 0) return bad("a sha256 has digits 0-9 and a-f");
      entry.hash[i] = static_cast<uint8_t>(high << 4 | low);
    }
    entry.created_at = item["created_at"].get<std::string>();
    std::map<std::string, Right, std::less<>> grants;
    for (const auto& grant : item["grants"]) {
      if (!grant.is_object() || !grant.contains("collection") || !grant.contains("right") ||
          !grant["collection"].is_string() || !grant["right"].is_string()) {
        return bad("a grant needs collection and right");
      }
      auto right = RightFromName(grant["right"].get_ref<const std::string&>());
      if (!right.ok()) return bad(std::string(right.status().message()));
      grants[grant["collection"].get<std::string>()] = *right;
    }
    entry.principal = std::make_shared<const Principal>(name, std::move(grants));
    entries.push_back(std::move(entry));
  }
  return entries;
}

Result<TokenStore::Contents> TokenStore::Read(const std::string& path) {
  const File file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (file.get() < 0) {
    if (errno == ENOENT) return Status::NotFound("there is no token file " + path);
    return SystemError("cannot open", path);
  }
  struct stat status;
  if (fstat(file.get(), &status) != 0) return SystemError("cannot look at", path);
  if (!S_ISREG(status.st_mode)) return Status::InvalidArgument(path + " is not a file");
  if ((status.st_mode & 077) != 0) {
    return Status::PermissionDenied(path + " can be accessed by others; run: chmod 600 " + path);
  }
  if (static_cast<uint64_t>(status.st_size) > kFileBytesMax) {
    return Status::Corruption(path + " is larger than a token file can be");
  }
  std::string bytes(static_cast<size_t>(status.st_size), '\0');
  size_t read_bytes = 0;
  while (read_bytes < bytes.size()) {
    const ssize_t n = read(file.get(), bytes.data() + read_bytes, bytes.size() - read_bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError("cannot read", path);
    if (n == 0) break;
    read_bytes += static_cast<size_t>(n);
  }
  bytes.resize(read_bytes);
  auto entries = Parse(bytes);
  if (!entries.ok()) return entries.status().WithContext(path);
  return Contents{std::move(*entries),
                  {.inode = status.st_ino,
                   .size = static_cast<uint64_t>(status.st_size),
                   .modified_ns = status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec}};
}

Status TokenStore::Write(const std::string& path, const std::vector<Entry>& entries) {
  nlohmann::ordered_json tokens = nlohmann::ordered_json::array();
  for (const Entry& entry : entries) {
    nlohmann::ordered_json grants = nlohmann::ordered_json::array();
    for (const auto& [collection, right] : entry.principal->grants()) {
      grants.push_back({{"collection", collection}, {"right", RightName(right)}});
    }
    tokens.push_back({{"name", entry.principal->name()},
                      {"sha256", Hex(entry.hash)},
                      {"created_at", entry.created_at},
                      {"grants", std::move(grants)}});
  }
  const nlohmann::ordered_json root = {{"version", 1}, {"tokens", std::move(tokens)}};

  const std::string next_path = path + ".new";
  unlink(next_path.c_str());
  {
    const File file(
        open(next_path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.get() < 0) return SystemError("cannot create", next_path);
    MSADB_RETURN_IF_ERROR(WriteAll(
        file.get(), root.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n",
        next_path));
    if (fsync(file.get()) != 0) return SystemError("cannot sync", next_path);
  }
  if (rename(next_path.c_str(), path.c_str()) != 0) return SystemError("cannot replace", path);
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const File directory(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0 || fsync(directory.get()) != 0) return SystemError("cannot sync", folder);
  return Status::Ok();
}

Result<std::unique_ptr<TokenStore>> TokenStore::Open(const std::string& path) {
  MSADB_ASSIGN_OR_RETURN(Contents contents, Read(path));
  std::unique_ptr<TokenStore> store(new TokenStore(path));
  store->entries_ = std::make_shared<const std::vector<Entry>>(std::move(contents.entries));
  store->stamp_ = contents.stamp;
  store->looked_at_ = std::chrono::steady_clock::now();
  return store;
}

Result<std::string> TokenStore::Add(const std::string& path, const NewToken& token) {
  MSADB_RETURN_IF_ERROR(CheckNewToken(token));
  MSADB_ASSIGN_OR_RETURN(const auto lock, LockBeside(path));
  std::vector<Entry> entries;
  if (auto contents = Read(path); contents.ok()) {
    entries = std::move(contents->entries);
  } else if (contents.status().code() != StatusCode::kNotFound) {
    return contents.status();
  }
  if (entries.size() >= kTokensMax) {
    return Status::ResourceExhausted("the token file is full; revoke tokens that nobody uses");
  }
  for (const Entry& entry : entries) {
    if (entry.principal->name() == token.name) {
      return Status::AlreadyExists("there is a token named '" + token.name + "' already");
    }
  }
  std::array<uint8_t, kTokenBytes> random;
  if (RAND_bytes(random.data(), static_cast<int>(random.size())) != 1) {
    return Status::Internal("the system has no random numbers");
  }
  const std::string text = std::string(kTokenPrefix) + Hex(random);
  const auto now =
      std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
  entries.push_back({Sha256(text), FormatTime(now),
                     std::make_shared<const Principal>(token.name, token.grants)});
  MSADB_RETURN_IF_ERROR(Write(path, entries));
  return text;
}

Status TokenStore::Revoke(const std::string& path, std::string_view name) {
  MSADB_ASSIGN_OR_RETURN(const auto lock, LockBeside(path));
  MSADB_ASSIGN_OR_RETURN(Contents contents, Read(path));
  const size_t removed = std::erase_if(
      contents.entries, [&](const Entry& entry) { return entry.principal->name() == name; });
  if (removed == 0) {
    return Status::NotFound("there is no token named '" + std::string(name) + "'");
  }
  return Write(path, contents.entries);
}

void TokenStore::ReloadIfChanged(std::chrono::milliseconds age_min) {
  const auto now = std::chrono::steady_clock::now();
  FileStamp known;
  {
    std::lock_guard lock(mutex_);
    if (now - looked_at_ < age_min) return;
    looked_at_ = now;
    known = stamp_;
  }
  struct stat status;
  if (stat(path_.c_str(), &status) != 0) return;
  const FileStamp found{
      .inode = status.st_ino,
      .size = static_cast<uint64_t>(status.st_size),
      .modified_ns = status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec};
  if (found == known) return;
  auto contents = Read(path_);
  if (!contents.ok()) return;
  std::lock_guard lock(mutex_);
  entries_ = std::make_shared<const std::vector<Entry>>(std::move(contents->entries));
  stamp_ = contents->stamp;
}

std::shared_ptr<const std::vector<TokenStore::Entry>> TokenStore::entries() const {
  std::lock_guard lock(mutex_);
  return entries_;
}

std::shared_ptr<const Principal> TokenStore::Find(const Hash& hash) const {
  std::shared_ptr<const Principal> found;
  const auto known = entries();
  for (const Entry& entry : *known) {
    if (CRYPTO_memcmp(entry.hash.data(), hash.data(), hash.size()) == 0) found = entry.principal;
  }
  return found;
}

Result<std::shared_ptr<const Principal>> TokenStore::Authenticate(std::string_view token) {
  constexpr size_t kTokenBytesMax = 256;  // far above what a token has
  ReloadIfChanged(std::chrono::milliseconds(1000));
  // The hash is taken of anything up to a bound, so that the time taken does not tell how much of
  // a token was right.
  const Hash hash = Sha256(token.substr(0, kTokenBytesMax));
  std::shared_ptr<const Principal> found = Find(hash);
  if (!found) {
    // It may have been added a moment ago.
    ReloadIfChanged(std::chrono::milliseconds(0));
    found = Find(hash);
  }
  if (!found || token.size() > kTokenBytesMax) {
    return Status::PermissionDenied("no valid token; send one of this server's tokens");
  }
  return found;
}

std::vector<TokenInfo> TokenStore::List() const {
  std::vector<TokenInfo> list;
  const auto known = entries();
  for (const Entry& entry : *known) {
    list.push_back({entry.principal->name(), entry.created_at, entry.principal->grants()});
  }
  return list;
}

}  // namespace msadb::server
