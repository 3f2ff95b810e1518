// Between the public types and what people type and read: times, durations and (server/json_forms.h) JSON.
#ifndef MSADB_CLI_VALUES_H_
#define MSADB_CLI_VALUES_H_

#include <chrono>
#include <string>
#include <string_view>

#include "cli/printer.h"
#include "msadb/msadb.h"
#include "server/json_forms.h"

namespace msadb::cli {

// A duration from now ("90s", "15m", "12h", "30d", "2w"), or a time in UTC ("2026-12-31",
// "2026-12-31T23:59:59Z").
Result<TimePoint> ParseExpiry(std::string_view text, TimePoint now);
// "250ms", "90s", "15m", "12h", "30d", "2w"; a bare number is seconds. At most 100 years.
Result<std::chrono::milliseconds> ParseDuration(std::string_view text);
TimePoint Now();

}  // namespace msadb::cli

#endif  // MSADB_CLI_VALUES_H_
