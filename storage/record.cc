#include "storage/record.h"

#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "record_generated.h"

namespace msadb::storage {
namespace {

// FlatBuffers walks nested tables; ours nest once. The margin is for fields added later.
constexpr flatbuffers::uoffset_t kDepthMax = 16;
constexpr flatbuffers::uoffset_t kTablesMax = 4096;
// Everything a record may hold, with room for offsets and padding.
constexpr size_t kRecordBytesMax =
    kTextBytesMax + kMetadataBytesMax + 5 * kKeyBytesMax + (1u << 20);

Status Contradiction(std::string_view what) {
  return Status::InvalidArgument("part record: " + std::string(what));
}

// What holds for every well-formed part, written or read.
const char* CheckPart(const PartRecord& r, size_t text_bytes) {
  if (r.part_count == 0 || r.part_index >= r.part_count)
    return "part index is not below part count";
  if (r.first_number == 0) return "document number 0";
  if (r.first_number > UINT64_MAX - r.part_count) return "document number is too large";
  if (text_bytes > kTextBytesMax) return "text is longer than 64 MiB";
  if (r.chunk_count > kChunksMax) return "too many chunks";
  if (r.routing_bytes > kTensorBytesMax || r.blocks_bytes > kTensorBytesMax) {
    return "routing keys or blocks are larger than 1 GiB";
  }
  if (r.part_index > 0 && (r.key || !r.metadata.empty() || !r.source.empty() ||
                           !r.written_by.empty() || r.expires_us)) {
    return "key, metadata, provenance and expiry belong to the first part";
  }
  if (r.part_index == 0 && r.text_offset != 0) return "the first part's text does not begin at 0";
  return nullptr;
}

size_t ValueBytes(const MetadataValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return text->size();
  if (const auto* list = std::get_if<std::vector<std::string>>(&value)) {
    size_t bytes = 0;
    for (const std::string& item : *list) bytes += item.size() + sizeof(uint32_t);
    return bytes;
  }
  return sizeof(int64_t);
}

flatbuffers::Offset<fb::MetadataEntry> PackEntry(flatbuffers::FlatBufferBuilder& builder,
                                                 const std::string& name,
                                                 const MetadataValue& value) {
  const auto name_offset = builder.CreateString(name);
  flatbuffers::Offset<flatbuffers::String> text;
  flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>>> list;
  if (const auto* v = std::get_if<std::string>(&value)) text = builder.CreateString(*v);
  if (const auto* v = std::get_if<std::vector<std::string>>(&value)) {
    list = builder.CreateVectorOfStrings(*v);
  }
  fb::MetadataEntryBuilder entry(builder);
  entry.add_name(name_offset);
  if (!text.IsNull()) {
    entry.add_type(fb::ValueType::Text);
    entry.add_text(text);
  } else if (!list.IsNull()) {
    entry.add_type(fb::ValueType::TextList);
    entry.add_text_list(list);
  } else if (const auto* v = std::get_if<int64_t>(&value)) {
    entry.add_type(fb::ValueType::Integer);
    entry.add_integer(*v);
  } else if (const auto* v = std::get_if<double>(&value)) {
    entry.add_type(fb::ValueType::Real);
    entry.add_real(*v);
  } else {
    entry.add_type(fb::ValueType::Boolean);
    entry.add_boolean(std::get<bool>(value));
  }
  return entry.Finish();
}

// Null when the entry holds what its type says.
const char* UnpackEntry(const fb::MetadataEntry& entry, MetadataValue* value) {
  switch (entry.type()) {
    case fb::ValueType::Text:
      if (entry.text() == nullptr) return "metadata text is missing";
      *value = entry.text()->str();
      return nullptr;
    case fb::ValueType::Integer:
      *value = entry.integer();
      return nullptr;
    case fb::ValueType::Real:
      *value = entry.real();
      return nullptr;
    case fb::ValueType::Boolean:
      *value = entry.boolean();
      return nullptr;
    case fb::ValueType::TextList: {
      if (entry.text_list() == nullptr) return "metadata list is missing";
      std::vector<std::string> list;
      list.reserve(entry.text_list()->size());
      for (const flatbuffers::String* item : *entry.text_list()) list.push_back(item->str());
      *value = std::move(list);
      return nullptr;
    }
  }
  return "metadata of an unknown type";
}

Result<size_t> ShapeBytes(const TensorShape& shape, size_t factor) {
  const size_t element = DataTypeBytes(shape.dtype);
  if (element == 0) return Status::InvalidArgument("tensor: unknown element type");
  if (shape.n_layers == 0 || shape.n_chunks == 0 || shape.dim == 0) {
    return Status::InvalidArgument("tensor: a dimension is 0");
  }
  if (shape.n_layers > kLayersMax || shape.n_chunks > kChunksMax || shape.dim > kDimMax) {
    return Status::InvalidArgument("tensor: a dimension is past its bound (layers 1024, chunks " +
                                   std::to_string(kChunksMax) + ", dim " + std::to_string(kDimMax) +
                                   ")");
  }
  // At most 2^10 * 2^22 * 2^16 * 2^3: no overflow in 64 bits.
  const size_t bytes = size_t{shape.n_layers} * shape.n_chunks * shape.dim * element * factor;
  if (bytes > kTensorBytesMax) {
    return Status::InvalidArgument(
        "tensor: " + std::to_string(bytes) +
        " bytes are more than 1 GiB; divide the text into smaller parts");
  }
  return bytes;
}

}  // namespace

size_t DataTypeBytes(DataType type) {
  switch (type) {
    case DataType::kF32:
      return 4;
    case DataType::kF16:
    case DataType::kBF16:
      return 2;
  }
  return 0;
}

const char* DataTypeName(DataType type) {
  switch (type) {
    case DataType::kF32:
      return "f32";
    case DataType::kF16:
      return "f16";
    case DataType::kBF16:
      return "bf16";
  }
  return "unknown";
}

Result<size_t> RoutingBytes(const TensorShape& shape) { return ShapeBytes(shape, 1); }
Result<size_t> BlocksBytes(const TensorShape& shape) { return ShapeBytes(shape, 2); }

size_t BlockSlotBytes(const TensorShape& shape) {
  return size_t{shape.n_layers} * 2 * shape.dim * DataTypeBytes(shape.dtype);
}

Result<std::string> EncodePartRecord(const PartRecord& record) try {
  if (const char* wrong = CheckPart(record, record.text.size())) return Contradiction(wrong);
  if (record.key && record.key->size() > kKeyBytesMax) {
    return Contradiction("key is longer than 64 KiB");
  }
  if (record.source.size() > kKeyBytesMax) return Contradiction("source is longer than 64 KiB");
  if (record.written_by.size() > kKeyBytesMax) {
    return Contradiction("written_by is longer than 64 KiB");
  }
  if (record.metadata.size() > kMetadataEntriesMax) {
    return Contradiction("more than 1024 metadata entries");
  }
  size_t metadata_bytes = 0;
  for (const auto& [name, value] : record.metadata) {
    metadata_bytes += name.size() + ValueBytes(value);
  }
  if (metadata_bytes > kMetadataBytesMax) return Contradiction("metadata is larger than 16 MiB");

  flatbuffers::FlatBufferBuilder builder(record.text.size() + 512);
  const auto text = builder.CreateString(record.text);
  flatbuffers::Offset<flatbuffers::String> key, source, written_by;
  if (record.key) key = builder.CreateString(*record.key);
  if (!record.source.empty()) source = builder.CreateString(record.source);
  if (!record.written_by.empty()) written_by = builder.CreateString(record.written_by);
  flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<fb::MetadataEntry>>> metadata;
  if (!record.metadata.empty()) {
    std::vector<flatbuffers::Offset<fb::MetadataEntry>> entries;
    entries.reserve(record.metadata.size());
    for (const auto& [name, value] : record.metadata) {
      entries.push_back(PackEntry(builder, name, value));
    }
    metadata = builder.CreateVector(entries);
  }
  fb::PartBuilder part(builder);
  part.add_first_number(record.first_number);
  part.add_part_index(record.part_index);
  part.add_part_count(record.part_count);
  part.add_text_offset(record.text_offset);
  part.add_text(text);
  part.add_token_count(record.token_count);
  part.add_chunk_count(record.chunk_count);
  part.add_routing_bytes(record.routing_bytes);
  part.add_blocks_bytes(record.blocks_bytes);
  part.add_created_us(record.created_us);
  if (record.expires_us) part.add_expires_us(*record.expires_us);
  if (!key.IsNull()) part.add_key(key);
  if (!source.IsNull()) part.add_source(source);
  if (!metadata.IsNull()) part.add_metadata(metadata);
  if (!written_by.IsNull()) part.add_written_by(written_by);
  builder.Finish(part.Finish());
  return std::string(reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize());
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to encode a part record");
}

Result<PartRecord> DecodePartRecord(std::string_view bytes, PartFields fields) try {
  if (bytes.size() > kRecordBytesMax) return Status::Corruption("record is too large");
  // FlatBuffers reads scalars in place and needs their alignment; stored values have none.
  const size_t words = (bytes.size() + sizeof(uint64_t) - 1) / sizeof(uint64_t);
  const auto aligned = std::make_unique_for_overwrite<uint64_t[]>(words + 1);
  if (!bytes.empty()) std::memcpy(aligned.get(), bytes.data(), bytes.size());
  const auto* buffer = reinterpret_cast<const uint8_t*>(aligned.get());
  flatbuffers::Verifier verifier(buffer, bytes.size(), kDepthMax, kTablesMax);
  if (!fb::VerifyPartBuffer(verifier))
    return Status::Corruption("record is not a valid FlatBuffer");

  const fb::Part& part = *fb::GetPart(buffer);
  PartRecord record;
  record.first_number = part.first_number();
  record.part_index = part.part_index();
  record.part_count = part.part_count();
  record.text_offset = part.text_offset();
  record.text_bytes = part.text()->size();
  record.token_count = part.token_count();
  record.chunk_count = part.chunk_count();
  record.routing_bytes = part.routing_bytes();
  record.blocks_bytes = part.blocks_bytes();
  record.created_us = part.created_us();
  if (const auto expires = part.expires_us()) record.expires_us = *expires;
  if (part.key() != nullptr) record.key = part.key()->str();
  if (part.source() != nullptr) record.source = part.source()->str();
  if (part.written_by() != nullptr) record.written_by = part.written_by()->str();
  if (part.metadata() != nullptr) {
    if (part.metadata()->size() > kMetadataEntriesMax) {
      return Status::Corruption("record has too many metadata entries");
    }
    for (const fb::MetadataEntry* entry : *part.metadata()) {
      MetadataValue value;
      if (const char* wrong = UnpackEntry(*entry, &value)) return Status::Corruption(wrong);
      if (!record.metadata.emplace(entry->name()->str(), std::move(value)).second) {
        return Status::Corruption("a metadata name occurs twice");
      }
    }
  }
  if (fields == PartFields::kAll) record.text = part.text()->str();
  if (const char* wrong = CheckPart(record, record.text_bytes)) return Status::Corruption(wrong);
  return record;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to read a part record");
}

}  // namespace msadb::storage
