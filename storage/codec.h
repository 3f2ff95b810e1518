// Keys and sealed values as they are in RocksDB (docs/format.md). Internal to storage.
//
// Integers in keys are big endian, so that bytes sort as numbers; in values little endian.
#ifndef MSADB_STORAGE_CODEC_H_
#define MSADB_STORAGE_CODEC_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "msadb/status.h"
#include "storage/record.h"

namespace msadb::storage {

enum class Family : uint8_t { kMeta, kDocuments, kKeys, kExpiry, kRouting, kBlocks };
inline constexpr size_t kFamilyCount = 6;
// "meta" is RocksDB's own "default" family, which must exist anyway.
const char* FamilyName(Family family);         // for people
const char* FamilyRocksdbName(Family family);  // in the files

// A key of fixed, small size, built without allocating.
class KeyBytes {
 public:
  KeyBytes() = default;
  void Append8(uint8_t v) { bytes_[size_++] = static_cast<char>(v); }
  void Append32(uint32_t v);
  void Append64(uint64_t v);
  void Append(std::string_view v);  // at most what is left of kCapacity
  std::string_view view() const { return {bytes_.data(), size_}; }

 private:
  static constexpr size_t kCapacity = 80;
  std::array<char, kCapacity> bytes_;
  size_t size_ = 0;
};

// documents, routing, blocks: collection (4), number (8).
KeyBytes PartKey(CollectionId collection, Number number);
struct PartKeyFields {
  CollectionId collection = 0;
  Number number = 0;
};
std::optional<PartKeyFields> ParsePartKey(std::string_view key);

// keys: collection (4), first 16 bytes of SHA-256 of the user key. A hash, because RocksDB repeats
// keys in its MANIFEST and its indexes, where a deleted user key must not linger.
KeyBytes UserKeyHash(CollectionId collection, std::string_view user_key);
inline constexpr size_t kUserKeyHashBytes = 20;

// expiry: collection (4), microseconds with the sign bit flipped (8), number (8).
KeyBytes ExpiryKey(CollectionId collection, int64_t expires_us, Number number);
struct ExpiryKeyFields {
  CollectionId collection = 0;
  int64_t expires_us = 0;
  Number number = 0;
};
std::optional<ExpiryKeyFields> ParseExpiryKey(std::string_view key);

// All keys of a collection in any family but meta: [CollectionKey(id), CollectionKey(id + 1)).
KeyBytes CollectionKey(CollectionId collection);

// meta: one letter, then what it is about.
KeyBytes FormatKey();                          // format version
KeyBytes ModelKey();                           // fingerprint and description
KeyBytes CountersKey();                        // commits, next collection id, deleted bytes
KeyBytes PurgedKey();                          // deleted bytes at the last complete purge
KeyBytes CollectionNameKey(CollectionId id);   // creation time and name
KeyBytes CollectionStatsKey(CollectionId id);  // next number and statistics
KeyBytes SettingKey(std::string_view name);
inline constexpr char kCollectionNameTag = 'C';
inline constexpr char kCollectionStatsTag = 'S';
inline constexpr char kSettingTag = 'U';

// Little endian fields appended to and taken from a value.
void PutFixed32(std::string* out, uint32_t v);
void PutFixed64(std::string* out, uint64_t v);
bool GetFixed32(std::string_view* in, uint32_t* v);
bool GetFixed64(std::string_view* in, uint64_t* v);

// A sealed value is XXH3-64(family, key, payload) followed by the payload.
inline constexpr size_t kSealBytes = 8;
std::string Seal(Family family, std::string_view key, std::string_view payload);
// The seal of a payload in two pieces, for large values that are not copied together.
std::array<char, kSealBytes> SealOf(Family family, std::string_view key, std::string_view head,
                                    std::string_view body);
// The payload, or nothing when the seal does not match.
std::optional<std::string_view> Unseal(Family family, std::string_view key, std::string_view value);

// Payload of routing and blocks: a header, then the elements.
inline constexpr size_t kTensorHeaderBytes = 24;
std::array<char, kTensorHeaderBytes> TensorHeader(Family family, const TensorShape& shape);
// Checks everything about the header and that the bytes are as many as the shape says.
Result<TensorView> ParseTensor(Family family, std::string_view payload);

}  // namespace msadb::storage

#endif  // MSADB_STORAGE_CODEC_H_
