#include "server/console_page.h"

#include <openssl/evp.h>
#include <openssl/sha.h>

namespace msadb::server {
namespace {

// 'sha256-...' of what stands between the tags.
std::string HashOf(std::string_view open_tag, std::string_view close_tag) {
  const size_t begin = kConsolePage.find(open_tag) + open_tag.size();
  const std::string_view text = kConsolePage.substr(begin, kConsolePage.find(close_tag) - begin);
  unsigned char hash[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), hash);
  unsigned char base64[4 * ((sizeof(hash) + 2) / 3) + 1];
  const int size = EVP_EncodeBlock(base64, hash, sizeof(hash));
  return "'sha256-" + std::string(reinterpret_cast<char*>(base64), static_cast<size_t>(size)) + "'";
}

}  // namespace

const std::string& ConsoleSecurityPolicy() {
  static const std::string policy =
      "default-src 'none'; script-src " + HashOf("<script>", "</script>") + "; style-src " +
      HashOf("<style>", "</style>") +
      "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
      "frame-ancestors 'none'";
  return policy;
}

}  // namespace msadb::server
