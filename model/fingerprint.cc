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

Status Add(const void* bytes, size_t count, EVP_MD_CTX* digest) {
  return EVP_DigestUpdate(digest, bytes, count) == 1 ? Status::Ok() : DigestFailed();
}

Status AddLength(uint64_t length, EVP_MD_CTX* digest) {
  std::array<uint8_t, 8> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(length >> (8 * i));
  return Add(bytes.data(), bytes.size(), digest);
}

Status AddText(const std::string& text, EVP_MD_CTX* digest) {
  MSADB_RETURN_IF_ERROR(AddLength(text.size(), digest));
  return Add(text.data(), text.size(), digest);
}

// Adds a file's length and bytes.
Status AddFile(const std::string& path, EVP_MD_CTX* digest) {
  File file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) return Status::IOError("cannot read " + path + ": " + std::strerror(errno));
  if (std::fseek(file.get(), 0, SEEK_END) != 0) return Status::IOError("cannot seek in " + path);
  const long end = std::ftell(file.get());
  if (end < 0) return Status::IOError("cannot seek in " + path);
  std::rewind(file.get());
  MSADB_RETURN_IF_ERROR(AddLength(static_cast<uint64_t>(end), digest));
  std::vector<uint8_t> piece(kPieceBytes);
  for (;;) {
    const size_t got = std::fread(piece.data(), 1, piece.size(), file.get());
    MSADB_RETURN_IF_ERROR(Add(piece.data(), got, digest));
    if (got < piece.size()) break;
  }
  if (std::ferror(file.get())) return Status::IOError("cannot read " + path);
  return Status::Ok();
}

}  // namespace

Result<std::string> ModelFingerprint(const std::string& folder, const TemplateStrings& templates,
                                     std::span<const std::string> weight_paths) {
  const Digest digest(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  if (!digest || EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr) != 1) return DigestFailed();
  MSADB_RETURN_IF_ERROR(AddFile(folder + "/config.json", digest.get()));
  MSADB_RETURN_IF_ERROR(AddFile(folder + "/tokenizer.json", digest.get()));
  MSADB_RETURN_IF_ERROR(AddText(templates.head, digest.get()));
  MSADB_RETURN_IF_ERROR(AddText(templates.document, digest.get()));
  for (const std::string& path : weight_paths) {
    MSADB_RETURN_IF_ERROR(AddFile(path, digest.get()));
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
