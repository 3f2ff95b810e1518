#include "model/fingerprint.h"

#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

namespace msadb::model {
namespace {

using Digest = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;
using File = std::unique_ptr<std::FILE, decltype(&std::fclose)>;

constexpr size_t kPieceBytes = 1 << 20;

Status DigestFailed() { return Status::Internal("OpenSSL cannot compute SHA-256"); }

// Adds a file's length and bytes; a file that may be absent counts as length 2^64 - 1.
Status AddFile(const std::string& path, bool optional, EVP_MD_CTX* digest) {
  File file(std::fopen(path.c_str(), "rb"), &std::fclose);
  std::array<uint8_t, 8> length;
  length.fill(0xff);
  if (!file) {
    if (optional && errno == ENOENT) {
      return EVP_DigestUpdate(digest, length.data(), length.size()) == 1 ? Status::Ok()
                                                                         : DigestFailed();
    }
    return Status::IOError("cannot read " + path + ": " + std::strerror(errno));
  }
  if (std::fseek(file.get(), 0, SEEK_END) != 0) return Status::IOError("cannot seek in " + path);
  const long end = std::ftell(file.get());
  if (end < 0) return Status::IOError("cannot seek in " + path);
  std::rewind(file.get());
  for (size_t i = 0; i < length.size(); ++i) {
    length[i] = static_cast<uint8_t>(static_cast<uint64_t>(end) >> (8 * i));
  }
  if (EVP_DigestUpdate(digest, length.data(), length.size()) != 1) return DigestFailed();
  std::vector<uint8_t> piece(kPieceBytes);
  for (;;) {
    const size_t got = std::fread(piece.data(), 1, piece.size(), file.get());
    if (got != 0 && EVP_DigestUpdate(digest, piece.data(), got) != 1) return DigestFailed();
    if (got < piece.size()) break;
  }
  if (std::ferror(file.get())) return Status::IOError("cannot read " + path);
  return Status::Ok();
}

}  // namespace

Result<std::string> ModelFingerprint(const std::string& folder,
                                     std::span<const std::string> weight_paths) {
  const Digest digest(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  if (!digest || EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr) != 1) return DigestFailed();
  MSADB_RETURN_IF_ERROR(AddFile(folder + "/config.json", false, digest.get()));
  MSADB_RETURN_IF_ERROR(AddFile(folder + "/tokenizer.json", false, digest.get()));
  MSADB_RETURN_IF_ERROR(AddFile(folder + "/templates.json", true, digest.get()));
  for (const std::string& path : weight_paths) {
    MSADB_RETURN_IF_ERROR(AddFile(path, false, digest.get()));
  }
  std::array<uint8_t, EVP_MAX_MD_SIZE> bytes;
  unsigned size = 0;
  if (EVP_DigestFinal_ex(digest.get(), bytes.data(), &size) != 1) return DigestFailed();
  std::string hex;
  for (unsigned i = 0; i < size; ++i) {
    constexpr char kDigits[] = "0123456789abcdef";
    hex += kDigits[bytes[i] >> 4];
    hex += kDigits[bytes[i] & 15];
  }
  return hex;
}

}  // namespace msadb::model
