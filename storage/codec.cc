#include "storage/codec.h"

#include <openssl/sha.h>

#include <bit>
#include <cassert>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace msadb::storage {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tensor elements are stored little endian as they are in memory");

constexpr uint32_t kTensorMagic = 0x314B4254;  // "TBK1" in the file
constexpr uint64_t kSignBit = uint64_t{1} << 63;

uint64_t LoadBigEndian64(const char* p) {
  uint64_t v = 0;
  for (int i = 0; i < 8; ++i) v = v << 8 | static_cast<uint8_t>(p[i]);
  return v;
}

uint32_t LoadBigEndian32(const char* p) {
  uint32_t v = 0;
  for (int i = 0; i < 4; ++i) v = v << 8 | static_cast<uint8_t>(p[i]);
  return v;
}

// The key's length goes into the hash too, so that bytes cannot move between key and payload.
uint64_t HashOf(Family family, std::string_view key, std::string_view head, std::string_view body) {
  assert(key.size() < 256);
  char prefix[2 + 256];
  prefix[0] = static_cast<char>(family);
  prefix[1] = static_cast<char>(key.size());
  std::memcpy(prefix + 2, key.data(), key.size());
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  XXH3_64bits_update(&state, prefix, 2 + key.size());
  XXH3_64bits_update(&state, head.data(), head.size());
  XXH3_64bits_update(&state, body.data(), body.size());
  return XXH3_64bits_digest(&state);
}

KeyBytes Tagged(char tag) {
  KeyBytes key;
  key.Append8(static_cast<uint8_t>(tag));
  return key;
}

}  // namespace

const char* FamilyName(Family family) {
  switch (family) {
    case Family::kMeta:
      return "meta";
    case Family::kDocuments:
      return "documents";
    case Family::kKeys:
      return "keys";
    case Family::kExpiry:
      return "expiry";
    case Family::kRouting:
      return "routing";
    case Family::kBlocks:
      return "blocks";
  }
  return "unknown";
}

const char* FamilyRocksdbName(Family family) {
  return family == Family::kMeta ? "default" : FamilyName(family);
}

void KeyBytes::Append32(uint32_t v) {
  for (int shift = 24; shift >= 0; shift -= 8) Append8(static_cast<uint8_t>(v >> shift));
}

void KeyBytes::Append64(uint64_t v) {
  for (int shift = 56; shift >= 0; shift -= 8) Append8(static_cast<uint8_t>(v >> shift));
}

void KeyBytes::Append(std::string_view v) {
  assert(v.size() <= kCapacity - size_);
  std::memcpy(bytes_.data() + size_, v.data(), v.size());
  size_ += v.size();
}

KeyBytes PartKey(CollectionId collection, Number number) {
  KeyBytes key;
  key.Append32(collection);
  key.Append64(number);
  return key;
}

std::optional<PartKeyFields> ParsePartKey(std::string_view key) {
  if (key.size() != 12) return std::nullopt;
  return PartKeyFields{LoadBigEndian32(key.data()), LoadBigEndian64(key.data() + 4)};
}

KeyBytes UserKeyHash(CollectionId collection, std::string_view user_key) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(user_key.data()), user_key.size(), digest);
  KeyBytes key;
  key.Append32(collection);
  key.Append({reinterpret_cast<const char*>(digest), kUserKeyHashBytes - 4});
  return key;
}

KeyBytes ExpiryKey(CollectionId collection, int64_t expires_us, Number number) {
  KeyBytes key;
  key.Append32(collection);
  key.Append64(static_cast<uint64_t>(expires_us) ^ kSignBit);
  key.Append64(number);
  return key;
}

std::optional<ExpiryKeyFields> ParseExpiryKey(std::string_view key) {
  if (key.size() != 20) return std::nullopt;
  return ExpiryKeyFields{LoadBigEndian32(key.data()),
                         static_cast<int64_t>(LoadBigEndian64(key.data() + 4) ^ kSignBit),
                         LoadBigEndian64(key.data() + 12)};
}

KeyBytes CollectionKey(CollectionId collection) {
  KeyBytes key;
  key.Append32(collection);
  return key;
}

KeyBytes FormatKey() { return Tagged('F'); }
KeyBytes ModelKey() { return Tagged('M'); }
KeyBytes CountersKey() { return Tagged('W'); }
KeyBytes PurgedKey() { return Tagged('P'); }

