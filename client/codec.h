// Between the public types and the tables of wire.fbs, for both ends of a connection.
//
// What comes in is untrusted: VerifyRequest and VerifyReply check the whole message before anything
// is read, with limits on depth and tables. A verified message may still use the same bytes many
// times over; the Decoder below counts what is copied out against the size of the message.
// No function here looks at what values mean: values/validate.h does.
#ifndef MSADB_CLIENT_CODEC_H_
#define MSADB_CLIENT_CODEC_H_

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "client/frame.h"
#include "client/wire_generated.h"
#include "msadb/database.h"

namespace msadb::wire {

inline constexpr uint32_t kDepthMax = 16;
inline constexpr uint32_t kTablesMax = 4096;
// What a sender puts into one message of many: a message is closed when it has reached either. Well
// below what a receiver takes, whatever a single document adds.
inline constexpr size_t kBatchBytes = 1u << 20;
inline constexpr size_t kBatchTables = 2048;

// The payload's root, valid as long as the payload. InvalidArgument: damaged, too deep, or too many
// tables. A body of a kind unknown here passes: answer it with Unsupported.
Result<const fb::Request*> VerifyRequest(std::span<const uint8_t> payload);
Result<const fb::Reply*> VerifyReply(std::span<const uint8_t> payload);

using Builder = flatbuffers::FlatBufferBuilder;

// Finishes the message and returns its bytes; empties the builder.
template <typename Table>
std::vector<uint8_t> FinishRequest(Builder* b, flatbuffers::Offset<Table> body,
                                   uint64_t timeout_ms = 0) {
  b->Finish(
      fb::CreateRequest(*b, timeout_ms, fb::RequestBodyTraits<Table>::enum_value, body.Union()));
  std::vector<uint8_t> bytes(b->GetBufferPointer(), b->GetBufferPointer() + b->GetSize());
  b->Clear();
  return bytes;
}
template <typename Table>
std::vector<uint8_t> FinishReply(Builder* b, flatbuffers::Offset<Table> body) {
  b->Finish(fb::CreateReply(*b, fb::ReplyBodyTraits<Table>::enum_value, body.Union()));
  std::vector<uint8_t> bytes(b->GetBufferPointer(), b->GetBufferPointer() + b->GetSize());
  b->Clear();
  return bytes;
}

flatbuffers::Offset<flatbuffers::String> EncodeText(Builder* b, std::string_view text);
// Null offset (absent field) for nullopt.
flatbuffers::Offset<flatbuffers::String> EncodeOptional(Builder* b,
                                                        const std::optional<std::string>& text);
flatbuffers::Offset<flatbuffers::String> EncodeFilter(Builder* b,
                                                      const std::optional<Filter>& where);
flatbuffers::Offset<fb::NewDocument> Encode(Builder* b, const NewDocument& document);
flatbuffers::Offset<fb::Document> Encode(Builder* b, const Document& document);
flatbuffers::Offset<fb::Hit> Encode(Builder* b, const SearchHit& hit);
flatbuffers::Offset<fb::Answer> Encode(Builder* b, const msadb::Answer& answer);
flatbuffers::Offset<fb::CollectionNumbers> Encode(Builder* b, const msadb::CollectionStats& stats);
flatbuffers::Offset<fb::DatabaseStats> Encode(Builder* b, const msadb::DatabaseStats& stats);
flatbuffers::Offset<fb::VerifyReport> Encode(Builder* b, const msadb::VerifyReport& report);
flatbuffers::Offset<fb::Error> Encode(Builder* b, const Status& status, uint64_t committed);
fb::Limits Encode(const msadb::Limits& limits);
std::vector<uint8_t> ErrorReply(const Status& status, uint64_t committed = 0);

// Tables that Encode makes of it, and bytes, roughly: to close batches in time.
size_t TableCount(const Metadata& metadata);
size_t ByteCount(const NewDocument& document);
size_t ByteCount(const Document& document);
size_t ByteCount(const SearchHit& hit);

// Copies values out of one verified message. Every method returns InvalidArgument when the message
// uses its bytes more than once; the targets are then unspecified. Absent fields are empty values.
class Decoder {
 public:
  explicit Decoder(size_t message_bytes) : bytes_left_(message_bytes) {}

  Status Read(const flatbuffers::String* in, std::string* out);
  Status Read(const flatbuffers::String* in, std::optional<std::string>* out);
  Status Read(const flatbuffers::String* in, std::optional<Filter>* out);
  Status Read(const flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>>* in,
              std::vector<std::string>* out);
  Status Read(const flatbuffers::Vector<flatbuffers::Offset<fb::Value>>* in, Metadata* out);
  Status Read(const fb::NewDocument* in, NewDocument* out);
  Status Read(const fb::Document* in, Document* out);
  Status Read(const fb::Hit* in, SearchHit* out);
  Status Read(const fb::Answer* in, msadb::Answer* out);
  Status Read(const fb::CollectionNumbers* in, msadb::CollectionStats* out);
  Status Read(const fb::DatabaseStats* in, msadb::DatabaseStats* out);
  Status Read(const fb::VerifyReport* in, msadb::VerifyReport* out);

 private:
  Status Take(size_t bytes);
  template <typename T>
  Status ReadNumbers(const flatbuffers::Vector<T>* in, std::vector<T>* out);

  size_t bytes_left_;
};

// The Status of an Error message; Internal when its code is none.
Status ReadError(const fb::Error& error);
msadb::Limits ReadLimits(const fb::Limits* limits);

}  // namespace msadb::wire

#endif  // MSADB_CLIENT_CODEC_H_
