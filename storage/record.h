// What is stored of one part of a document, and its bytes.
//
// A *part* is the unit of encoding and of storage: a document that fits the model is one part; a
// longer one is several parts with consecutive numbers n, n+1, ..., n+p-1. The document's id is n,
// the number of its first part. Key, metadata, provenance and times live in the first part only.
//
// Three values belong to a part:
//   record   PartRecord as a FlatBuffer (storage/record.fbs)
//   routing  routing keys, raw      [n_layers][n_chunks][dim]
//   blocks   content K and V, raw   [n_chunks][n_layers][2][dim], K before V. One chunk of all
//   layers
//            is one fixed-size *slot* (BlockSlotBytes): the unit of the block cache.
// n_layers counts routing layers; dim is n_kv_heads * head_dim. Storage carries elements as little
// endian bytes and records their type; conversion is the caller's business.
//
// Every stored value starts with an XXH3-64 over the column family, the key and the rest of the
// value. It is checked on every read, so neither flipped bytes nor a value under the wrong key is
// ever returned: the reader gets Corruption naming collection and number. docs/format.md has the
// layouts.
#ifndef MSADB_STORAGE_RECORD_H_
#define MSADB_STORAGE_RECORD_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "msadb/document.h"
#include "msadb/status.h"

namespace msadb::storage {

using CollectionId = uint32_t;  // allocated by Store::CreateCollection, from 1; never reused
using Number = uint64_t;        // of a part, from 1; never reused inside its collection

enum class DataType : uint8_t { kF32 = 1, kF16 = 2, kBF16 = 3 };

// 4 or 2; 0 for a value that is not a DataType.
size_t DataTypeBytes(DataType type);
const char* DataTypeName(DataType type);  // "f32", "f16", "bf16", "unknown"

struct TensorShape {
  DataType dtype = DataType::kF32;
  uint32_t n_layers = 0;
  uint32_t n_chunks = 0;
  uint32_t dim = 0;

  bool operator==(const TensorShape&) const = default;
};

// Bounds on what is written and on what is believed when read.
inline constexpr uint32_t kLayersMax = 1024;
inline constexpr uint32_t kChunksMax = 1u << 22;
inline constexpr uint32_t kDimMax = 1u << 16;
inline constexpr size_t kTensorBytesMax = size_t{1} << 30;  // one routing or blocks value
inline constexpr size_t kTextBytesMax = size_t{64} << 20;   // text of one part
inline constexpr size_t kKeyBytesMax = 64u << 10;
inline constexpr size_t kMetadataEntriesMax = 1024;
inline constexpr size_t kMetadataBytesMax = size_t{16} << 20;  // names and values together

// InvalidArgument when a dimension is 0 or past its bound, or the bytes would exceed
// kTensorBytesMax.
Result<size_t> RoutingBytes(const TensorShape& shape);  // n_layers * n_chunks * dim elements
Result<size_t> BlocksBytes(const TensorShape& shape);   // twice that
// Bytes of one slot, [n_layers][2][dim]. Offset of layer l inside a slot: l * 2 * dim elements.
size_t BlockSlotBytes(const TensorShape& shape);

// Bytes with their shape; does not own them.
struct TensorView {
  TensorShape shape;
  std::span<const std::byte> bytes;
};

struct PartRecord {
  // Every part.
  Number first_number = 0;  // the document's id; this part's number is first_number + part_index
  uint32_t part_index = 0;  // < part_count
  uint32_t part_count = 1;
  uint64_t text_offset = 0;  // bytes of the document's text before this part
  std::string text;          // UTF-8
  uint64_t text_bytes = 0;   // size of the stored text; set by reads, ignored by writes
  uint32_t token_count = 0;
  uint32_t chunk_count = 0;
  // Sizes of the stored routing keys and blocks; set by reads, WriteSet::PutPart stores them.
  uint64_t routing_bytes = 0;
  uint64_t blocks_bytes = 0;
  int64_t created_us = 0;  // microseconds since 1970-01-01 UTC

  // First part only (part_index 0); empty in the others.
  std::optional<std::string> key;
  Metadata metadata;
  std::string source;
  std::string written_by;  // empty in records from before it was stored
  std::optional<int64_t> expires_us;

  bool operator==(const PartRecord&) const = default;
};

// The FlatBuffer alone, without the checksum. InvalidArgument past a bound above, or when the part
// fields contradict each other.
Result<std::string> EncodePartRecord(const PartRecord& record);

enum class PartFields : uint8_t {
  kAll,
  kNoText,  // leaves PartRecord::text empty; for scans that look at metadata only
};

// Parses untrusted bytes: structure, bounds and the consistency of the fields are verified.
// Corruption says what is wrong (without context; Store adds collection and number).
Result<PartRecord> DecodePartRecord(std::string_view bytes, PartFields fields = PartFields::kAll);

}  // namespace msadb::storage

#endif  // MSADB_STORAGE_RECORD_H_
