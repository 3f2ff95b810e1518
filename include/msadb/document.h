// What a program stores and gets back.
#ifndef MSADB_DOCUMENT_H_
#define MSADB_DOCUMENT_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace msadb {

// The number of a document inside its collection, from 1 upward in order of encoding. It is part of
// what the model reads and cites ("[17]"), fixed for the life of the document and never reused.
// A document too long for the model is stored as several parts with consecutive numbers; its id is
// the number of the first part.
using DocumentId = uint64_t;

using TimePoint = std::chrono::time_point<std::chrono::system_clock, std::chrono::microseconds>;

// Metadata: a flat map of typed values, searchable with Filter (msadb/filter.h).
using MetadataValue = std::variant<std::string, int64_t, double, bool, std::vector<std::string>>;
using Metadata = std::map<std::string, MetadataValue>;

// A document to insert. Limits are those of `Limits` in options.h; what exceeds one is refused with
// InvalidArgument and nothing is stored.
struct NewDocument {
  std::string text;  // UTF-8, more than white space; stored and returned byte for byte
  std::optional<std::string> key;  // the caller's own name for it, unique in the collection
  Metadata metadata;               // names: 1..256 bytes, not starting with '$'; finite numbers
  std::string source;  // where it comes from, in the writer's words: free text, may be empty
  // Who wrote it: up to 256 bytes without control characters, empty when nobody said. A program
  // that embeds msadb sets it as it likes. Through a server it is the name of the token that wrote,
  // whatever stands here.
  std::string written_by;
  std::optional<TimePoint> expires_at;  // from then on invisible, and deleted soon after
  std::optional<TimePoint> created_at;  // default: now. For imports and migrations.
};

// One stored stretch of a document: what the model encodes as a unit and cites by number.
struct DocumentPart {
  DocumentId number = 0;
  uint64_t text_offset = 0;  // bytes from the start of Document::text
  uint64_t text_size = 0;    // bytes
  uint32_t token_count = 0;  // tokens the model encoded, template and number included
  uint32_t chunk_count = 0;  // pooled chunks, ceil(token_count / chunk size)
};

struct Document {
  DocumentId id = 0;
  std::string text;
  std::optional<std::string> key;
  Metadata metadata;
  std::string source;
  std::string written_by;  // empty: not recorded
  TimePoint created_at{};
  std::optional<TimePoint> expires_at;
  std::vector<DocumentPart> parts;  // at least one, ascending, contiguous over `text`
};

}  // namespace msadb

#endif  // MSADB_DOCUMENT_H_