KeyBytes CollectionNameKey(CollectionId id) {
  KeyBytes key = Tagged(kCollectionNameTag);
  key.Append32(id);
  return key;
}

KeyBytes CollectionStatsKey(CollectionId id) {
  KeyBytes key = Tagged(kCollectionStatsTag);
  key.Append32(id);
  return key;
}

KeyBytes SettingKey(std::string_view name) {
  KeyBytes key = Tagged(kSettingTag);
  key.Append(name);
  return key;
}

void PutFixed32(std::string* out, uint32_t v) {
  char bytes[sizeof(v)];
  std::memcpy(bytes, &v, sizeof(v));
  out->append(bytes, sizeof(v));
}

void PutFixed64(std::string* out, uint64_t v) {
  char bytes[sizeof(v)];
  std::memcpy(bytes, &v, sizeof(v));
  out->append(bytes, sizeof(v));
}

bool GetFixed32(std::string_view* in, uint32_t* v) {
  if (in->size() < sizeof(*v)) return false;
  std::memcpy(v, in->data(), sizeof(*v));
  in->remove_prefix(sizeof(*v));
  return true;
}

bool GetFixed64(std::string_view* in, uint64_t* v) {
  if (in->size() < sizeof(*v)) return false;
  std::memcpy(v, in->data(), sizeof(*v));
  in->remove_prefix(sizeof(*v));
  return true;
}

std::array<char, kSealBytes> SealOf(Family family, std::string_view key, std::string_view head,
                                    std::string_view body) {
  const uint64_t hash = HashOf(family, key, head, body);
  std::array<char, kSealBytes> seal;
  std::memcpy(seal.data(), &hash, sizeof(hash));
  return seal;
}

std::string Seal(Family family, std::string_view key, std::string_view payload) {
  const auto seal = SealOf(family, key, payload, {});
  std::string value;
  value.reserve(kSealBytes + payload.size());
  value.append(seal.data(), seal.size());
  value.append(payload);
  return value;
}

std::optional<std::string_view> Unseal(Family family, std::string_view key,
                                       std::string_view value) {
  if (value.size() < kSealBytes || key.size() >= 256) return std::nullopt;
  uint64_t stored = 0;
  std::memcpy(&stored, value.data(), sizeof(stored));
  const std::string_view payload = value.substr(kSealBytes);
  if (HashOf(family, key, payload, {}) != stored) return std::nullopt;
  return payload;
}

std::array<char, kTensorHeaderBytes> TensorHeader(Family family, const TensorShape& shape) {
  const uint32_t fields[] = {kTensorMagic,
                             static_cast<uint32_t>(family),
                             static_cast<uint32_t>(shape.dtype),
                             shape.n_layers,
                             shape.n_chunks,
                             shape.dim};
  std::array<char, kTensorHeaderBytes> header;
  static_assert(sizeof(fields) == kTensorHeaderBytes);
  std::memcpy(header.data(), fields, sizeof(fields));
  return header;
}

Result<TensorView> ParseTensor(Family family, std::string_view payload) {
  if (payload.size() < kTensorHeaderBytes) return Status::Corruption("tensor is cut off");
  uint32_t fields[6];
  std::memcpy(fields, payload.data(), sizeof(fields));
  if (fields[0] != kTensorMagic) return Status::Corruption("not a tensor");
  if (fields[1] != static_cast<uint32_t>(family))
    return Status::Corruption("tensor of another kind");
  if (fields[2] == 0 || fields[2] > 3) return Status::Corruption("tensor of unknown element type");
  TensorView view;
  view.shape = {static_cast<DataType>(fields[2]), fields[3], fields[4], fields[5]};
  const Result<size_t> expected =
      family == Family::kRouting ? RoutingBytes(view.shape) : BlocksBytes(view.shape);
  if (!expected.ok()) return Status::Corruption(expected.status().message());
  const std::string_view body = payload.substr(kTensorHeaderBytes);
  if (body.size() != *expected) {
    return Status::Corruption("tensor has " + std::to_string(body.size()) +
                              " bytes where its shape needs " + std::to_string(*expected));
  }
  view.bytes = std::as_bytes(std::span(body.data(), body.size()));
  return view;
}

}  // namespace msadb::storage
