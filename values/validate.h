// Checks of everything a caller hands in, made before anything is allocated, encoded or locked.
// Every failure is InvalidArgument and its message says what was wrong and what to do.
#ifndef MSADB_VALUES_VALIDATE_H_
#define MSADB_VALUES_VALIDATE_H_

#include <cstddef>
#include <string_view>

#include "msadb/document.h"
#include "msadb/options.h"
#include "msadb/status.h"

namespace msadb::values {

// Metadata names: 1..256 bytes of UTF-8, no control characters, not starting with '$' (those are
// operators and provenance names of Filter).
inline constexpr size_t kMetadataNameBytesMax = 256;
inline constexpr size_t kWriterBytesMax = 256;  // NewDocument::written_by
inline constexpr size_t kCollectionNameBytesMax = 128;
inline constexpr size_t kSearchTopKMax = 1000;
inline constexpr size_t kListLimitMax = 10'000;

Status ValidateOptions(const Options& options);
Status ValidateCollectionName(std::string_view name);
Status ValidateKey(std::string_view key, const Limits& limits);
Status ValidateMetadata(const Metadata& metadata, const Limits& limits);
// Everything but the expiry, which depends on the clock.
Status ValidateDocument(const NewDocument& document, const Limits& limits);
Status ValidateExpiry(const NewDocument& document, TimePoint now);
Status ValidateQuestion(std::string_view question, const Limits& limits);
Status ValidateSearch(const SearchOptions& options);
Status ValidateAsk(const AskOptions& options);
Status ValidateList(const ListOptions& options);

// Bytes of names and values together: what Limits::metadata_bytes_max bounds.
size_t MetadataBytes(const Metadata& metadata);

}  // namespace msadb::values

#endif  // MSADB_VALUES_VALIDATE_H_
