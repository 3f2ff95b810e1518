// Between the public types and what people type and read: JSON, times and durations.
#ifndef MSADB_CLI_VALUES_H_
#define MSADB_CLI_VALUES_H_

#include <chrono>
#include <string>
#include <string_view>

#include "cli/printer.h"
#include "msadb/msadb.h"

namespace msadb::cli {

// A duration from now ("90s", "15m", "12h", "30d", "2w"), or a time in UTC ("2026-12-31",
// "2026-12-31T23:59:59Z").
Result<TimePoint> ParseExpiry(std::string_view text, TimePoint now);
// "250ms", "90s", "15m", "12h", "30d", "2w"; a bare number is seconds. At most 100 years.
Result<std::chrono::milliseconds> ParseDuration(std::string_view text);
TimePoint Now();

Json ToJson(const Metadata& metadata);
Json ToJson(const Document& document, bool with_text);
Json ToJson(const SearchHit& hit);
Json ToJson(const Answer& answer, bool with_trace);
Json ToJson(const CollectionStats& stats);
Json ToJson(const DatabaseStats& stats);

}  // namespace msadb::cli

#endif  // MSADB_CLI_VALUES_H_
